"""How the marks of a task become deliveries: its tries, each on one worker process, in order.

- ``sent`` marks come from clients and open nothing. Marks of one ``(worker, pid)`` are ordered by the
  worker's Lamport clock, which no skew touches; by its wall clock only where the clock is absent or began
  anew (pid 1).
- Along that order a *delivery* begins with ``received``, with ``started`` when one has started already, and
  with anything after ``retried``. Deliveries are ordered by attempt (``retries`` of received), then time.
- The last delivery decides the state. Within a delivery the last end decides, but: ``rejected`` beats
  ``failed`` (a reject sends both), and ``succeeded`` beats ``revoked`` (a soft terminate may be survived)
  unless the task was terminated and returned nothing (a killed greenlet).
- Inferred marks (``lost``, ``settled``) take the place of the mark they were inferred from, and hold only
  while no real mark of that worker follows. Inspected ones (``active``, ``reserved``, ``scheduled``) count
  where no event of that worker process says anything, lift RECEIVED to STARTED, and undo an earlier ``lost``.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from monitor.records import FAILURE, LOST, PENDING, REJECTED, RETRY, REVOKED, STARTED, SUCCESS, Attempt, Mark

ENDS = {
    "succeeded": SUCCESS,
    "failed": FAILURE,
    "retried": RETRY,
    "revoked": REVOKED,
    "rejected": REJECTED,
}
WEAK = frozenset({"lost", "settled"})
INSPECTED = frozenset({"active", "reserved", "scheduled"})
# Messages that were found at the broker after a time of not listening: the weakest word of all.
FOUND = frozenset({"queued", "unacknowledged"})
PHASE = {
    "active": 0,
    "reserved": 0,
    "scheduled": 0,
    "received": 1,
    "started": 2,
    "retried": 4,
    "failed": 4,
    "succeeded": 4,
    "revoked": 4,
    "rejected": 5,
    "settled": 6,
    "lost": 6,
}
SOFT_SIGNALS = frozenset({10, "10", "SIGUSR1", "USR1"})


def deliveries_of(ordered: list[Mark], sent: list[Mark]) -> list[Delivery]:
    places: dict[tuple[str, int], list[Mark]] = {}
    senders = {(mark.worker, mark.pid) for mark in sent}
    for mark in ordered:
        if mark.kind in PHASE:
            places.setdefault((mark.worker, mark.pid), []).append(mark)
    deliveries: list[Delivery] = []
    for place, found in places.items():
        if place in senders and all(mark.kind in WEAK for mark in found):
            continue  # inferred from the sending alone
        deliveries += _of_one_process(found)
    real = {d.marks[0].worker for d in deliveries if _is_real(d)}
    deliveries = [d for d in deliveries if d.marks[0].pid or d.marks[0].worker not in real or _is_real(d)]
    _number(deliveries, sent)
    deliveries.sort(key=lambda delivery: delivery.order)
    return deliveries


class Delivery:
    """The marks of one try of the task on one worker process, in order."""

    __slots__ = ("begun", "marks", "number", "order")

    def __init__(self, mark: Mark) -> None:
        self.marks = [mark]
        self.number = 0
        self.begun = when(mark)
        self.order: tuple[Any, ...] = ()

    def first(self, kind: str) -> Mark | None:
        return next((mark for mark in self.marks if mark.kind == kind), None)

    def has(self, kinds: Collection[str]) -> bool:
        return any(mark.kind in kinds for mark in self.marks)

    @property
    def end(self) -> Mark | None:
        """The mark that decides how it ended, if it has."""
        ends = [mark for mark in self.marks if mark.kind in ENDS]
        if ends:
            return _decisive(ends)
        last: Mark | None = None
        for mark in self.marks:
            if mark.kind in WEAK:
                # The backend knows more than our silence; of two the later.
                last = mark if last is None or (mark.kind, when(mark)) >= (last.kind, when(last)) else last
            elif mark.kind not in INSPECTED:
                last = None
        if last is not None:
            seen = [when(mark) for mark in self.marks if mark.kind == "active"]
            if last.kind == "lost" and any(at > when(last) for at in seen):
                return None
        return last

    def attempt(self) -> Attempt:
        received, started, end = self.first("received"), self.first("started"), self.end
        active = self.first("active")
        attempt = Attempt(number=self.number, worker=self.marks[0].worker)
        if received is not None:
            attempt.received_at = when(received)
            attempt.eta = detail_of(received).get("eta")
        if started is not None:
            attempt.started_at = when(started)
            attempt.state = STARTED
        elif active is not None:
            attempt.started_at = detail_of(active).get("started")
            attempt.state = STARTED
        if end is None:
            return attempt
        detail = detail_of(end)
        attempt.state = state_of(end)
        attempt.ended_at = when(end)
        if end.kind == "settled":
            attempt.ended_at = detail.get("ended")
        attempt.note = note_of(end)
        attempt.exception = detail.get("exception") or _said(self.marks)
        attempt.runtime = detail.get("runtime")
        if attempt.runtime is None and attempt.started_at is not None and attempt.ended_at is not None:
            attempt.runtime = max(0.0, attempt.ended_at - attempt.started_at)
        if attempt.state == SUCCESS:
            attempt.exception = None
        if end.kind == "lost":
            attempt.runtime = None
        return attempt


def state_of(end: Mark) -> str:
    if end.kind == "settled":
        return str(detail_of(end).get("state") or LOST)
    if end.kind == "lost":
        return LOST
    if end.kind == "rejected" and detail_of(end).get("requeue"):
        return PENDING
    return ENDS[end.kind]


def note_of(end: Mark) -> str:
    detail = detail_of(end)
    if end.kind == "settled":
        return str(detail.get("note") or "end read from the result backend")
    if end.kind == "rejected" and detail.get("requeue"):
        return "returned to its queue"
    return str(detail.get("note") or "")


def when(mark: Mark) -> float:
    """The sender's time of a mark, or ours where the sender's was not usable."""
    return mark.at or mark.seen_at


# private, in the order of use


def _is_real(delivery: Delivery) -> bool:
    return any(mark.kind not in INSPECTED | WEAK for mark in delivery.marks)


def _of_one_process(found: list[Mark]) -> list[Delivery]:
    received = sorted((mark for mark in found if mark.kind == "received"), key=_clock_order)
    # A later receipt with a lower clock: the process was replaced by one of the same pid (containers).
    anew = any(when(b) < when(a) - 1.0 for a, b in pairwise(received))
    events = [mark for mark in found if mark.kind not in INSPECTED]
    inspected = [mark for mark in found if mark.kind in INSPECTED]
    events.sort(key=_time_order if anew else _clock_order)
    deliveries: list[Delivery] = []
    for mark in events:
        home = None if mark.kind == "received" else _home(mark.kind, deliveries)
        if home is None:
            deliveries.append(Delivery(mark))
        else:
            home.marks.append(mark)
    if inspected and (not deliveries or all(mark.kind in WEAK for mark in events)):
        whole = Delivery(inspected[0])
        whole.marks = inspected + events
        stated = [s for mark in inspected if (s := detail_of(mark).get("started")) is not None]
        whole.begun = min(stated) if stated else min(map(when, inspected))
        return [whole]
    if inspected:
        deliveries[-1].marks.extend(inspected)
    # Along the clock neither time nor number may fall.
    time, number = float("-inf"), 0
    for delivery in deliveries:
        time = delivery.begun = max(time, delivery.begun)
        known = max((n for mark in delivery.marks if (n := retries_of(mark)) is not None), default=None)
        number = max(number, known) if known is not None else number
        delivery.number = number if known is not None or delivery is not deliveries[0] else -1
        if delivery.marks[-1].kind == "retried" or any(mark.kind == "retried" for mark in delivery.marks):
            number += 1
    return deliveries


def _home(kind: str, deliveries: list[Delivery]) -> Delivery | None:
    """Whose mark this is, of those that the process has; None when it opens one.

    A task that retries is sent, and often received again, before its worker tells of the retry: an end
    belongs to what has started, a start to what has not.
    """
    if kind in WEAK:
        # A retry is no end: what was settled after it is the end of an attempt that was not heard at all.
        return deliveries[-1] if deliveries and not deliveries[-1].has(("retried",)) else None
    unended = [d for d in deliveries if not d.has(ENDS)]
    if kind == "started":
        return next((d for d in unended if not d.has(("started",))), None)
    if running := [d for d in unended if d.has(("started",))]:
        # A later attempt that has started says that the one before is over, though its end was missed.
        return running[0] if kind == "retried" else _latest(running)
    ended = [d for d in deliveries if d.has(ENDS)]
    if ended and any(d.has(_PAIRS.get(kind, ())) for d in ended[-1:]):
        return ended[-1]
    if unended:
        return unended[0] if kind == "retried" else unended[-1]
    return None if not ended or ended[-1].has(("retried",)) else ended[-1]


def _latest(running: list[Delivery]) -> Delivery:
    # The highest attempt; the first of those that are one attempt delivered again.
    latest, highest = running[0], -1
    for delivery in running:
        known = [number for mark in delivery.marks if (number := retries_of(mark)) is not None]
        number = max(known) if known else highest + 1
        if number > highest:
            latest, highest = delivery, number
    return latest


# Ends that one delivery may have both of.
_PAIRS = {"rejected": ("failed",), "failed": ("rejected",), "succeeded": ("revoked",)}


def _number(deliveries: list[Delivery], sent: list[Mark]) -> None:
    # A process whose receipt was missed does not say which attempt it ran.
    for delivery in deliveries:
        if delivery.number < 0 or not _is_real(delivery):
            begun = delivery.begun
            numbers = [retries_of(mark) or 0 for mark in sent if when(mark) <= begun]
            numbers += [
                d.number for d in deliveries if d.number >= 0 and d is not delivery and d.begun <= begun
            ]
            numbers += [
                d.number + 1
                for d in deliveries
                if d.number >= 0 and d is not delivery and any(_is_retried(m, begun) for m in d.marks)
            ]
            delivery.order = (max(numbers, default=0),)
    for delivery in deliveries:
        if delivery.order:
            delivery.number = delivery.order[0]
        mark = delivery.marks[0]
        delivery.order = (delivery.number, delivery.begun, mark.worker, mark.pid, mark.clock, mark.kind)


def _is_retried(mark: Mark, before: float) -> bool:
    return mark.kind == "retried" and when(mark) <= before


def _decisive(ends: list[Mark]) -> Mark:
    last = ends[-1]
    rejected = [mark for mark in ends if mark.kind == "rejected"]
    if rejected and last.kind in ("rejected", "failed"):
        return rejected[-1]
    succeeded = [mark for mark in ends if mark.kind == "succeeded"]
    revoked = [mark for mark in ends if mark.kind == "revoked"]
    if succeeded and revoked and last.kind in ("succeeded", "revoked"):
        success, revoke = succeeded[-1], revoked[-1]
        detail = detail_of(revoke)
        nothing = detail_of(success).get("result") in (None, "None", "null")
        if detail.get("terminated") and nothing and detail.get("signum") not in SOFT_SIGNALS:
            return revoke
        return success
    return last


def _said(marks: list[Mark]) -> str | None:
    return next((text for mark in reversed(marks) if (text := detail_of(mark).get("exception"))), None)


def retries_of(mark: Mark) -> int | None:
    return detail_of(mark).get("retries") if mark.kind in ("sent", "received") else None


def detail_of(mark: Mark) -> dict[str, Any]:
    return mark.detail if mark.detail is not None else _EMPTY


_EMPTY: dict[str, Any] = {}


def _clock_order(mark: Mark) -> tuple[Any, ...]:
    phase = PHASE.get(mark.kind, 3)
    return (mark.clock, 0.0 if mark.clock else when(mark), phase, when(mark), mark.kind)


def _time_order(mark: Mark) -> tuple[Any, ...]:
    return (when(mark), PHASE.get(mark.kind, 3), mark.clock, mark.kind)
