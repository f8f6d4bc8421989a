"""When runs of a task name count as slow or stuck: set by people, or back to automatic."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from dashboard.controls import actor, admit, back, control, reason
from dashboard.forms.workers import text
from dashboard.queries import usual
from monitor import publish
from monitor.control import Command
from monitor.control import thresholds as engine
from monitor.deltas import TASKS


@control("threshold")
def thresholds(request: HttpRequest) -> HttpResponse:
    """``slow`` and ``stuck`` in seconds for the task called ``name``; with ``reset`` neither."""
    name = text(request.POST.get("name"))
    if "reset" in request.POST:
        command = Command("threshold_reset", (name,), reason=reason(request))
        admit(request, command, "threshold")
        changed = engine.reset(command, actor(request))
    else:
        slow = engine.seconds(request.POST.get("slow", ""), "Slow after")
        stuck = engine.seconds(request.POST.get("stuck", ""), "Stuck after")
        engine.checked(name, slow, stuck)
        given = {
            word: f"{value:g} s" for word, value in (("slow", slow), ("stuck", stuck)) if value is not None
        }
        command = Command("threshold_set", (name,), given, reason=reason(request))
        admit(request, command, "threshold")
        changed = engine.set_to(command, actor(request), slow, stuck)
    usual.forget()
    if changed:
        publish.announce({usual.TOPIC, TASKS})
    if request.headers.get("HX-Request") != "true":
        return redirect(back(request))
    return render(
        request, "thresholds/_toast.html", {"name": name, "after": usual.after(name), "changed": changed}
    )
