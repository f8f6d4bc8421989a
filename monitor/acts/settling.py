"""What became of each target of an act: by the replies, the look at its batch, and the events that come.

A revoke of what waits is proved only when a worker reaches the task and skips it, which may be days later.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from monitor.acts.kinds import KINDS, Fate, Row, Sight
from monitor.acts.making import tell
from monitor.acts.models import ActTarget, BulkAct, counts
from monitor.control.commands import TERMINATE
from monitor.control.kinds import KINDS as COMMANDS
from monitor.control.revokes.keeping import LONGEST
from monitor.models import ControlRecord

State, Outcome = BulkAct.State, ActTarget.Outcome
EVERY, SHARE = 1.0, 4.0  # seconds between two looks at an act, or so many times what one takes
PART = 500  # targets looked at together
PARTS = 10  # of them written together
# Sent, and more may still be heard of it.
OPEN = (Outcome.SENT, Outcome.SILENT, Outcome.UNKNOWN, Outcome.REFUSED, Outcome.NOT)


def mark(targets: QuerySet[ActTarget], outcome: str, text: str, settled_at: float | None = None) -> int:
    """The same for all of them."""
    return targets.update(outcome=outcome, text=text[:500], settled_at=settled_at)


def taken(act: BulkAct, record: ControlRecord, now: float) -> None:
    """What workers replied to a batch, once it has been sent."""
    batch = ActTarget.objects.filter(batch=record.pk, outcome=Outcome.SENDING)
    kind = KINDS[act.command]
    if record.skipped:
        called = {kind.under(act, target): target for target in batch.values_list("target", flat=True)}
        for name, why in record.skipped.items():
            mark(batch.filter(target=called.get(name, name)), Outcome.SKIPPED, str(why), now)
    if record.sent_at is None:
        mark(batch, Outcome.REFUSED, record.evidence or "Nothing was sent.", now)
        return
    outcome, text = _answer(act, record.replies)
    if act.command == TERMINATE:
        # Each worker was asked for its own tasks alone.
        rows = kind.rows(batch.values_list("target", flat=True))
        by_worker: dict[str, list[str]] = {}
        for uuid_, row in rows.items():
            by_worker.setdefault(row["worker"], []).append(uuid_)
        for worker, uuids in by_worker.items():
            replies = [reply for reply in record.replies if reply.get("worker") == worker]
            if replies:
                mark(batch.filter(target__in=uuids), *_answer(act, replies))
    mark(batch, outcome, text)


def _answer(act: BulkAct, replies: Sequence[dict[str, Any]]) -> tuple[str, str]:
    if not COMMANDS[KINDS[act.command].sends or act.command].is_answered:
        return Outcome.SENT, f"Sent; a {act.command} is never answered."
    ok = [reply for reply in replies if reply.get("outcome") == "ok"]
    errors = [reply for reply in replies if reply.get("outcome") == "error"]
    if ok:
        who = (
            f"{ok[0]['worker']} said yes"
            if len(replies) == 1
            else f"{len(ok)} of {len(replies)} workers said yes"
        )
        return Outcome.SENT, f"{who}; the effect is not seen yet."
    if errors:
        return Outcome.REFUSED, f"{errors[0]['worker']} refused: {errors[0].get('text', '')}"
    return Outcome.SILENT, "No worker answered; it may have been heard all the same."


@dataclass(slots=True)
class Settling:
    """Looks after what was sent, as often as it costs."""

    _due: dict[uuid.UUID, float] = field(default_factory=dict)  # monotonic

    def due(self, acts: Iterable[uuid.UUID], most: int) -> list[uuid.UUID]:
        """Those of which a look is due, the one that has waited longest first."""
        now = time.monotonic()
        late = [pk for pk in acts if self._due.get(pk, 0.0) <= now]
        return sorted(late, key=lambda pk: self._due.get(pk, 0.0))[:most]

    def look(self, act: BulkAct, now: float) -> None:
        if time.monotonic() < self._due.get(act.pk, 0.0):
            return
        # Of the processor: to wait for a lock that others hold is no reason to look less often.
        began, changed = time.thread_time(), False
        found: dict[Fate, list[int]] = {}
        for number, part in enumerate(_parts(act), 1):
            self._judge(act, part, found, now)
            if number % PARTS == 0:
                changed |= _write(found, now)
        changed |= _write(found, now)
        if act.state == State.SETTLING:
            if now - (act.sent_at or now) > LONGEST:
                changed |= self._let_go(act, now)
            if not _left(act):
                BulkAct.objects.filter(pk=act.pk, state=State.SETTLING).update(
                    state=State.DONE, ended_at=now, tally=counts(act)
                )
                act.state, changed = State.DONE, True
        if changed:
            tell(act.pk)
        if act.state == State.DONE:
            self._due.pop(act.pk, None)
        else:
            self._due[act.pk] = time.monotonic() + max(EVERY, SHARE * (time.thread_time() - began))

    def _judge(
        self, act: BulkAct, part: Sequence[ActTarget], found: dict[Fate, list[int]], now: float
    ) -> None:
        """Adds what is known now of those of which something else was known."""
        kind = KINDS[act.command]
        called = {one.target: kind.under(act, one.target) for one in part}
        rows = kind.rows(called.values())
        looks = {
            record.pk: _Look.of(record)
            for record in ControlRecord.objects.filter(pk__in={one.batch for one in part})
        }
        for one in part:
            name = called[one.target]
            look = looks.get(one.batch) if one.batch else None
            sight = replace(_sight(one, rows.get(name), look, name, now), sent_at=act.batch_at)
            fate = kind.fate(sight)
            if (fate.outcome, fate.text[:500], fate.final) != (one.outcome, one.text, False):
                found.setdefault(fate, []).append(one.pk)

    def _let_go(self, act: BulkAct, now: float) -> bool:
        left = ActTarget.objects.filter(act=act, settled_at=None)
        why = f"Nothing more was heard of it in {LONGEST / 86_400:.0f} days."
        sent = mark(left.filter(outcome=Outcome.SENT), Outcome.NOT, why, now)
        return bool(sent + left.update(settled_at=now))


@dataclass(frozen=True, slots=True)
class _Look:
    """What the look at a batch found, by target."""

    looked_at: float | None
    findings: dict[str, tuple[bool | None, str]]
    evidence: str

    @classmethod
    def of(cls, record: ControlRecord) -> _Look:
        found = {str(one.get("target")): (one.get("seen"), str(one.get("text", ""))) for one in record.seen}
        return cls(record.completed_at, found, record.evidence)


def _write(found: dict[Fate, list[int]], now: float) -> bool:
    """All at once: on SQLite each statement of its own would wait for everybody else's writes."""
    if not found:
        return False
    with transaction.atomic():
        for fate, keys in found.items():
            for some in _slices(keys):
                open_ = ActTarget.objects.filter(pk__in=some, settled_at=None)
                mark(open_, fate.outcome, fate.text, now if fate.final else None)
    found.clear()
    return True


def _sight(one: ActTarget, row: Row | None, look: _Look | None, name: str, now: float) -> Sight:
    answered = one.outcome if one.outcome != Outcome.NOT else Outcome.SENT
    if look is None or look.looked_at is None:
        return Sight(row, None, one.text, None, answered, now)
    seen, text = look.findings.get(name, (None, ""))
    return Sight(row, seen, text or one.text or look.evidence, look.looked_at, answered, now)


def _parts(act: BulkAct) -> Iterator[list[ActTarget]]:
    """The open ones, in the order of the list."""
    last = -1
    while True:
        open_ = ActTarget.objects.filter(act=act, settled_at=None, outcome__in=OPEN, place__gt=last)
        part = list(open_.order_by("place")[:PART])
        if part:
            yield part
        if len(part) < PART:
            return
        last = part[-1].place


def _left(act: BulkAct) -> bool:
    return ActTarget.objects.filter(act=act, settled_at=None).exists()


def _slices(keys: Sequence[int]) -> Iterable[Sequence[int]]:
    return (keys[at : at + PART] for at in range(0, len(keys), PART))
