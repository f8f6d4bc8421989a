"""Revoke and terminate tasks: one, or a selection."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from dashboard.controls import control, reason, send
from dashboard.queries import blast
from monitor.control import Command


@control()
def revoke(request: HttpRequest) -> HttpResponse:
    """Waiting tasks will not run. A running one is not touched."""
    return send(request, [Command("revoke", _targets(request), reason=reason(request))])


@control(asks=True)
def terminate(request: HttpRequest) -> HttpResponse:
    """Running tasks are ended, after a look at what that hits. A POST without a signal asks first, too."""
    if request.method == "POST" and "signal" in request.POST:
        arguments = {"signal": request.POST["signal"]}
        return send(request, [Command("terminate", _targets(request), arguments, reason=reason(request))])
    context = {"hit": blast.hit(_targets(request)), "title": "Terminate", "signals": SIGNALS}
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "tasks/_terminate.html" if fragment else "tasks/terminate.html", context)


# Value, name, what it does.
SIGNALS = [
    ("SIGUSR1", "Interrupt", "Raises SoftTimeLimitExceeded, so the task can clean up."),
    ("SIGTERM", "Terminate", "Ends the process. Clean-up code may not run."),
    ("SIGKILL", "Kill", "Cannot be ignored. Use when terminate had no effect."),
    ("SIGINT", "Keyboard interrupt", "Pool processes of prefork ignore it: the task most likely goes on."),
    ("SIGQUIT", "Quit", "Ends the process at once."),
]


def _targets(request: HttpRequest) -> tuple[str, ...]:
    given = request.POST if request.method == "POST" else request.GET
    return tuple(dict.fromkeys(uuid for uuid in given.getlist("uuid") if uuid))
