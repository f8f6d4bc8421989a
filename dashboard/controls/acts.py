"""Acts on many from the browser: proposed from a list, confirmed, withdrawn, stopped."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render

from dashboard import access, permissions
from dashboard.controls import SAME, NotAllowed, actor, admit, allowed, control, reason
from dashboard.forms.tasks import task_filter
from dashboard.forms.workers import confirmed, pattern, pool_number
from dashboard.queries import acts as queries
from dashboard.queries import audit, blast, chosen
from dashboard.queries.leaving import together
from dashboard.queries.radius import radius, too_late
from monitor import control as engine
from monitor.acts import making, standing
from monitor.acts.kinds import KINDS
from monitor.acts.making import List
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Command, Refused
from monitor.control.commands import SEND, SHUTDOWN
from monitor.models import Task, Worker

NO_REASON = "none given"  # where the settings require none
HOLDS = (0, 5, 10, 20, 30)
# Commands of the workers' page, by their word in the URL.
OF_WORKERS = {"drain": "drain", "shutdown": "shutdown", "restart-pool": "pool_restart", "grow": "pool_grow"}


def propose(request: HttpRequest, command: str, uuids: Sequence[str], everything: str = "") -> HttpResponse:
    """The list is read and frozen, and shown: what would happen, to how many. Nothing is sent.

    ``everything``: a filter as it stands in the URL, with its question mark, in place of ids.
    """
    try:
        spared: chosen.Spared = []
        if everything:
            asked = task_filter(QueryDict(everything.removeprefix("?")))
            found = chosen.matching(command, asked, settings.UMBEL_BULK_MOST)
        else:
            found, spared = chosen.by_hand(command, uuids)
        _bounded(len(found.targets), "tasks")
        _allowed(request, command, found)
        act = making.draft(command, found, actor(request)) if found.targets else None
    except NotAllowed:
        raise
    except Refused as refusal:
        _record(request, command, tuple(uuids[:1]), refusal)
        raise
    return _ask(request, act, command, spared, _blast(act, command) if act else {})


@control("bulk")
def workers(request: HttpRequest, command: str) -> HttpResponse:
    """Chosen workers are shut down, get new pool processes, or more of them; asked for first."""
    name = OF_WORKERS.get(command, "")
    if not name:
        raise Refused(f"“{command[:40]}” is nothing that can be done to many workers. Nothing was sent.")
    keys = [int(key) for key in request.POST.getlist("worker") if key.isascii() and key.isdigit()][:500]
    found, spared = chosen.workers(name, keys)
    _allowed(request, name, found)
    arguments = (
        {"n": pool_number(request.POST.get("n"), "The number of processes")} if command == "grow" else {}
    )
    act = making.draft(name, found, actor(request), arguments) if found.targets else None
    names = [row.target for row in found.targets]
    leaves = {"leaving": together(names, time.time())} if name in ("drain", SHUTDOWN) else {}
    return _ask(request, act, name, spared, leaves)


@control("bulk")
def confirm(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What was proposed is done, after its hold. A second click is the same act."""
    draft = BulkAct.objects.filter(pk=pk).first()
    if draft is not None and draft.command == SHUTDOWN and draft.state == BulkAct.State.DRAFT:
        typed, wanted = request.POST.get("typed", "").strip(), _to_type(draft)
        if draft.count == 1:
            confirmed(typed, wanted)
        elif typed != wanted:
            raise Refused(f"“{typed[:40]}” is not “{wanted}”: type that to confirm. Nothing was sent.")
    arguments = {"signal": request.POST["signal"]} if "signal" in request.POST else {}
    why = reason(request)
    if draft is not None and draft.state == BulkAct.State.DRAFT:
        command = Command(draft.command, tuple(draft.targets(draft.count)), arguments, reason=why)
        admit(
            request, command, *permissions.named(draft.command, draft.arguments), "bulk", about=_about(draft)
        )
    hold = request.POST.get("hold", str(settings.UMBEL_BULK_HOLD))
    act = making.confirm(pk, actor(request), arguments, reason=why or NO_REASON, hold=making.hold_of(hold))
    return answer(request, act)


