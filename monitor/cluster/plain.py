"""The straight way from the events of a plain life to its row: sent, received, started, and one end.

Nearly all tasks live so: once on one worker, told in order by its clock, not retried nor put back. For these
``row_of`` gives what ``derive`` would, in a fraction of the time; for every other set of events it gives
None, and ``derive`` has the word. A property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monitor.cluster.derive import DAY, exception_type
from monitor.cluster.reading import EXCEPTION_LIMIT, TRACEBACK_LIMIT, has, moment
from monitor.events import Failed, Received, Rejected, Revoked, Sent, Started, Succeeded, TaskEvent
from monitor.records import (
    FAILURE,
    RECEIVED,
    REJECTED,
    REVOKED,
    STARTED,
    SUCCESS,
    Attempt,
    Mark,
    TaskRecord,
)
from monitor.redact import Redactor


def row_of(
    uuid: str, events: Sequence[TaskEvent], redactor: Redactor, before: TaskRecord | None = None
) -> TaskRecord | None:
    """The whole row, or None when the life is not plain. ``before`` is the row that earlier events gave."""
    sent: Any = None
    received: Any = None
    started: Any = None
    end: Any = None
    for event in events:
        shape = event.__class__
        if shape is Started:
            if started is not None:
                return None
            started = event
        elif shape is Received:
            if received is not None:
                return None
            received = event
        elif shape in _ENDS:
            if end is not None:
                return None
            end = event
        elif shape is Sent:
            if sent is not None:
                return None
            sent = event
        else:
            return None
    if received is None:
        if sent is None or len(events) > 1 or sent.retries or not sent.timestamp:
            return None
        return _waiting(uuid, sent, redactor)
    if not _is_plain(sent, received, started, end):
        return None
    return _row(uuid, (sent, received, started, end), redactor, before)


# private, in the order of use


def _is_plain(sent: Any, received: Any, started: Any, end: Any) -> bool:
    """One worker process, clock and time rising from step to step, the first attempt."""
    hostname, pid, clock, at = received.hostname, received.pid, received.clock, received.timestamp
    if not clock or not at or received.retries or received.eta is not None:
        return False
    if sent is not None and (
        sent.retries or not sent.timestamp or (sent.hostname == hostname and sent.pid == pid)
    ):
        return False
    sent_at = sent.timestamp if sent is not None else 0.0
    if sent_at == at:
        return False
    last = received
    if started is None:
        if end is None:
            return True
        # Only what never ran ends so.
        if end.__class__ is Succeeded or end.__class__ is Failed:
            return False
    elif (
        started.hostname != hostname
        or started.pid != pid
        or started.clock <= clock
        or started.timestamp <= at
        or started.timestamp == sent_at
    ):
        return False
    else:
        last = started
    if end is None:
        return True
    if (end.__class__ is Failed and not end.exception) or (end.__class__ is Rejected and end.requeue):
        return False
    return bool(
        end.hostname == hostname
        and end.pid == pid
        and end.clock > last.clock
        and end.timestamp > last.timestamp
        and end.timestamp != sent_at
    )


def _row(  # noqa: PLR0915
    uuid: str, life: tuple[Any, Any, Any, Any], redactor: Redactor, before: TaskRecord | None
) -> TaskRecord:
    # One stretch of straight code: this runs for nearly every task there is.
    sent, received, started, end = life
    shape = end.__class__
    worker, pid = received.hostname, received.pid
    args, kwargs = received.args or None, received.kwargs or None
    result = exception = traceback = None
    if shape is Succeeded:
        result = end.result
    elif shape is Failed:
        exception, traceback = end.exception, end.traceback
    if sent is not None:
        # The worker's word goes first, the client's where it says nothing.
        args, kwargs = args or sent.args or None, kwargs or sent.kwargs or None
    # One look at texts together: most hold nothing to hide. Arguments were looked at with the receipt.
    text = redactor.text
    if before is not None and before.received_at is not None and sent is None:
        args, kwargs = before.args, before.kwargs
    elif not redactor.is_clean(f"{args}\n\n{kwargs}"):
        args, kwargs = args and text(args), kwargs and text(kwargs)
    # Not all of them at once: of these there would be too many shapes for the redactor to remember.
    if exception is not None:
        if not redactor.is_clean(f"{exception}\n\n{traceback}"):
            exception, traceback = text(exception), traceback and text(traceback)
    elif result is not None and not redactor.is_clean(result):
        result = text(result)
    if exception is not None and len(exception) > EXCEPTION_LIMIT:
        exception = exception[: EXCEPTION_LIMIT - 1] + "…"
    if traceback is not None and len(traceback) > TRACEBACK_LIMIT:
        traceback = traceback[: TRACEBACK_LIMIT - 1] + "…"

    name, root_id, parent_id = received.name, received.root_id, received.parent_id
    expires = None if received.expires is None else moment(received.expires)
    at = received.timestamp
    first = last = received.seen_at
    is_usual = name and received.args and received.kwargs and root_id and not parent_id and not expires
    detail: dict[str, Any] = _DETAIL if is_usual else {"retries": 0, "has": has(received, expires)}
    marks = [Mark("received", worker, pid, received.clock, at, first, detail)]
    state, started_at, ended_at, runtime = RECEIVED, None, None, None
    signum, terminated, expired = "", False, False
    if started is not None:
        state, started_at = STARTED, started.timestamp
        seen_at = started.seen_at
        marks.append(Mark("started", worker, pid, started.clock, started_at, seen_at))
        first, last = (first if first < seen_at else seen_at), (last if last > seen_at else seen_at)
    if end is not None:
        ended_at, seen_at = end.timestamp, end.seen_at
        first, last = (first if first < seen_at else seen_at), (last if last > seen_at else seen_at)
        if shape is Succeeded:
            state, runtime = SUCCESS, end.runtime
            detail = {"in_row": _RESULT}
            if runtime is not None:
                detail["runtime"] = runtime
        elif shape is Failed:
            state = FAILURE
            detail = {"in_row": _EXCEPTION if traceback is None else _TRACEBACK}
        elif shape is Revoked:
            state, terminated, expired = REVOKED, bool(end.terminated), bool(end.expired)
            detail = {"terminated": terminated, "expired": expired}
            if end.signum is not None:
                detail["signum"] = end.signum
                signum = str(end.signum or "")
        else:
            state, detail = REJECTED, _REJECTED
        marks.append(Mark(end.kind, worker, pid, end.clock, ended_at, seen_at, detail))
        if runtime is None and started_at is not None:
            runtime = ended_at - started_at
    wait = None if started_at is None else started_at - at
    sent_at, queue, routing_key, sender = None, "", "", ""
    if sent is not None:
        sent_at, seen_at, sender = sent.timestamp, sent.seen_at, sent.hostname
        queue, routing_key = sent.queue or "", sent.routing_key or ""
        name, root_id, parent_id = name or sent.name, root_id or sent.root_id, parent_id or sent.parent_id
        eta = None if sent.eta is None else moment(sent.eta)
        sent_expires = None if sent.expires is None else moment(sent.expires)
        expires = sent_expires if expires is None else expires
        first, last = (first if first < seen_at else seen_at), (last if last > seen_at else seen_at)
        detail = {"retries": 0, "has": has(sent, sent_expires, eta)}
        if eta is not None:
            detail["eta"] = eta
        mark = Mark("sent", sender, sent.pid, sent.clock, sent_at, seen_at, detail)
        place = 0
        while place < len(marks) and marks[place].at < sent_at:
            place += 1
        marks.insert(place, mark)
        if started_at is not None:
            wait = max(0.0, started_at - sent_at)
    else:
        eta = None
    return TaskRecord(
        uuid,
        name or "",
        state,
        worker,
        queue,
        routing_key,
        args,
        kwargs,
        result,
        exception,
        exception_type(exception) if exception is not None else "",
        traceback,
        sent_at,
        at,
        started_at,
        ended_at,
        eta,
        expires,
        first,
        last,
        runtime,
        wait,
        0,
        root_id or None,
        parent_id or None,
        sender,
        signum,
        terminated,
        expired,
        "seen",
        "",
        int(first // DAY),
        [Attempt(0, worker, state, at, started_at, ended_at, None, runtime, exception)],
        marks,
    )


def _waiting(uuid: str, sent: Any, redactor: Redactor) -> TaskRecord:
    """A task that no worker has received yet."""
    eta = None if sent.eta is None else moment(sent.eta)
    expires = None if sent.expires is None else moment(sent.expires)
    detail = {"retries": 0, "has": has(sent, expires, eta)}
    if eta is not None:
        detail["eta"] = eta
    seen_at = sent.seen_at
    return TaskRecord(
        uuid,
        sent.name or "",
        queue=sent.queue or "",
        routing_key=sent.routing_key or "",
        args=redactor.text(sent.args) if sent.args else None,
        kwargs=redactor.text(sent.kwargs) if sent.kwargs else None,
        sent_at=sent.timestamp,
        eta=eta,
        expires=expires,
        first_seen_at=seen_at,
        seen_at=seen_at,
        root_id=sent.root_id or None,
        parent_id=sent.parent_id or None,
        sender=sent.hostname,
        day=int(seen_at // DAY),
        attempts=[],
        marks=[Mark("sent", sent.hostname, sent.pid, sent.clock, sent.timestamp, seen_at, detail)],
    )


_ENDS = frozenset({Succeeded, Failed, Revoked, Rejected})
_REJECTED: dict[str, Any] = {"requeue": False}
_RESULT, _EXCEPTION, _TRACEBACK = ["result"], ["exception"], ["exception", "traceback"]
# Of most receipts: a name, arguments and its own root.
_DETAIL: dict[str, Any] = {"retries": 0, "has": "nakr"}
