"""Which tasks and workers an act is for: chosen by hand, or all that match a filter, read to the last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from dashboard.forms.tasks import SPAN_WORDS, TaskFilter
from dashboard.queries import newest, tasks, text
from dashboard.queries.newest import LISTS, Place, Wanted, wanted
from dashboard.templatetags.umbel import state_word
from dashboard.templatetags.words import clock
from monitor.acts.kinds import KINDS, ONLINE, RETRY_TASKS, run_of
from monitor.acts.making import Frozen, List
from monitor.control import Refused
from monitor.models import SentTask, Task, Worker
from monitor.records import STATES

AT_ONCE = 1_000  # ids in one question
PATIENCE = 10.0  # seconds that reading a list may take
_COLUMNS = ("seen_at", "id", "uuid", "name", "state", "worker", "queue", "retries", "started_at")
Spared = list[tuple[str, str]]  # target, and why it is not acted on


def matching(command: str, asked: TaskFilter, most: int, now: float | None = None) -> List:
    """Every task that matches and that this command is for. Raises ``Refused``: never only some of them."""
    now = time.time() if now is None else now
    states = [s for s in STATES if s in KINDS[command].states and s in (asked.states or STATES)]
    if asked.errors:
        raise Refused(f"{asked.errors[0]} Nothing was sent.")
    if not states:
        had = " or ".join(state_word(state) for state in asked.states)
        raise Refused(f"Only {had} tasks match that filter: nothing to {command} there. Nothing was sent.")
    whole = replace(asked, states=tuple(states), sort="", before=None, after=None, page=1)
    rows = _stuck(whole, now) if asked.stuck else _all(whole, states, now, most)
    if len(rows) > most:
        raise Refused(
            f"More than {most:,} tasks match, and an act takes {most:,} at most (UMBEL_BULK_MOST): "
            "narrow the filter, by its time for example. Nothing was sent."
        )
    if not rows:
        raise Refused(f"No task matches that filter and can be {_DONE[command]}. Nothing was sent.")
    said = words(whole, now)
    if command == RETRY_TASKS and (done := _ran_again([row["uuid"] for row in rows])):
        rows = [row for row in rows if row["uuid"] not in done]
        if not rows:
            all_ = "The one task that matches" if len(done) == 1 else f"All {len(done):,} tasks that match"
            raise Refused(
                f"{all_} {'was' if len(done) == 1 else 'were'} run again already. Nothing was sent."
            )
        said += f", but for {len(done):,} that {'was' if len(done) == 1 else 'were'} run again already"
    return List([_frozen(row) for row in rows], said, whole.query(), now)


def by_hand(command: str, uuids: Sequence[str], now: float | None = None) -> tuple[List, Spared]:
    """These tasks, but those that this command is not for."""
    now = time.time() if now is None else now
    kind, spared, found = KINDS[command], [], []
    rows = {row["uuid"]: row for row in Task.objects.filter(uuid__in=uuids).values(*_COLUMNS)}
    done = _ran_again(uuids) if command == RETRY_TASKS else {}
    for uuid in uuids:
        row = rows.get(uuid)
        if row is None:
            spared.append((uuid, "not in Umbel's history"))
        elif row["state"] not in kind.states:
            spared.append((uuid, _WHY[command].format(state=state_word(row["state"]))))
        elif uuid in done:
            as_, at = done[uuid]
            spared.append((uuid, f"run again already as {as_[:8]} at {clock(at)} UTC"))
        else:
            found.append(_frozen(row))
    many = len(uuids)
    chosen = f"{many:,} task{'' if many == 1 else 's'} chosen by hand"
    return List(found, chosen, read_at=now), spared


def workers(command: str, keys: Sequence[int], now: float | None = None) -> tuple[List, Spared]:
    """These workers, but those that this command is not for."""
    from monitor.control.orders import cannot

    now = time.time() if now is None else now
    found, spared = [], []
    for row in Worker.objects.filter(pk__in=keys):
        name = str(row.hostname)
        if why := cannot(name, KINDS[command].sends or command):
            spared.append((name, why))
        elif row.status != ONLINE:
            spared.append((name, f"{name} is {row.status}: it cannot be asked."))
        else:
            found.append(Frozen(name, ONLINE, row.pid, worker=name))
    return List(
        found, f"{len(keys):,} worker{'' if len(keys) == 1 else 's'} chosen by hand", read_at=now
    ), spared


def words(asked: TaskFilter, now: float) -> str:
    """The filter as a sentence says it."""
    parts = [f"that are {' or '.join(state_word(state) for state in asked.states)}"] if asked.states else []
    if asked.stuck:
        parts.append("that run longer than 3 × their p99")
    if asked.name:
        parts.append(f"named {asked.name}")
    if asked.queue:
        parts.append(f"of queue {asked.queue}")
    if asked.worker:
        parts.append(f"of worker {asked.worker}")
    if asked.error:
        parts.append(f"with exception {asked.error}")
    if asked.q:
        parts.append(f"with the text “{asked.q}”")
    if asked.span:
        parts.append(f"with their last event in the {SPAN_WORDS[asked.span]} before {clock(now)} UTC")
    bounds = [f"{word} {asked.raw[key]} UTC" for key, word in _ENDS if asked.raw.get(key)]
    if bounds:
        parts.append(f"with their last event {' '.join(bounds)}")
    return f"All tasks {', '.join(parts)}"


_ENDS = (("from", "from"), ("to", "to"))
_DONE = {
    "revoke": "revoked: none of them waits",
    "terminate": "terminated: none of them runs",
    "retry": "retried: none of them failed, was lost, rejected or revoked",
}
_WHY = {
    "revoke": "{state}: it does not wait",
    "terminate": "{state}: it does not run",
    "retry": "{state}: it has not ended badly",
}


def _ran_again(uuids: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Of these tasks those that Umbel sent again, with the new id and when: they stay failed all the same."""
    found: dict[str, tuple[str, float]] = {}
    for start in range(0, len(uuids), AT_ONCE):
        sent = SentTask.objects.filter(of__in=uuids[start : start + AT_ONCE], record__sent_at__isnull=False)
        found |= {of: (uuid, at) for of, uuid, at in sent.order_by("at").values_list("of", "uuid", "at")}
    return found


