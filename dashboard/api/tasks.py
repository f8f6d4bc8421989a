"""``/api/tasks``, ``/api/task/info`` and ``/api/task/types``."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
from django.http import HttpRequest, HttpResponse

from dashboard.api.arguments import Wrong, chosen, integer, moment, shown, string
from dashboard.api.callers import caller
from dashboard.queries import api as queries

SORTS = ("name", "received", "started", "state")
JSON = "application/json; charset=UTF-8"


@caller
def task_list(request: HttpRequest) -> HttpResponse:
    """``{uuid: task}``, newest first; 10,000 at most, and then a Link header to what follows."""
    limit, offset = integer(request, "limit"), max(integer(request, "offset") or 0, 0)
    sort = string(request, "sort_by") or ""
    if sort and sort.lstrip("-") not in SORTS:
        raise Wrong(400, f"Invalid sort_by '{shown(sort)}', expected one of {', '.join(SORTS)}")
    asked = queries.Asked(
        limit=queries.MOST if limit is None else max(0, min(limit, queries.MOST)),
        offset=offset,
        sort=sort,
        worker=chosen(request, "workername"),
        name=chosen(request, "taskname"),
        state=chosen(request, "state"),
        received_after=moment(request, "received_start"),
        received_before=moment(request, "received_end"),
        search=string(request, "search") or "",
    )
    try:
        found = queries.tasks(asked)
    except queries.SearchError as wrong:
        return answer({"error": str(wrong)}, 400)
    response = answer(found.tasks)
    response["X-Umbel-Limit"] = str(queries.MOST)
    if found.partly:
        response["X-Umbel-Search"] = "partly"
    if found.more and (limit is None or limit > queries.MOST):
        following = request.GET.dict() | {"offset": str(offset + queries.MOST)}
        if limit is not None:
            following["limit"] = str(limit - queries.MOST)
        response["Link"] = f'<{request.path}?{urlencode(following)}>; rel="next"'
    return response


@caller
def task_info(request: HttpRequest, uuid: str = "") -> HttpResponse:
    """One task."""
    found = queries.task(uuid)
    if found is None:
        raise Wrong(404, f"Unknown task '{shown(uuid)}'")
    return answer(found)


@caller
def task_types(request: HttpRequest) -> HttpResponse:
    """Every task name seen."""
    return answer({"task-types": queries.task_types()})


def answer(values: object, status: int = 200) -> HttpResponse:
    """As JSON."""
    return HttpResponse(msgspec.json.encode(values), status=status, content_type=JSON)
