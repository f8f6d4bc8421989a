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
from typing import Any

from django.db import DatabaseError, close_old_connections, connections, transaction

from monitor.broker import current
from monitor.control import drifting
from monitor.control.asking import Reply, Unreachable, ask
from monitor.control.commands import Actor, Command, Refused
from monitor.control.inspecting import Seen, seen_on
from monitor.control.kinds import KINDS, checked, judge
from monitor.control.orders import Order
from monitor.control.verifying import Finding, Grade, Verdict
from monitor.models import ControlRecord
from monitor.redact import DEFAULT

Effect = ControlRecord.Effect

# Seconds a worker has to answer, seconds the effect has to show, and the pauses between looks.
REPLY_TIMEOUT = 2.0
UNANSWERED = 0.2  # seconds to wait where no reply is due: it may still be an error
VERIFY_WITHIN = 10.0
LOOK_TIMEOUT = 1.0
PAUSES = (0.1, 0.25, 0.5, 1.0)
# Commands whose effect is looked for at once; past that they stay unverified.
MOST_LOOKS = 64

log = logging.getLogger(__name__)
_looks = ThreadPoolExecutor(max_workers=4, thread_name_prefix="verify")
_room = threading.Semaphore(MOST_LOOKS)
# One command of a kind that must be alone at a time, by worker; a bounded set of locks.
_locks = [threading.Lock() for _ in range(64)]


def perform(
    command: Command,
    actor: Actor,
    *,
    identity: uuid.UUID | None = None,
    still: Callable[[], None] | None = None,
) -> ControlRecord:
    """Check, record, send and gather replies; the effect is looked for in the background.

    Blocks for up to about four seconds. Raises ``Refused`` when nothing was sent, after recording the
    refusal. ``identity``: of the record; ``still`` is asked in the transaction that writes it: it may refuse.
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
    if answered:
        _look_later(order, record)
    _announce(record)
    return record


def refuse(command: Command, actor: Actor, message: str, identity: uuid.UUID | None = None) -> None:
    """Record a command that was refused before it came here: what was asked for in vain is history, too."""
    _record_refusal(command, actor, message, identity)


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


def keep(command: Command, actor: Actor, evidence: str) -> ControlRecord:
    """Record an act that was done in the database alone, such as a changed role: part of its transaction.

    ``evidence`` is redacted; pages are told when the transaction is committed.
    """
    record = _new(command, actor)
    record.effect, record.evidence = Effect.VERIFIED, _clean(DEFAULT.text(evidence), 4_000)
    record.completed_at = record.at
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
    with _locks[hash(command.targets[0]) % len(_locks)]:
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


def _look_later(order: Order, record: ControlRecord) -> None:
    if not _room.acquire(blocking=False):
        _complete(record, Verdict([]), "Umbel was busy with other commands and did not look.")
        drifting.note(record)
        return
    # The web's copy of the record is not shared with the thread.
    identity, sent_at = record.pk, record.sent_at or record.at
    _looks.submit(_look_after, order, identity, sent_at)


def _look_after(order: Order, identity: Any, sent_at: float) -> None:
    close_old_connections()
    try:
        verdict, seen = _look_until_seen(order, sent_at)
        record = ControlRecord.objects.get(pk=identity)
        after = KINDS[order.command.name].places
        _complete(record, verdict, "", after(order, seen) if after else {})
        drifting.note(record)
        _announce(record)
    except Exception:  # a look must never end the pool; recover() closes the record
        log.exception("The effect of a control command could not be looked for.")
    finally:
        _room.release()
        connections.close_all()


def _look_until_seen(order: Order, sent_at: float) -> tuple[Verdict, dict[str, Seen]]:
    deadline = time.monotonic() + VERIFY_WITHIN
    kind = KINDS[order.command.name]
    workers = set() if kind.act else set(order.destinations) | set(order.where.values())
    number = 0
    while True:
        left = deadline - time.monotonic()
        seen: dict[str, Seen] = {}
        try:
            if workers:
                # Its whole time for the last look, too: cut short it would know less than the one before.
                seen = seen_on(workers, LOOK_TIMEOUT, kind.looks)
        except Unreachable:
            log.info("The broker could not be asked while looking for the effect of a command.")
        verdict = judge(order, sent_at, seen)
        if verdict.final or left <= 0:
            return verdict, seen
        time.sleep(PAUSES[min(number, len(PAUSES) - 1)])
        number += 1


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


def evidence_of(record: ControlRecord, verdict: Verdict) -> str:
    """One sentence or two: who answered what, and what Umbel saw."""
    kind = KINDS[record.command]
    first = _answers(record.replies) if kind.is_answered else _sent_to(record.destinations, record.command)
    if record.evidence:
        first = record.evidence
    return f"{first} {_sights(verdict.findings, f'{kind.what}s')}".strip()


def _sent_to(workers: list[str], command: str) -> str:
    to = workers[0] if len(workers) == 1 else f"{len(workers)} workers"
    return f"Sent to {to}; a {command} is never answered."


def _answers(replies: list[dict[str, str]]) -> str:
    silent = [one["worker"] for one in replies if one["outcome"] == "silent"]
    errors = [f"{one['worker']} refused: {one['text']}" for one in replies if one["outcome"] == "error"]
    total = len(replies)
    spoke = total - len(silent)
    if total == 1:
        text = errors[0] if errors else f"{replies[0]['worker']} {'did not answer' if silent else 'answered'}"
        return f"{text.rstrip('.')}."
    if spoke == total:
        text = "Both workers answered" if total == 2 else f"All {total} workers answered"
    else:
        text = f"{spoke} of {total} workers answered; {', '.join(silent[:5])} did not"
    return ". ".join([text, *errors[:3]]) + "."


def _sights(findings: Sequence[Finding], what: str) -> str:
    if not findings:
        return ""
    if len(findings) == 1:
        text = findings[0].text
        return text if text.endswith(".") else f"{text}."
    seen = sum(1 for one in findings if one.grade is Grade.SEEN)
    if seen == len(findings):
        return f"Umbel saw the effect on {'both' if seen == 2 else f'all {seen}'} {what}."
    odd = next(one for one in findings if one.grade is not Grade.SEEN)
    return f"Umbel saw the effect on {seen} of {len(findings)}; {odd.target}: {odd.text}"


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