def _all(asked: TaskFilter, states: Iterable[str], now: float, most: int) -> list[dict[str, Any]]:
    """One state after the other, so that each is read off its index, however many names a pattern has."""
    if asked.name and len(newest.names(asked.name)) >= LISTS:
        raise Refused(f"“{asked.name}” stands for more than {LISTS - 1} task names: write more of the name.")
    found: dict[str, dict[str, Any]] = {}
    until = time.monotonic() + PATIENCE
    for state in states:
        want: Wanted | None = wanted(replace(asked, states=(state,)), now)
        while want is not None and len(found) <= most:
            rows, on = _part(asked, want, most + 1 - len(found))
            for row in rows:
                one = dict(zip(_COLUMNS, row, strict=True))
                found.setdefault(one["uuid"], one)
            want = None if on is None else replace(want, before=on)
            if time.monotonic() > until:
                raise Refused(
                    f"Reading all that match takes longer than {PATIENCE:.0f} s: narrow the filter, by its "
                    "time for example. Nothing was sent."
                )
    return sorted(found.values(), key=lambda row: (row["seen_at"], row["id"]), reverse=True)


def _part(asked: TaskFilter, want: Wanted, most: int) -> tuple[list[tuple[Any, ...]], Place | None]:
    if not asked.q:
        part = newest.newest(_COLUMNS, want, most)
        return part.rows, part.on
    read = text.find(_COLUMNS, asked.q, want, most)
    if read.behind is not None:
        raise Refused(
            "The words of the newest tasks are still being indexed, so not all that match can be found yet: "
            "try again in a moment. Nothing was sent."
        )
    return read.rows, read.on


def _stuck(asked: TaskFilter, now: float) -> list[dict[str, Any]]:
    rows, whole = tasks.stuck(asked, now)
    if not whole:
        raise Refused(
            f"More than {tasks.SORTED:,} tasks run, and stuck ones are looked for among so many: "
            "choose rows by hand, or narrow the filter. Nothing was sent."
        )
    uuids = [row.task.uuid for row in rows]
    return list(Task.objects.filter(uuid__in=uuids).values(*_COLUMNS))


def _frozen(row: dict[str, Any]) -> Frozen:
    return Frozen(row["uuid"], row["state"], run_of(row), row["name"], row["worker"], row["queue"])
