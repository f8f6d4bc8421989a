"""A control command from intent to proof: recorded, sent, answered, and then looked after.

No intent, no act: the record is committed before anything is sent, and when it cannot be, nothing is.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import DatabaseError, close_old_connections, connections, transaction

from monitor.broker import current
from monitor.control.asking import Reply, Unreachable, ask
from monitor.control.commands import Actor, Command, Refused
from monitor.control.evidence import evidence_of
from monitor.control.inspecting import Seen, seen_on
from monitor.control.kinds import KINDS, checked, judge
from monitor.control.orders import Order
from monitor.control.verifying import Verdict
from monitor.control.workers import drifting
from monitor.models import ControlRecord
from monitor.redact import DEFAULT
from monitor.turns import Turns

Effect = ControlRecord.Effect

# Seconds a worker has to answer, seconds the effect has to show, and the pauses between looks.
REPLY_TIMEOUT = 2.0
UNANSWERED = 0.2  # seconds to wait where no reply is due: it may still be an error
VERIFY_WITHIN = 10.0
LOOK_TIMEOUT = 1.0
LONG_LOOK = 5.0  # of many at once: a worker that holds 50,000 revoked ids tells them in a megabyte or two
PAUSES = (0.1, 0.25, 0.5, 1.0)
# Commands whose effect is looked for at once; past that they stay unverified.
MOST_LOOKS = 64

log = logging.getLogger(__name__)
_looks = ThreadPoolExecutor(max_workers=4, thread_name_prefix="verify")
_room = threading.Semaphore(MOST_LOOKS)
# One command of a kind that must be alone at a time, by worker; a bounded set of locks.
_turns = Turns(64)


def perform(
    command: Command,
    actor: Actor,
    *,
    identity: uuid.UUID | None = None,
    still: Callable[[], None] | None = None,
    looks: bool = True,
) -> ControlRecord:
    """Check, record, send and gather replies; the effect is looked for in the background.

    Blocks for up to about four seconds. Raises ``Refused`` when nothing was sent, after recording the
    refusal. ``identity``: of the record; ``still`` is asked in the transaction that writes it: it may refuse.
    Without ``looks`` whoever sends many has those that can be looked for together: ``look_together``.
    """
    asked_at = time.time()
    try:
        checked_command = checked(command, actor)
        with _alone(checked_command):
            asked_at = time.time()
            order, record = _intend(checked_command, actor, asked_at, identity, still)
            answered = _send(order, record)
    except Refused as refusal:
        _record_refusal(command, actor, str(refusal), identity, refusal.skipped)
        raise
    except Unreachable as error:
        _record_refusal(command, actor, f"{error} Nothing was sent.", identity)
        raise Refused(f"{error} Nothing was sent.") from error
    if answered and (looks or not KINDS[command.name].together):
        _look_later(order, record)
    _announce(record)
    return record


def look_together(records: Sequence[ControlRecord]) -> None:
    """In the background: the effects of commands that were sent one after the other, by one look for all.

    A worker tells all that it has revoked: asked for every batch of an act it would tell it a hundred times.
    """
    sent = [
        _Sent(_order_of(record), record.pk, record.sent_at or record.at)
        for record in records
        if KINDS[record.command].together and record.completed_at is None
    ]
    if sent and _room.acquire(blocking=False):
        _looks.submit(_look_after, sent)


def refuse(command: Command, actor: Actor, message: str, identity: uuid.UUID | None = None) -> None:
    """Record a command that was refused before it came here: what was asked for in vain is history, too."""
    _record_refusal(command, actor, message, identity)


def refused(command: Command, actor: Actor, message: str) -> Refused:
    """To raise, once it is recorded as ``refuse`` does."""
    refuse(command, actor, message)
    return Refused(message)


def noted(command: Command, actor: Actor, evidence: str, effect: str = Effect.NOTED) -> ControlRecord:
    """Record what was asked of Umbel itself, of which nothing is sent now. Raises ``Refused``."""
    record = _new(command, actor)
    record.effect, record.evidence = effect, _clean(evidence, 2_000)
    record.completed_at = record.at
    try:
        record.save(force_insert=True)
    except DatabaseError as error:
        log.exception("What was asked could not be recorded; it is not done.")
        raise _Unwritten("The record of this could not be written, so it is not done.") from error
    _announce(record)
    return record


def keep(command: Command, actor: Actor, evidence: str, at: float | None = None) -> ControlRecord:
    """Record an act that was done in the database alone, such as a changed role: part of its transaction.

    ``evidence`` is redacted; pages are told when the transaction is committed.
    """
    record = _new(command, actor)
    record.effect, record.evidence = Effect.VERIFIED, _clean(DEFAULT.text(evidence), 4_000)
    record.at = record.completed_at = record.at if at is None else at
    record.save(force_insert=True)
    transaction.on_commit(lambda: _announce(record))
    return record


def recover(older_than: float = 0.0) -> int:
    """Close what a crash left open; how many. On start; with seconds when other processes are at work."""
    now = time.time()
    return ControlRecord.objects.filter(completed_at=None, at__lte=now - older_than).update(
        effect=Effect.UNVERIFIED, evidence="Umbel stopped, or failed, before it could look.", completed_at=now
    )


@contextmanager
def _alone(command: Command) -> Iterator[None]:
    if not KINDS[command.name].alone:
        yield
        return
    with _turns.of(command.targets[0]):
        yield


def _intend(
    command: Command,
    actor: Actor,
    asked_at: float,
    identity: uuid.UUID | None,
    still: Callable[[], None] | None,
) -> tuple[Order, ControlRecord]:
    """The order and its committed record."""
    try:
        kind = KINDS[command.name]
        order = kind.order(command)
        with transaction.atomic(durable=True):
            if kind.settle:
                order = kind.settle(order, asked_at)
            if still:
                still()
            record = _new(command, actor, identity)
            record.skipped = order.skipped or None
            record.arguments = order.arguments
            record.destinations = order.destinations
            record.sent_at = time.time()
            record.save(force_insert=True)
            if kind.stands:
                kind.stands(order, record)
    except DatabaseError as error:
        log.exception("A control record could not be written; nothing was sent.")
        raise _Unwritten("The record of this command could not be written, so nothing was sent.") from error
    return order, record


class _Unwritten(Refused):
    """Refused because the database would not take the record; there is no use in trying to record that."""


def _send(order: Order, record: ControlRecord) -> bool:
    """Send and gather; whether there may be an effect to look for."""
    replies: list[Reply] = []
    trouble = ""
    try:
        # Never a second time: a command may have left although the connection broke.
        kind = KINDS[order.command.name]
        if kind.act:
            replies = kind.act(order)
        else:
            wait = REPLY_TIMEOUT if kind.is_answered else UNANSWERED
            replies = ask(current(), order.questions, timeout=wait)
    except Unreachable as error:
        trouble = str(error)
        if not error.sent:
            record.sent_at = None
            record.effect, record.evidence = Effect.NONE, f"{trouble} Nothing was sent."
            record.completed_at = time.time()
            record.save()
            return False
    record.answered_at = time.time()
    order.replies = replies
    record.replies = _outcomes(order, replies)
    if trouble:
        record.evidence = f"{trouble} The command may have been sent."
    try:
        record.save()
    except DatabaseError:
        # It has been sent: the effect is looked for all the same, and the record completed then.
        log.exception("The replies to a control command could not be recorded.")
    return True


def _outcomes(order: Order, replies: list[Reply]) -> list[dict[str, str]]:
    said = {reply.worker: reply for reply in replies}
    found = []
    for worker in order.destinations:
        reply = said.get(worker)
        outcome = "silent" if reply is None else "ok" if reply.ok else "error"
        text = "" if reply is None else DEFAULT.text(reply.text)[:500]
        found.append({"worker": worker, "outcome": outcome, "text": text})
    return found


class _Sent(NamedTuple):
    """What was sent and is to be looked for. The web's copy of a record is not shared with the thread."""

    order: Order
    identity: uuid.UUID
    sent_at: float


