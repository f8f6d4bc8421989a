"""The tasks page and the page of one task."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.forms.tasks import SORTS, SPAN_WORDS, task_filter
from dashboard.fragments import Page, notes
from dashboard.fragments.tasks import selects, threshold_form, why_not_control
from dashboard.queries import chords, ladders, runs
from dashboard.queries import notes as queries
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
        "selects": selects(page),
    }
    about = notes.on_name(page)
    context |= {"on_name": about[0].subject if about else "", **notes.form(about)}
    return render(request, "tasks/tasks.html", context)


@access.viewer
@require_safe
def task(request: HttpRequest, uuid: str) -> HttpResponse:
    """What happened to this one, and where the time went; or only the toast of its last steps."""
    if request.GET.get("fragment") == "toast" and (steps := ladders.of(uuid)):
        return render(request, "tasks/_steps_toast.html", {"one": steps[0]})
    # Sent from here, and not seen yet: the same page, which fills when it is.
    name = one.name(uuid)
    name = runs.name_of(uuid) if name is None else name
    if name is None:
        context = {"title": "Task not known", "uuid": uuid, "mentions": many.mentions(uuid)}
        context["chord"] = chords.of_body(uuid)
        return render(request, "tasks/unknown.html", context, status=404)
    context = {
        **{"title": one.title(name, uuid), "uuid": uuid},
        **notes.form(queries.of_task(uuid, name)),
        **threshold_form(name),
    }
    return render(request, "tasks/task.html", context)
