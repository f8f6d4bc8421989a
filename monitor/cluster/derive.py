"""A task's row is a pure function of the set of its marks: order, repetition and lateness cannot matter."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec

from monitor.cluster.deliveries import (
    FOUND,
    INSPECTED,
    PHASE,
    WEAK,
    Delivery,
    deliveries_of,
    detail_of,
    note_of,
    retries_of,
    state_of,
    when,
)
from monitor.records import (
    ENDED,
    FAILURE,
    PENDING,
    RECEIVED,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
    Attempt,
    Mark,
    TaskRecord,
)

# Detail of the mark that decided the row, kept in the row's own columns instead.
DAY = 86_400
IN_COLUMNS = ("result", "exception", "traceback")


def derive(identity: TaskRecord, marks: Iterable[Mark]) -> TaskRecord:
    """The whole row: ``identity`` gives uuid, name, arguments and kin, the marks give all else."""
    ordered = sorted(marks, key=_total_order)
    row = msgspec.structs.replace(identity, **_BLANK)
    if not ordered:
        return row
    sent = [mark for mark in ordered if mark.kind == "sent"]
    deliveries = deliveries_of(ordered, sent)
    row.first_seen_at = min(mark.seen_at for mark in ordered)
    row.seen_at = max(mark.seen_at for mark in ordered)
    row.day = row.day or int(row.first_seen_at // DAY)
    if sent:
        row.sent_at = min(map(when, sent))
        row.sender = sent[0].worker
    row.attempts = [delivery.attempt() for delivery in deliveries]
    numbers = [d.number for d in deliveries] + [retries_of(mark) or 0 for mark in sent]
    row.retries = max(numbers, default=0)
    for attempt, following in pairwise(row.attempts):
        supersede(attempt, following)
    source: Mark | None = None
    if deliveries:
        source = _last_delivery(row, deliveries)
    else:
        source = _no_delivery(row, ordered)
    first = min((a.started_at for a in row.attempts if a.started_at is not None), default=None)
    begun = row.sent_at if row.sent_at is not None else _first_received(row.attempts)
    if first is not None and begun is not None:
        row.wait = max(0.0, first - begun)
    if any(mark.kind in FOUND for mark in ordered):
        _found(row, ordered)
    row.marks = [packed(mark, row) if mark is source else mark for mark in ordered]
    return row


def anchor(marks: Iterable[Mark]) -> Mark | None:
    """The last known mark of the last delivery: what an inferred mark is tied to."""
    ordered = sorted(marks, key=_total_order)
    deliveries = deliveries_of(ordered, [mark for mark in ordered if mark.kind == "sent"])
    found = deliveries[-1].marks if deliveries else ordered
    events = [mark for mark in found if mark.kind not in INSPECTED]
    return (events or found)[-1] if found else None


def attempts_of(row: TaskRecord) -> list[Attempt]:
    """The attempts of a row, by its marks."""
    return derive(TaskRecord(row.uuid), unpacked(row)).attempts


def unpacked(row: TaskRecord) -> list[Mark]:
    """The marks of a stored row with what ``derive`` moved to its columns put back."""
    return [_unpacked(mark, row) for mark in row.marks]


def supersede(attempt: Attempt, following: Attempt) -> None:
    """An attempt without an end that another one followed."""
    if attempt.ended_at is None and attempt.state in (RECEIVED, STARTED):
        if following.number > attempt.number:
            attempt.state, attempt.note = RETRY, "end not seen"
        else:
            attempt.note = "delivered again"


def packed(mark: Mark, row: TaskRecord) -> Mark:
    """The mark that decided the row, without what the row's columns say."""
    detail = detail_of(mark)
    moved = [field for field in IN_COLUMNS if field in detail and getattr(row, field) == detail[field]]
    if not moved:
        return mark
    left = {key: value for key, value in detail.items() if key not in moved}
    left["in_row"] = moved
    return msgspec.structs.replace(mark, detail=left)


# private, in the order of use

_BLANK: dict[str, Any] = {
    "state": PENDING,
    "worker": "",
    "result": None,
    "exception": None,
    "exception_type": "",
    "traceback": None,
    "sent_at": None,
    "received_at": None,
    "started_at": None,
    "ended_at": None,
    "runtime": None,
    "wait": None,
    "retries": 0,
    "signum": "",
    "terminated": False,
    "expired": False,
    "known": "seen",
    "note": "",
    "attempts": [],
    "marks": [],
}