def _order_of(record: ControlRecord) -> Order:
    """As far as its record tells."""
    targets, destinations = tuple(record.targets), tuple(record.destinations)
    command = Command(record.command, targets, dict(record.arguments), destinations, record.reason)
    order = Order(command, [], dict(record.arguments), dict(record.skipped or {}), asked=destinations)
    order.replies = [
        Reply(one["worker"], record.command, one["outcome"] == "ok", one["text"])
        for one in record.replies
        if one["outcome"] != "silent"
    ]
    return order


def _look_later(order: Order, record: ControlRecord) -> None:
    if not _room.acquire(blocking=False):
        _complete(record, Verdict([]), "Umbel was busy with other commands and did not look.")
        drifting.note(record)
        return
    _looks.submit(_look_after, [_Sent(order, record.pk, record.sent_at or record.at)])


def _look_after(sent: Sequence[_Sent]) -> None:
    close_old_connections()
    try:
        for one, verdict, seen in _looked(sent):
            record = ControlRecord.objects.get(pk=one.identity)
            after = KINDS[record.command].places
            _complete(record, verdict, "", after(one.order, seen) if after else {})
            drifting.note(record)
            _announce(record)
    except Exception:  # a look must never end the pool; recover() closes the record
        log.exception("The effect of a control command could not be looked for.")
    finally:
        _room.release()
        connections.close_all()


