"""``/healthcheck``: is this process up? ``/readyz``: and is what it shows true?"""

from __future__ import annotations

import time

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.api.callers import text
from dashboard.api.tasks import answer
from dashboard.queries import feed as queries
from dashboard.queries.shared import reading

SHARED = 1.0  # seconds that callers share a reading: anyone may ask


@access.everyone
@csrf_exempt
@require_safe
def healthcheck(request: HttpRequest) -> HttpResponse:
    """Always OK, when anything answers at all: restart the process when it does not."""
    return text("OK")


@access.everyone
@csrf_exempt
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """503 with the reasons while the picture is not whole; in single words, since anyone may ask."""
    reasons = reading("ready", SHARED, lambda: troubles(time.time()))
    return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


def troubles(now: float) -> list[str]:
    """``database``, ``engine``, ``broker``, ``store``, ``lag``, ``imbalance``: what is wrong now."""
    try:
        fresh = queries.freshness(now)
    except DatabaseError:
        return ["database"]
    if fresh.at is None or fresh.silent:
        return ["engine"]
    feed = fresh.feed
    found = {
        "broker": not feed.connected,
        "store": bool(feed.store_error),
        "lag": (feed.lag or 0.0) > queries.TOO_LATE,
        "imbalance": not feed.accounting.balanced,
    }
    return [name for name, wrong in found.items() if wrong]