@control("withdraw")
def withdraw(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A held act is never sent; any operator may."""
    return answer(request, making.withdraw(pk, actor(request), reason=_ends(request, pk, "withdraw")))


@control("stop")
def stop(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """No further batch of it is sent; any operator may."""
    return answer(request, making.stop(pk, actor(request), reason=_ends(request, pk, "stop")))


@control("withdraw")
def withdraw_standing(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What stands of its revokes is told to no worker any more: all its batches, in one record."""
    why = _ends(request, pk, "withdraw")
    act = BulkAct.objects.exclude(state=BulkAct.State.DRAFT).filter(pk=pk).first()
    if act is None:
        raise Refused("There is no such act: it was forgotten, or never confirmed.")
    done = audit.outcome(standing.withdraw(act, actor(request), why))
    if request.headers.get("HX-Request") == "true":
        return render(request, "audit/_toasts.html", {"outcomes": [done]})
    return redirect("act", pk=pk)


def _ends(request: HttpRequest, pk: uuid.UUID, name: str) -> str:
    """The reason; raises when it is wanted and missing, or when the sender may not end this act."""
    why = reason(request)
    if (act := BulkAct.objects.exclude(state=BulkAct.State.DRAFT).filter(pk=pk).first()) is not None:
        admit(request, Command(name, (str(pk),), {"act": act.words}, reason=why), name, about=_about(act))
    return why


def hold_one(
    request: HttpRequest, command: str, uuids: Sequence[str], arguments: Mapping[str, Any]
) -> BulkAct:
    """An act of one task, confirmed at once: a single command that is held."""
    found, spared = chosen.by_hand(command, uuids)
    if not found.targets:
        raise Refused(f"Nothing to {command}: {spared[0][1] if spared else 'nothing was selected'}.")
    return _hold(request, command, found, arguments)


def hold_worker(request: HttpRequest, command: str, worker: Worker, arguments: Mapping[str, Any]) -> BulkAct:
    """The same of one worker."""
    found, spared = chosen.workers(command, [worker.pk])
    if not found.targets:
        refusal = Refused(f"{spared[0][1]} Nothing was sent.")
        _record(request, command, (str(worker.hostname),), refusal)
        raise refusal
    return _hold(request, command, found, arguments)


def _hold(request: HttpRequest, command: str, found: List, arguments: Mapping[str, Any]) -> BulkAct:
    one = Command(
        command, tuple(row.target for row in found.targets), dict(arguments), reason=reason(request)
    )
    admit(request, one, *permissions.named(command, arguments))
    me, hold = actor(request), held(request)
    if twice := _second_click(one, me):
        return twice
    act = making.draft(command, found, me, arguments)
    return making.confirm(act.pk, me, arguments, reason=one.reason or NO_REASON, hold=hold)


def _second_click(command: Command, me: Actor) -> BulkAct | None:
    """The same command by the same person that is held since a moment ago."""
    mine = BulkAct.objects.filter(
        state=BulkAct.State.HELD, user_id=me.user_id or 0, command=command.name, count=1
    )
    for act in mine.filter(at__gt=time.time() - SAME):
        # What is kept may be less than what was given: of a size to reach no number of steps.
        same = all(str(command.arguments.get(key)) == str(value) for key, value in act.arguments.items())
        given = bool(act.arguments) == bool(command.arguments)
        if same and given and act.targets(1) == list(command.targets):
            return act
    return None


def held(request: HttpRequest) -> float:
    """Seconds that a command on one task or worker is to wait: as asked for, or as set."""
    return making.hold_of(request.POST.get("hold") or settings.UMBEL_HOLD)


def answer(request: HttpRequest, act: BulkAct) -> HttpResponse:
    """A toast that follows it, or its page."""
    if request.headers.get("HX-Request") == "true":
        shown = queries.one(act.pk)
        return render(request, "acts/_toasts.html", {"shown": shown, "act": act})
    return redirect("act", pk=act.pk)


def _blast(act: BulkAct, command: str) -> dict[str, Any]:
    """What ending or revoking these tasks would hit beside them."""
    if command not in ("revoke", "terminate"):
        return {}
    uuids = tuple(act.targets(blast.MOST))
    found = radius(uuids, command)
    if command == "revoke":
        return {"hit": blast.waiting(uuids), "radius": found, "waits": too_late(uuids)}
    return {"hit": blast.hit(uuids), "radius": found, "signals": SIGNALS}


def _ask(
    request: HttpRequest, act: BulkAct | None, command: str, spared: chosen.Spared, more: Mapping[str, Any]
) -> HttpResponse:
    kind = KINDS[command]
    context = {
        "title": queries.VERBS[command][0].removesuffix(" of"),
        "act": act,
        "to_type": _to_type(act) if act else "",
        "pattern": pattern(_to_type(act)) if act else "",
        "shown": queries.Shown(act) if act else None,
        "command": command,
        "permission": permissions.named(command, {})[0],
        "what": kind.what,
        "sample": queries.sample(act) if act else [],
        "spared": spared,
        "batches": -(-act.count // kind.batch) if act else 0,
        "takes": act.count / settings.UMBEL_BULK_RATE if act else 0.0,
        "rate": settings.UMBEL_BULK_RATE,
        "holds": holds(settings.UMBEL_BULK_HOLD),
        "hold": settings.UMBEL_BULK_HOLD,
        **more,
    }
    if request.headers.get("HX-Request") != "true":
        return render(request, "acts/propose.html", context)
    shown = render(request, "acts/_propose.html", context)
    # The button that asks may be the one that sends at once for a single row: it awaits a toast.
    shown["HX-Retarget"], shown["HX-Reswap"] = "#dialog", "innerHTML"
    return shown


def holds(default: int) -> list[int]:
    """Seconds to choose from."""
    return sorted({*HOLDS, default})


def _allowed(request: HttpRequest, command: str, found: List) -> None:
    """Raises ``NotAllowed`` when the sender may not do this, or nothing to many."""
    names = permissions.named(command, {})
    for name in ("bulk", *names):
        if not (can := access.entitled(request, name)).allowed:
            raise NotAllowed(can.reason)
    if found.targets:
        about = [row.target for row in found.targets]
        if names[0] == SEND:
            about = sorted({row.name for row in found.targets})
        allowed(request, names[0], about, *names[1:])


def _about(act: BulkAct) -> list[str]:
    """What the site's own rule is asked about: the targets, or the names of tasks that are sent again."""
    if permissions.named(act.command, act.arguments)[0] != SEND:
        return act.targets(act.count)
    targets = ActTarget.objects.filter(act=act).order_by().values("target")
    return sorted(set(Task.objects.filter(uuid__in=targets).values_list("name", flat=True)))


def _to_type(act: BulkAct) -> str:
    """What must be typed before it is done: how many workers, and of one its name; "" for nothing."""
    if act.command != SHUTDOWN:
        return ""
    return act.targets(1)[0] if act.count == 1 else f"{act.count} workers"


def _bounded(count: int, what: str) -> None:
    most = settings.UMBEL_BULK_MOST
    if count > most:
        raise Refused(
            f"{count:,} {what} were chosen, and an act takes {most:,} at most (UMBEL_BULK_MOST): "
            "choose fewer. Nothing was sent."
        )


def _record(request: HttpRequest, command: str, targets: tuple[str, ...], refusal: Refused) -> None:
    engine.refuse(Command(command, targets, reason=reason(request)), actor(request), str(refusal))


# Value, name, what it does.
SIGNALS = [
    ("SIGUSR1", "Interrupt", "Raises SoftTimeLimitExceeded, so the task can clean up."),
    ("SIGTERM", "Terminate", "Ends the process. Clean-up code may not run."),
    ("SIGKILL", "Kill", "Cannot be ignored. No clean-up code runs."),
    ("SIGINT", "Keyboard interrupt", "Pool processes of prefork ignore it: the task most likely goes on."),
    ("SIGQUIT", "Quit", "Ends the process at once."),
]