def _looked(sent: Sequence[_Sent]) -> Iterator[tuple[_Sent, Verdict, dict[str, Seen]]]:
    """Each with what was found of it, once no later look can say more. All are asked for at once."""
    deadline = time.monotonic() + VERIFY_WITHIN
    waiting = list(sent)
    number = 0
    while waiting:
        left = deadline - time.monotonic()
        seen = _ask_for([one.order for one in waiting])
        found = [(one, judge(one.order, one.sent_at, seen)) for one in waiting]
        done = [(one, verdict) for one, verdict in found if verdict.final or left <= 0]
        waiting = [one for one, verdict in found if not verdict.final] if left > 0 else []
        for one, verdict in done:
            yield one, verdict, seen
        if waiting:
            # In a thread of its own; the time between two looks spares the workers.
            time.sleep(PAUSES[min(number, len(PAUSES) - 1)])
        number += 1


def _ask_for(orders: Sequence[Order]) -> dict[str, Seen]:
    """What the workers hold that these were for; nothing of those that do not answer."""
    kind = KINDS[orders[0].command.name]
    workers = {name for order in orders for name in (*order.destinations, *order.where.values())}
    if kind.act or not workers:
        return {}
    try:
        # Its whole time for the last look, too: cut short it would know less than the one before.
        return seen_on(workers, LOOK_TIMEOUT if len(orders) == 1 else LONG_LOOK, kind.looks)
    except Unreachable:
        log.info("The broker could not be asked while looking for the effect of a command.")
        return {}


def _complete(
    record: ControlRecord, verdict: Verdict, evidence: str, places: Mapping[str, Any] | None = None
) -> None:
    record.seen = [finding.as_dict() for finding in verdict.findings]
    for one in record.seen:
        if places and one["target"] in places:
            one["places"] = places[one["target"]]
    record.effect = verdict.effect
    record.evidence = evidence or evidence_of(record, verdict)
    record.completed_at = time.time()
    record.save(update_fields=["seen", "effect", "evidence", "completed_at"])


def _new(command: Command, actor: Actor, identity: uuid.UUID | None = None) -> ControlRecord:
    return ControlRecord(
        pk=identity or uuid.uuid4(),
        at=time.time(),
        user_id=actor.user_id,
        username=_clean(actor.username, 150),
        role=_clean(actor.role, 16),
        address=_clean(actor.address, 64),
        command=_clean(command.name, 32),
        targets=[_clean(target, 255) for target in command.targets[:500]],
        arguments={_clean(key, 32): _clean(value, 64) for key, value in list(command.arguments.items())[:8]},
        reason=_clean(DEFAULT.text(command.reason), 500),
        destinations=[],
    )


def _record_refusal(
    command: Command,
    actor: Actor,
    message: str,
    identity: uuid.UUID | None = None,
    skipped: Mapping[str, str] | None = None,
) -> None:
    record = _new(command, actor, identity)
    record.skipped = dict(skipped or {}) or None
    record.effect, record.evidence = Effect.REFUSED, _clean(message, 2_000)
    record.completed_at = record.at
    try:
        record.save(force_insert=True)
    except DatabaseError:
        log.exception("A refused command could not be recorded.")
        return
    _announce(record)


def _clean(value: object, most: int) -> str:
    """Text that every database takes."""
    return str(value).replace("\x00", "�").encode("utf-8", "replace").decode()[:most]


def _announce(record: ControlRecord) -> None:
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({"controls", f"control:{record.pk}"})
