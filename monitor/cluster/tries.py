"""The straight way from events to a row for lives of several tries: retried, or put back and run elsewhere.

``plain`` knows the lives of one try, nearly all there are; of the rest most are told in order, try after try,
each received, perhaps started, and ended, before its worker process tells of the next. For these ``row_of``
gives what ``derive`` would, in a fraction of the time; for every other set of events it gives None, and
``derive`` has the word. A property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from monitor.cluster.deliveries import ENDS, PHASE
from monitor.cluster.derive import DAY, exception_type, packed, supersede
from monitor.cluster.reading import detail_of, has, moment
from monitor.events import Failed, Received, Rejected, Retried, Revoked, Sent, Started, Succeeded, TaskEvent
from monitor.records import (
    ENDED,
    FAILURE,
    PENDING,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
    Attempt,
    Mark,
    TaskRecord,
)
from monitor.redact import Redactor

_MOST = 32  # events; of a longer life not all are kept
_STEPS = frozenset({Received, Started, Succeeded, Failed, Retried, Revoked, Rejected})
_RAISED = frozenset({FAILURE, RETRY, REJECTED, REVOKED})


class _Try:
    """One delivery to one worker process."""

    __slots__ = ("end", "number", "received", "started")

    def __init__(self, received: Any, number: int) -> None:
        self.received, self.number = received, number
        self.started: Any = None
        self.end: Any = None


def row_of(uuid: str, events: Sequence[TaskEvent], redactor: Redactor) -> TaskRecord | None:
    """The whole row, or None when the tries are not told one after the other."""
    if len(events) > _MOST:
        return None
    sent: list[Any] = []
    places: dict[tuple[str, int], list[Any]] = {}
    for event in events:
        if not event.timestamp:
            return None
        if event.__class__ is Sent:
            sent.append(event)
        elif event.__class__ in _STEPS and event.clock:
            places.setdefault((event.hostname, event.pid), []).append(event)
        else:
            return None
    tries: list[_Try] = []
    for told in places.values():
        if not _told_in_order(told, tries):
            return None
    if not tries or len({_order(event) for event in sent}) < len(sent):
        return None
    tries.sort(key=_begun)
    return _row(uuid, sent, tries, redactor)


# private, in the order of use


def _told_in_order(told: list[Any], tries: list[_Try]) -> bool:
    """Adds the tries of one worker process; False when it is not plain which step belongs to which."""
    told.sort(key=_clock)
    clock, at = 0, 0.0
    first: _Try | None = None
    one: _Try | None = None
    for event in told:
        if event.clock <= clock or event.timestamp <= at:
            return False
        clock, at = event.clock, event.timestamp
        if event.__class__ is Received:
            number = event.retries or 0
            if one is not None and (one.end is None or number < one.number + (one.end.__class__ is Retried)):
                return False
            one = _Try(event, number)
            first = first or one
            tries.append(one)
        elif one is None or one.end is not None:
            return False
        elif event.__class__ is Started:
            if one.started is not None:
                return False
            one.started = event
        elif one.started is None and one is not first:
            return False  # it may be another word on the try before
        else:
            one.end = event
    return True


def _row(uuid: str, sent: list[Any], tries: list[_Try], redactor: Redactor) -> TaskRecord:
    calls = [*sent, *(one.received for one in tries)]
    steps = [*calls, *(one.started for one in tries), *(one.end for one in tries)]
    marks: list[Mark] = []
    details: dict[int, dict[str, Any] | None] = {}
    for event in sorted(filter(None, steps), key=_order):
        detail = detail_of(event.kind, event, redactor)
        if detail is not None and event.__class__ in _CALLS:
            detail["has"] = has(event, moment(event.expires), moment(event.eta))
        details[id(event)] = detail
        marks.append(
            Mark(event.kind, event.hostname, event.pid, event.clock, event.timestamp, event.seen_at, detail)
        )
    attempts = [_attempt(one, details) for one in tries]
    for attempt, following in pairwise(attempts):
        supersede(attempt, following)
    last, attempt = tries[-1], attempts[-1]
    calls.sort(key=_rank, reverse=True)
    text = redactor.text
    args, kwargs = _said(calls, "args"), _said(calls, "kwargs")
    first_seen_at = min(mark.seen_at for mark in marks)
    row = TaskRecord(
        uuid,
        _said(calls, "name") or "",
        attempt.state,
        attempt.worker,
        _said(sent, "queue") or "",
        _said(sent, "routing_key") or "",
        None if args is None else text(args),
        None if kwargs is None else text(kwargs),
        received_at=attempt.received_at,
        started_at=attempt.started_at,
        runtime=attempt.runtime,
        note=attempt.note,
        eta=_moment(calls, "eta"),
        expires=_moment(calls, "expires"),
        root_id=_said(calls, "root_id"),
        parent_id=_said(calls, "parent_id"),
        retries=max(event.retries or 0 for event in calls),
        first_seen_at=first_seen_at,
        seen_at=max(mark.seen_at for mark in marks),
        day=int(first_seen_at // DAY),
        attempts=attempts,
        marks=marks,
    )
    if sent:
        client = min(sent, key=_order)
        row.sent_at, row.sender = client.timestamp, client.hostname
    begun = row.sent_at
    if begun is None:
        begun = min(one.received.timestamp for one in tries)
    starts = [one.started.timestamp for one in tries if one.started is not None]
    if starts:
        row.wait = max(0.0, min(starts) - begun)
    if last.end is not None:
        detail = details[id(last.end)] or {}
        if row.state in ENDED:
            row.ended_at = attempt.ended_at
        if row.state == SUCCESS:
            row.result = detail.get("result")
        elif row.state in _RAISED:
            row.exception, row.traceback = attempt.exception, detail.get("traceback")
            row.exception_type = exception_type(row.exception)
        row.signum = str(detail.get("signum") or "")
        row.terminated, row.expired = bool(detail.get("terminated")), bool(detail.get("expired"))
        key = (last.end.timestamp, last.end.hostname, last.end.pid, last.end.clock, last.end.kind)
        for place in range(len(marks) - 1, -1, -1):
            mark = marks[place]
            if (mark.at, mark.worker, mark.pid, mark.clock, mark.kind) == key:
                marks[place] = packed(mark, row)
                break
    return row


def _attempt(one: _Try, details: dict[int, dict[str, Any] | None]) -> Attempt:
    received, started, end = one.received, one.started, one.end
    attempt = Attempt(one.number, received.hostname, received_at=received.timestamp)
    if received.eta is not None:
        attempt.eta = moment(received.eta)
    if started is not None:
        attempt.started_at, attempt.state = started.timestamp, STARTED
    if end is None:
        return attempt
    detail = details[id(end)] or {}
    attempt.state, attempt.ended_at = ENDS[end.kind], end.timestamp
    if end.__class__ is Rejected and end.requeue:
        attempt.state, attempt.note = PENDING, "returned to its queue"
    attempt.exception = detail.get("exception") or None
    attempt.runtime = detail.get("runtime")
    if attempt.runtime is None and attempt.started_at is not None:
        attempt.runtime = max(0.0, end.timestamp - attempt.started_at)
    return attempt


def _said(calls: Sequence[Any], field: str) -> str | None:
    # The best-placed event that has one gives it.
    for event in calls:
        if value := getattr(event, field):
            return str(value)
    return None


def _moment(calls: Sequence[Any], field: str) -> float | None:
    for event in calls:
        if (raw := getattr(event, field)) and (at := moment(raw)) is not None:
            return at
    return None


_CALLS = frozenset({Sent, Received})


def _clock(event: Any) -> int:
    clock: int = event.clock
    return clock


def _order(event: Any) -> tuple[Any, ...]:
    kind = event.kind
    return (event.timestamp, event.hostname, event.pid, event.clock, PHASE.get(kind, 3), kind)


def _begun(one: _Try) -> tuple[Any, ...]:
    received = one.received
    return (one.number, received.timestamp, received.hostname, received.pid, received.clock)


def _rank(event: Any) -> tuple[Any, ...]:
    # As ``reading.rank_of``.
    received = event.__class__ is Received
    return (event.retries or 0, received, event.timestamp, event.kind, event.hostname, event.pid, event.clock)
