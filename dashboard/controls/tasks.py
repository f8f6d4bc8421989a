"""Revoke and terminate tasks: one, a selection, or all that match a filter."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from dashboard.controls import acts, control, reason, send
from dashboard.queries import blast
from monitor.control import Command


@control()
def revoke(request: HttpRequest) -> HttpResponse:
    """Waiting tasks will not run. A running one is not touched. Several are shown first, as one act."""
    targets, everything = _targets(request), request.POST.get("all", "")
    if everything or len(targets) > 1:
        return acts.propose(request, "revoke", targets, everything)
    if targets and acts.held(request):
        return acts.answer(request, acts.hold_one(request, "revoke", targets, {}))
    return send(request, [Command("revoke", targets, reason=reason(request))])


@control(asks=True)
def terminate(request: HttpRequest) -> HttpResponse:
    """Running tasks are ended, after a look at what that hits. A POST without a signal asks first, too."""
    targets, everything = _targets(request), request.POST.get("all", "")
    if request.method == "POST" and (everything or len(targets) > 1):
        return acts.propose(request, "terminate", targets, everything)
    if request.method == "POST" and "signal" in request.POST:
        arguments = {"signal": request.POST["signal"]}
        if targets and acts.held(request):
            return acts.answer(request, acts.hold_one(request, "terminate", targets, arguments))
        return send(request, [Command("terminate", targets, arguments, reason=reason(request))])
    context = {
        **{"hit": blast.hit(targets), "title": "Terminate", "signals": acts.SIGNALS},
        **{"holds": acts.holds(settings.UMBEL_HOLD), "hold": settings.UMBEL_HOLD},
    }
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "tasks/_terminate.html" if fragment else "tasks/terminate.html", context)


def _targets(request: HttpRequest) -> tuple[str, ...]:
    given = request.POST if request.method == "POST" else request.GET
    return tuple(dict.fromkeys(uuid for uuid in given.getlist("uuid") if uuid))
