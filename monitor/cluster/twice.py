"""Tasks that ran twice: one attempt, started by two workers, or by one while it ran there already.

Redis hands a message out again when it was not acknowledged within the visibility timeout, whether its task
still runs or not. A retry is another attempt, and a task that was put back, or whose worker was lost, is
meant to run again: none of them is here.
"""

from __future__ import annotations

from itertools import combinations

from monitor.records import FAILURE, LOST, PENDING, SUCCESS, Attempt, TaskRecord, Twice

FOR = 3600.0  # seconds that one is told
MOST = 100
SLACK = 1.0  # seconds by which workers' clocks may differ


def twice(row: TaskRecord) -> tuple[Attempt, Attempt, bool] | None:
    """The last two starts of one attempt, and whether they ran together; None when each ran once."""
    found = None
    for first, second in combinations(row.attempts, 2):
        if first.number != second.number or first.started_at is None or second.started_at is None:
            continue
        if first.state in (LOST, PENDING):
            continue
        if first.worker == second.worker and first.ended_at is None and not _is_one_start(row, first):
            continue
        together = first.ended_at is None or second.started_at < first.ended_at - SLACK
        if together or first.state in (SUCCESS, FAILURE):
            found = (first, second, together)
    return found


def _is_one_start(row: TaskRecord, first: Attempt) -> bool:
    """Whether the worker was not restarted in between: then it would have begun it anew, with reason."""
    pids = {mark.pid for mark in row.marks if mark.kind == "started" and mark.worker == first.worker}
    return len(pids) == 1


class Doubles:
    """The latest tasks that ran twice, for the list of what needs attention."""

    def __init__(self) -> None:
        self._found: dict[str, Twice] = {}

    def note(self, row: TaskRecord, now: float) -> None:
        """Look at a row of several attempts; once told, a task is not told again."""
        if len(row.attempts) < 2 or row.uuid in self._found:
            return
        pair = twice(row)
        if pair is None or now - (pair[1].started_at or 0.0) > FOR:
            return
        first, second, together = pair
        self._found[row.uuid] = Twice(row.uuid, row.name, now, [first.worker, second.worker], together)
        while len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def latest(self, now: float) -> list[Twice]:
        """Of the last hour, the newest first."""
        self._found = {uuid: one for uuid, one in self._found.items() if now - one.at < FOR}
        return list(self._found.values())[::-1]
