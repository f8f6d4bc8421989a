"""The tasks page and the page of one task."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.forms.tasks import SORTS, SPAN_WORDS, task_filter
from dashboard.fragments import Page
from dashboard.fragments.tasks import why_not_control
from dashboard.queries import runs
from dashboard.queries import task as one
from dashboard.queries import tasks as many


@access.viewer
@require_safe
def task_list(request: HttpRequest) -> HttpResponse:
    """Which tasks: filters in the URL, rows in regions."""
    page = Page.of(request)
    context = {
        **{"title": "Tasks", "page": page, "asked": task_filter(request.GET), "choices": many.choices()},
        **{"spans": SPAN_WORDS.items(), "sorts": SORTS.items(), "why_not": why_not_control(page)},
    }
    return render(request, "tasks/tasks.html", context)


@access.viewer
@require_safe
def task(request: HttpRequest, uuid: str) -> HttpResponse:
    """What happened to this one, and where the time went."""
    if not one.exists(uuid):
        name = runs.name_of(uuid)
        if name is not None:
            # Sent from here, and not seen yet: the same page, which fills when it is.
            title = f"{name.rpartition('.')[2][:60]} {uuid[:8]}"
            return render(request, "tasks/task.html", {"title": title, "uuid": uuid})
        context = {"title": "Task not known", "uuid": uuid, "mentions": many.mentions(uuid)}
        return render(request, "tasks/unknown.html", context, status=404)
    return render(request, "tasks/task.html", {"title": one.title(uuid), "uuid": uuid})
