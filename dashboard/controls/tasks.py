"""Revoke and terminate tasks: one, or a selection."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from dashboard.controls import confirmed, control, is_htmx, perform_once
from dashboard.queries import blast
from monitor.control import Actor, Command
from monitor.models import ControlRecord


@control
def revoke(request: HttpRequest, actor: Actor) -> ControlRecord:
    """Waiting tasks will not run. A running one is not touched."""
    reason = request.POST.get("reason", "")
    return perform_once(Command("revoke", _targets(request), reason=reason), actor)


@confirmed
def terminate(request: HttpRequest, actor: Actor) -> ControlRecord | HttpResponse:
    """Running tasks are ended, after a look at what that hits. A POST without a signal asks first, too."""
    if request.method == "POST" and "signal" in request.POST:
        arguments = {"signal": request.POST["signal"]}
        reason = request.POST.get("reason", "")
        return perform_once(Command("terminate", _targets(request), arguments, reason=reason), actor)
    context = {"hit": blast.hit(_targets(request)), "title": "Terminate", "signals": SIGNALS}
    return render(request, "tasks/_terminate.html" if is_htmx(request) else "tasks/terminate.html", context)


# Value, name, what it does; the first is chosen.
SIGNALS = [
    ("SIGTERM", "Terminate", "Ends the process. Clean-up code may not run."),
    ("SIGUSR1", "Interrupt", "Raises SoftTimeLimitExceeded, so the task can clean up."),
    ("SIGKILL", "Kill", "Cannot be ignored. Use when terminate had no effect."),
    ("SIGINT", "Keyboard interrupt", "As Ctrl-C would. Many programs clean up on it."),
    ("SIGQUIT", "Quit", "Ends the process at once."),
]


def _targets(request: HttpRequest) -> tuple[str, ...]:
    given = request.POST if request.method == "POST" else request.GET
    return tuple(dict.fromkeys(uuid for uuid in given.getlist("uuid") if uuid))
