"""Revoke, terminate and abort tasks: one, a selection, all that match a filter or bear a stamp."""

from __future__ import annotations

import json
import uuid
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from dashboard import access
from dashboard.controls import actor, acts, admit, allowed, control, reason, send
from dashboard.queries import abort as abortable
from dashboard.queries import audit, blast, stamps
from dashboard.queries import ladders as queries
from dashboard.queries.ladders import steps
from dashboard.queries.radius import radius, waits
from monitor import control as engine
from monitor.control import Command, Refused
from monitor.control.revokes import ladders
from monitor.models import Ladder


@control("revoke", asks=True)
def revoke(request: HttpRequest) -> HttpResponse:
    """Waiting tasks will not run. A running one is not touched. Several are shown first, as one act.

    A GET shows what it would hit.
    """
    targets, everything = _targets(request), request.POST.get("all", "")
    if request.method != "POST":
        allowed(request, "revoke", targets)
        found = radius(targets, "revoke")
        shown = {"hit": blast.waiting(targets), "radius": found, "waits": waits(targets, found)}
        return _ask(request, "tasks/_revoke_form.html", "Revoke", **shown, **_hold())
    if everything or len(targets) > 1:
        return acts.propose(request, "revoke", targets, everything)
    asked = request.POST.get("if_started", "")
    arguments = {"if_started": asked} if asked else {}
    if targets and acts.held(request):
        return acts.answer(request, acts.hold_one(request, "revoke", targets, arguments))
    return send(request, [Command("revoke", targets, arguments, reason=reason(request))])


@control("terminate", asks=True)
def terminate(request: HttpRequest) -> HttpResponse:
    """Running tasks are ended, after a look at what that hits. A POST without a signal asks first, too."""
    targets, everything = _targets(request), request.POST.get("all", "")
    if request.POST.get("signal") == STEPS:
        return _climb(request)
    if request.method == "POST" and (everything or len(targets) > 1):
        return acts.propose(request, "terminate", targets, everything)
    if request.method == "POST" and "signal" in request.POST:
        arguments = {"signal": request.POST["signal"]}
        if targets and acts.held(request):
            return acts.answer(request, acts.hold_one(request, "terminate", targets, arguments))
        return send(request, [Command("terminate", targets, arguments, reason=reason(request))])
    allowed(request, "terminate", targets)
    hit = blast.hit(targets)
    # A step that its sender may not do is no step.
    climbs = all(access.entitled(request, name).allowed for name in queries.commands(*targets[:1]))
    context = {
        **{"hit": hit, "title": "Terminate", "signals": acts.SIGNALS, **_hold()},
        **(steps(hit) if climbs else {}),
        "radius": radius([one.row.task.uuid for one in hit.targets], "terminate"),
    }
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "tasks/_terminate.html" if fragment else "tasks/terminate.html", context)


@control("withdraw")
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    """No further step of an act that ends a task step by step."""
    ladder = Ladder.objects.filter(pk=pk).first()
    why = reason(request)
    if ladder is not None:
        admit(request, Command("withdraw", (ladder.uuid,), {"what": "steps"}, reason=why), "withdraw")
    return _climbing(request, ladders.withdraw(pk, actor(request), why))


@control("withdraw")
def withdraw_revoke(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A revoke that stands, by ids or by a stamp, is told to no worker any more."""
    command = engine.withdrawal(pk, reason(request))
    admit(request, command, "withdraw")
    done = audit.outcome(engine.withdraw(pk, command, actor(request)))
    if request.headers.get("HX-Request") == "true":
        return render(request, "audit/_toasts.html", {"outcomes": [done]})
    return redirect("control-record", pk=pk)


@control("abort", asks=True)
def abort(request: HttpRequest) -> HttpResponse:
    """ABORTED is written into the result backend, for tasks that ask; a GET shows what that does not do."""
    targets = _targets(request)
    if request.method == "POST":
        return send(request, [Command("abort", targets, reason=reason(request))])
    allowed(request, "abort", targets)
    return _ask(request, "tasks/_abort_form.html", "Abort", hit=abortable.hit(targets))


@control("revoke_by_stamped_headers", asks=True)
def revoke_stamped(request: HttpRequest) -> HttpResponse:
    """Every task that bears a stamp, now and later; a GET offers the stamps of a task, and fields."""
    if request.method == "POST":
        given = {key: request.POST.get(key, "").strip() for key in ("header", "value", "signal", "hours")}
        if chosen := request.POST.get("stamp", ""):
            given["header"], given["value"] = _pair(chosen)
        target = f"{given['header']}={given['value']}"
        arguments = {key: value for key, value in given.items() if value}
        command = Command("revoke_by_stamped_headers", (target,), arguments, reason=reason(request))
        return send(request, [command])
    hit = stamps.hit(request.GET.get("uuid", ""), request.GET.get("header", ""), request.GET.get("value", ""))
    return _ask(request, "tasks/_stamp_form.html", "Revoke by stamp", hit=hit, signals=acts.SIGNALS)


def _pair(chosen: str) -> tuple[str, str]:
    """Header and value of a stamp that was chosen, as ``stamps.Hit.choices`` writes them."""
    try:
        header, value = json.loads(chosen)
    except (TypeError, ValueError, RecursionError):
        header = value = None
    if not isinstance(header, str) or not isinstance(value, str):
        raise Refused(f"{chosen[:60]!r} is no stamp that was offered. Type its header and value.")
    return header.strip(), value.strip()


# The value of the choice that is no signal.
STEPS = ladders.STEPS


def _climb(request: HttpRequest) -> HttpResponse:
    targets = _targets(request)
    if len(targets) != 1:
        raise Refused(f"Step by step is for one task; {len(targets)} were selected. Nothing was sent.")
    typed = request.POST.get("wait", "").strip()[:20]
    try:
        wait = float(typed) if typed else ladders.WAIT
    except ValueError:
        raise Refused(f"{typed!r} is no number of seconds between two steps. Nothing was sent.") from None
    command = Command("terminate", targets, {"signal": STEPS}, reason=reason(request))
    admit(request, command, "terminate", *queries.commands(targets[0]))
    return _climbing(request, ladders.start(targets[0], wait, actor(request), reason(request)))


def _climbing(request: HttpRequest, ladder: Ladder) -> HttpResponse:
    """A toast, or the task's page."""
    if request.headers.get("HX-Request") != "true":
        return redirect("task", uuid=ladder.uuid)
    return render(request, "tasks/_climbing.html", {"one": queries.shown(ladder)})


def _ask(request: HttpRequest, form: str, title: str, **shown: Any) -> HttpResponse:
    """What it would do, and the form that does it: in a dialog, or on a page of its own."""
    fragment = request.headers.get("HX-Request") == "true"
    context = {"form": form, "title": title, **shown}
    return render(request, "tasks/_ask.html" if fragment else "tasks/ask.html", context)


def _hold() -> dict[str, Any]:
    return {"holds": acts.holds(settings.UMBEL_HOLD), "hold": settings.UMBEL_HOLD}


def _targets(request: HttpRequest) -> tuple[str, ...]:
    given = request.POST if request.method == "POST" else request.GET
    return tuple(dict.fromkeys(uuid for uuid in given.getlist("uuid") if uuid))