def _last_delivery(row: TaskRecord, deliveries: list[Delivery]) -> Mark | None:
    delivery, attempt = deliveries[-1], row.attempts[-1]
    end = delivery.end
    row.worker = attempt.worker
    row.state = attempt.state
    row.received_at, row.started_at = attempt.received_at, attempt.started_at
    row.runtime, row.note = attempt.runtime, attempt.note
    if end is None:
        weak = {"active"} if attempt.started_at is not None and delivery.first("started") is None else set()
        if weak or all(mark.kind in INSPECTED | WEAK for mark in delivery.marks):
            row.known = "inferred"
        return None
    return _ended(row, end, attempt)


def _ended(row: TaskRecord, end: Mark, attempt: Attempt) -> Mark:
    detail = detail_of(end)
    if row.state in ENDED:
        row.ended_at = attempt.ended_at
    if end.kind in WEAK:
        row.known = "inferred"
    if row.state == SUCCESS:
        row.result = detail.get("result")
    elif row.state in (FAILURE, RETRY, REJECTED, REVOKED):
        row.exception = attempt.exception
        row.traceback = detail.get("traceback")
        row.exception_type = exception_type(row.exception)
    row.signum = str(detail.get("signum") or "")
    row.terminated = bool(detail.get("terminated"))
    row.expired = bool(detail.get("expired"))
    return end


def _no_delivery(row: TaskRecord, ordered: list[Mark]) -> Mark | None:
    weak = [mark for mark in ordered if mark.kind in WEAK]
    if weak:
        end = max(weak, key=lambda mark: (mark.kind, when(mark), mark.key))
        row.state, row.note, row.known = state_of(end), note_of(end), "inferred"
        attempt = Attempt(number=0, state=row.state, exception=detail_of(end).get("exception"))
        attempt.ended_at = detail_of(end).get("ended") if end.kind == "settled" else when(end)
        row.runtime = detail_of(end).get("runtime")
        return _ended(row, end, attempt)
    custom = [
        mark for mark in ordered if mark.kind not in PHASE and mark.kind not in FOUND and mark.kind != "sent"
    ]
    if custom:
        # Sent by the task itself while it runs: all that is known is where.
        row.state, row.worker = STARTED, custom[0].worker
        row.started_at = None
    return None


def _found(row: TaskRecord, ordered: list[Mark]) -> None:
    """A message found at the broker says where a task is while nothing was heard of it since."""
    last = max((mark for mark in ordered if mark.kind in FOUND), key=lambda mark: (mark.seen_at, mark.key))
    heard = [mark.seen_at for mark in ordered if mark.kind not in FOUND and mark.kind != "sent"]
    if row.state in ENDED or (heard and max(heard) >= last.seen_at):
        return
    queue = detail_of(last).get("queue") or row.queue
    if last.kind == "queued":
        row.state, row.note = PENDING, f"found waiting in queue {queue}"
        row.worker, row.received_at, row.started_at, row.runtime = "", None, None, None
    elif not row.attempts:
        row.state, row.note = RECEIVED, "found unacknowledged at the broker"
    else:
        return
    row.known = "inferred"


def _first_received(attempts: list[Attempt]) -> float | None:
    return min((a.received_at for a in attempts if a.received_at is not None), default=None)


def exception_type(text: str | None) -> str:
    """``ValueError`` of ``ValueError('no')``; empty where no type can be read."""
    if not text:
        return ""
    head = text.partition("(")[0].partition(":")[0].strip()
    last = head.rpartition(".")[2]
    return head[:255] if last.isidentifier() and " " not in head else ""


def _total_order(mark: Mark) -> tuple[Any, ...]:
    return (mark.at, mark.worker, mark.pid, mark.clock, PHASE.get(mark.kind, 3), mark.kind)


def _unpacked(mark: Mark, row: TaskRecord) -> Mark:
    moved = detail_of(mark).get("in_row")
    if not moved:
        return mark
    detail = {key: value for key, value in detail_of(mark).items() if key != "in_row"}
    detail.update({field: getattr(row, field) for field in moved if field in IN_COLUMNS})
    return msgspec.structs.replace(mark, detail=detail)
