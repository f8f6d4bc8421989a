"""The tasks page, and the page of one task."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.forms.tasks import PACES, RANGE_WORDS, SORTS, Filters
from dashboard.queries import task as task_queries
from dashboard.queries import tasks as queries


@access.viewer
@require_safe
def task_list(request: HttpRequest) -> HttpResponse:
    """Tasks by the filters in the URL."""
    filters = Filters.of(request.GET)
    context = {
        "title": "Tasks",
        "filters": filters,
        "ranges": RANGE_WORDS.items(),
        "sorts": SORTS.items(),
        "paces": PACES.items(),
        "names": queries.choices("name"),
        "workers": queries.choices("worker"),
        "queues": queries.choices("queue"),
        "from": request.GET.get("from", ""),
        "to": request.GET.get("to", ""),
        "may": access.can_control(request),
    }
    return render(request, "tasks/list.html", context)


@access.viewer
@require_safe
def task(request: HttpRequest, uuid: str) -> HttpResponse:
    """One task; 404 with what Umbel knows when it never saw it."""
    if not task_queries.exists(uuid):
        return render(request, "tasks/unknown.html", {"title": "Task", "uuid": uuid[:155]}, status=404)
    return render(request, "tasks/task.html", {"title": task_queries.title(uuid), "uuid": uuid})
