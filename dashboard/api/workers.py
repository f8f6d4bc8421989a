"""``/api/workers``."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from dashboard.api.arguments import Wrong, boolean, shown, string
from dashboard.api.callers import caller
from dashboard.api.tasks import answer
from dashboard.queries import api as queries
from monitor.control import Unreachable

# Flower's words for a broker that cannot be asked.
UNAVAILABLE = "Broker or result backend unavailable"


@caller
def worker_list(request: HttpRequest) -> HttpResponse:
    """What each worker last said of itself; with ``status``, only whether it is there."""
    refresh, status = boolean(request, "refresh"), boolean(request, "status")
    name = string(request, "workername") or ""
    if status:
        return answer(queries.statuses())
    try:
        found = queries.workers(name, refresh)
    except Unreachable as error:
        raise Wrong(503, UNAVAILABLE) from error
    if name and not found:
        raise Wrong(404, f"Unknown worker '{shown(name)}'")
    return answer(found)
