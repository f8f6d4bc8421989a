"""Acts on their way in and out: drafted from a list, confirmed, withdrawn, stopped; each by a person."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from django.db import connection, transaction

from monitor.acts.kinds import KINDS
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Command, Refused, keep, refuse
from monitor.control.commands import need_operator
from monitor.control.kinds import KINDS as COMMANDS
from monitor.redact import DEFAULT

State = BulkAct.State
LONGEST_HOLD = 30  # seconds
DRAFT_LIFE = 15 * 60.0  # seconds until a list that nobody confirmed must be read again
DRAFTS = 3  # of one person at a time
SHOWN = 6  # names, workers and queues that a summary tells
WITHDRAW, STOP = "withdraw", "stop"  # as the audit log calls them


@dataclass(frozen=True, slots=True)
class Frozen:
    """A target as it was when the list was read."""

    target: str
    was: str
    run: float | None = None
    name: str = ""
    worker: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class List:
    """What was chosen: ``chosen`` says it in words, ``query`` is the filter in the URL, if it was one."""

    targets: Sequence[Frozen]
    chosen: str
    query: str = ""
    read_at: float = field(default_factory=time.time)


def draft(command: str, chosen: List, actor: Actor, arguments: Mapping[str, Any] | None = None) -> BulkAct:
    """An act with its targets frozen, to be shown and confirmed: nothing is sent yet. Raises ``Refused``."""
    need_operator(actor)
    if not chosen.targets:
        raise Refused("Nothing was selected, so nothing was sent.")
    act = BulkAct(
        user_id=actor.user_id,
        username=actor.username[:150],
        role=actor.role,
        address=actor.address[:64],
        command=command,
        what=KINDS[command].what,
        arguments=dict(arguments or {}),
        chosen=DEFAULT.text(chosen.chosen),
        query=chosen.query,
        count=len(chosen.targets),
        summary=_summary(chosen.targets),
        read_at=chosen.read_at,
    )
    with transaction.atomic():
        mine = BulkAct.objects.filter(state=State.DRAFT, username=act.username)
        forget(mine.order_by("-read_at").values_list("pk", flat=True)[DRAFTS - 1 :])
        act.save(force_insert=True)
        _freeze(act, chosen.targets)
    return act


def confirm(
    identity: uuid.UUID,
    actor: Actor,
    arguments: Mapping[str, Any],
    *,
    reason: str,
    hold: float,
    now: float | None = None,
) -> BulkAct:
    """The draft becomes an act, held for so many seconds. A second time nothing changes.

    Raises ``Refused``, also when the list was read too long ago; that is in the audit log.
    """
    now = time.time() if now is None else now
    act = BulkAct.objects.filter(pk=identity).first()
    if act is None or (act.state == State.DRAFT and (act.user_id, act.username) != _name(actor)):
        raise Refused("That list is not there any more: read it again. Nothing was sent.")
    if act.state != State.DRAFT:
        return act
    try:
        need_operator(actor)
        if not reason.strip():
            raise Refused(
                f"{act.command.capitalize()} of {act.count:,} {act.what}s needs a reason for the audit log. "
                "Nothing was sent."
            )
        if now - act.read_at > DRAFT_LIFE:
            raise Refused(
                f"The list was read {(now - act.read_at) / 60:.0f} min ago, and much may have changed: "
                "read it again. Nothing was sent."
            )
        kind = KINDS[act.command]
        # What has no command of its own takes no arguments.
        given = {}
        if kind.act is None:
            given = COMMANDS[kind.sends or act.command].arguments({**act.arguments, **arguments})
        held = hold_of(hold)
    except Refused as refusal:
        first = tuple(act.targets(1))
        refuse(Command(act.command, first, dict(arguments), reason=reason), actor, str(refusal))
        raise
    BulkAct.objects.filter(pk=act.pk, state=State.DRAFT).update(
        state=State.HELD,
        arguments=given,
        reason=DEFAULT.text(reason.strip())[:500],
        at=now,
        hold=held,
        send_at=now + held,
        address=actor.address[:64],
    )
    tell(act.pk)
    act.refresh_from_db()
    return act


def hold_of(value: object) -> float:
    """Seconds that an act waits; raises ``Refused``."""
    text = str(value).strip().removesuffix(".0")
    if not text.isascii() or not text.isdigit() or int(text[:6]) > LONGEST_HOLD:
        raise Refused(
            f"The hold must be a whole number of seconds from 0 to {LONGEST_HOLD}; {text[:40]!r} is not. "
            "Nothing was sent."
        )
    return float(text)


def withdraw(identity: uuid.UUID, actor: Actor, now: float | None = None, reason: str = "") -> BulkAct:
    """A held act is never sent. By any operator. Raises ``Refused`` when it is too late."""
    need_operator(actor)
    now = time.time() if now is None else now
    act = _found(identity)
    with transaction.atomic():
        done = BulkAct.objects.filter(pk=identity, state=State.HELD).update(
            state=State.WITHDRAWN,
            stopped_by=actor.username[:150],
            stopped_at=now,
            ended_at=now,
            tally={ActTarget.Outcome.LEFT: act.count},
        )
        if done:
            leave(act, "Withdrawn before it was sent.", now)
            record(WITHDRAW, act, actor, f"Withdrawn before anything was sent: {act}.", now, reason=reason)
    if not done:
        act.refresh_from_db()
        if act.state == State.WITHDRAWN:
            return act
        raise Refused(
            f"The {act.words} is being sent already, or was: it cannot be withdrawn."
            + (" Stop it on its page." if act.state == State.SENDING else "")
        )
    tell(act.pk)
    act.refresh_from_db()
    return act


def stop(identity: uuid.UUID, actor: Actor, now: float | None = None, reason: str = "") -> BulkAct:
    """No further batch is sent; what is under way ends. By any operator. Raises ``Refused``."""
    need_operator(actor)
    now = time.time() if now is None else now
    act = _found(identity)
    with transaction.atomic():
        done = BulkAct.objects.filter(pk=identity, state=State.SENDING, stopped_at=None).update(
            stopped_by=actor.username[:150], stopped_at=now
        )
        if done:
            record(STOP, act, actor, f"Stopped while it was being sent: {act}.", now, reason=reason)
    if not done:
        act.refresh_from_db()
        if act.state == State.SENDING:
            return act
        raise Refused(f"The {act.words} is not being sent now: there is nothing to stop.")
    tell(act.pk)
    act.refresh_from_db()
    return act


def leave(act: BulkAct, why: str, now: float) -> int:
    """What was not sent stays unsent, and says why; how many."""
    waiting = ActTarget.objects.filter(act=act, outcome=ActTarget.Outcome.WAITING)
    return waiting.update(outcome=ActTarget.Outcome.LEFT, text=why, settled_at=now)


def forget(acts: Iterable[uuid.UUID]) -> None:
    """Acts and their targets go, the targets in one statement."""
    gone = list(acts)
    for act in gone:
        ActTarget.objects.filter(act_id=act)._raw_delete("default")
    BulkAct.objects.filter(pk__in=gone).delete()


def tell(act: uuid.UUID) -> None:
    """Every page that shows it redraws."""
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({"acts", f"act:{act}", "controls"})


def record(command: str, act: BulkAct, actor: Actor, evidence: str, now: float, *, reason: str = "") -> None:
    """What was done to an act, in the audit log."""
    told = Command(command, (str(act.pk),), {"act": act.words}, reason=reason)
    keep(told, actor, evidence, at=now)


def _found(identity: uuid.UUID) -> BulkAct:
    act = BulkAct.objects.exclude(state=State.DRAFT).filter(pk=identity).first()
    if act is None:
        raise Refused("There is no such act: it was forgotten, or never confirmed.")
    return act


def _name(actor: Actor) -> tuple[int | None, str]:
    return actor.user_id, actor.username[:150]


def _summary(targets: Sequence[Frozen]) -> dict[str, Any]:
    """Of what it consists: the most frequent names, workers and queues, and how many there are of each."""
    found: dict[str, Any] = {}
    for key in ("name", "worker", "queue", "was"):
        counts = Counter(value for one in targets if (value := getattr(one, key)))
        found[f"{key}s"] = counts.most_common(SHOWN)
        found[f"{key}s_in_all"] = len(counts)
    return found


def _freeze(act: BulkAct, targets: Sequence[Frozen]) -> None:
    """The rows in few statements, since everybody else's writes wait for this one."""
    fields = ("act_id", "place", "target", "was", "run", "outcome", "text")
    table = connection.ops.quote_name(ActTarget._meta.db_table)
    key = ActTarget._meta.get_field("act").get_db_prep_value(act.pk, connection)
    rows = (
        (key, place, one.target, one.was, one.run, ActTarget.Outcome.WAITING.value, "")
        for place, one in enumerate(targets)
    )
    columns = f"{table} ({', '.join(fields)})"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {columns} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            return
        slots = f"({', '.join(['%s'] * len(fields))})"
        while part := list(islice(rows, 500)):
            cursor.execute(
                f"INSERT INTO {columns} VALUES {', '.join([slots] * len(part))}",  # noqa: S608 - our own names
                [value for row in part for value in row],
            )
