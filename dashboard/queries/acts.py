"""Every read of acts on many: what is held or sent now, their list, and one with its targets."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dashboard.queries import shared
from dashboard.queries.audit import names_of, workers_of
from dashboard.queries.tasks import row_of
from dashboard.templatetags.words import plain
from monitor.acts import standing
from monitor.acts.kinds import KINDS
from monitor.acts.models import ActTarget, BulkAct, counts
from monitor.models import Task

ROWS = 50
SHARED = 0.2  # seconds that one reading serves every page
COUNTED = 64  # acts whose counts are remembered for so long
MOST_NOW = 5  # told in the frame of every page
SAMPLE = 6  # targets that the question shows
FOLLOWED = 15.0  # seconds after the last batch in which its toast looks again
State, Outcome = BulkAct.State, ActTarget.Outcome
# Outcome -> the design's state and words, in the order of the page.
OUTCOMES = {
    "confirmed": ("succeeded", "Confirmed"),
    "sent": ("running", "Sent, not settled"),
    "waiting": ("sent", "Waiting to be sent"),
    "sending": ("received", "Being sent"),
    "not": ("failed", "Not confirmed"),
    "skipped": ("scheduled", "Skipped"),
    "refused": ("rejected", "Refused"),
    "silent": ("lost", "Silent"),
    "unknown": ("lost", "Fate unknown"),
    "left": ("revoked", "Not sent"),
}
# Command -> what to do, what is being done, what was done.
VERBS = {
    "revoke": ("Revoke", "Revoking", "revoked"),
    "terminate": ("Terminate", "Terminating", "terminated"),
    "retry": ("Retry", "Retrying", "sent again"),
    "drain": ("Drain", "Draining", "drained"),
    "shutdown": ("Shut down", "Shutting down", "shut down"),
    "pool_restart": ("Restart pools of", "Restarting pools of", "restarted"),
    "pool_grow": ("Grow pools of", "Growing pools of", "grown"),
    "pool_shrink": ("Shrink pools of", "Shrinking pools of", "shrunk"),
    "autoscale": ("Set autoscale of", "Setting autoscale of", "autoscale set"),
    "rate_limit": ("Set rate limit on", "Setting rate limit on", "rate limit set"),
    "time_limit": ("Set time limits on", "Setting time limits on", "time limits set"),
    "add_consumer": ("Add queue to", "Adding queue to", "queue added"),
    "cancel_consumer": ("Stop queue of", "Stopping queue of", "queue stopped"),
    "enable_events": ("Enable events on", "Enabling events on", "events enabled"),
    "disable_events": ("Stop events of", "Stopping events of", "events stopped"),
}
_STATES = {
    State.HELD: ("scheduled", "Held"),
    State.SENDING: ("running", "Sending"),
    State.SETTLING: ("received", "Settling"),
    State.WITHDRAWN: ("revoked", "Withdrawn"),
}


@dataclass(frozen=True)
class Shown:
    """An act in words. ``counts``: targets by outcome."""

    act: BulkAct
    counts: dict[str, int] = field(default_factory=dict)
    stands: int | None = None  # tasks that Umbel tells workers of again; None where that was not counted

    @property
    def verb(self) -> str:
        return self._verbs[0]

    @property
    def _verbs(self) -> tuple[str, str, str]:
        verb, doing, done = VERBS[self.act.command]
        if self.act.count > 1:
            return verb, doing, done
        return verb.replace("pools", "pool"), doing.replace("pools", "pool"), done

    @property
    def object(self) -> str:
        """412 tasks; of one worker its name."""
        named = self.act.summary.get("workers") or []
        if self.act.what == "worker" and self.act.count == 1 and named:
            return plain(str(named[0][0]))
        return f"{self.act.count:,} {self.act.what}{'' if self.act.count == 1 else 's'}"

    @property
    def noun(self) -> str:
        """Revoke of 412 tasks"""
        if self.act.what == "worker" and self.act.count == 1:
            return f"{self.verb} {self.object}"
        return f"{self.verb.removesuffix(' of')} of {self.object}"

    @property
    def how(self) -> str:
        return ", ".join(
            str(value) if key == "signal" else f"{key} {value}" for key, value in self.act.arguments.items()
        )

    @property
    def confirmed(self) -> int:
        return self.counts.get("confirmed", 0)

    @property
    def unsent(self) -> int:
        """Still to be sent."""
        return self.counts.get("waiting", 0) + self.counts.get("sending", 0)

    @property
    def gone_out(self) -> int:
        """Dealt with: sent, or left out with a reason."""
        return self.act.count - self.unsent

    @property
    def open(self) -> int:
        """Sent, and what became of it is not known yet."""
        return self.counts.get("sent", 0)

    @property
    def state(self) -> str:
        return self._pill[0]

    @property
    def word(self) -> str:
        return self._pill[1]

    @cached_property
    def _pill(self) -> tuple[str, str]:
        if self.act.state in _STATES:
            return _STATES[State(self.act.state)]
        if self.act.stopped_at is not None:
            return "warn", "Stopped"
        if self.confirmed == self.act.count:
            return "succeeded", "Confirmed"
        return ("warn", "Partly") if self.confirmed else ("failed", "Not confirmed")

    @property
    def title(self) -> str:
        """Result first."""
        _, doing, done = self._verbs
        if self.act.state == State.WITHDRAWN:
            return f"{self.noun}: withdrawn, nothing was sent"
        if self.act.state == State.HELD:
            return f"{self.noun}, held"
        if self.act.state == State.SENDING:
            return f"{doing} {self.object}"
        if self.act.state == State.SETTLING:
            return f"{self.noun}: {self.confirmed:,} confirmed so far"
        if self.confirmed == self.act.count:
            return f"{self.object} {done}, confirmed"
        return f"{self.noun}: {self.confirmed:,} confirmed"

    @property
    def sentence(self) -> str:
        """What there is to know beside the numbers."""
        act = self.act
        if act.stopped_at is not None and not act.stopped_by:
            return f"Umbel stopped it: {act.note}"
        if act.state == State.WITHDRAWN:
            return f"Withdrawn by {act.stopped_by} before anything was sent."
        if act.stopped_at is not None:
            left = self.counts.get("left", 0)
            return (
                f"Stopped by {act.stopped_by}: {left:,} were not sent."
                if left
                else f"{act.stopped_by} stops it."
            )
        if act.state == State.SETTLING and self.open:
            if self.stands == 0:
                return _WITHDRAWN
            return _OPEN.get(act.command, "Umbel looks for the effect.")
        return str(act.note)

    @property
    def is_logged(self) -> bool:
        """Whether each batch is one command in the log."""
        return KINDS[self.act.command].act is None

    @property
    def bar(self) -> list[tuple[float, float, str, str]]:
        """Its outcomes as pieces of one bar, in percent."""
        pieces, x = [], 0.0
        for outcome, (state, _) in OUTCOMES.items():
            wide = 100 * self.counts.get(outcome, 0) / max(self.act.count, 1)
            if wide and outcome not in ("waiting", "sending"):
                pieces.append((x, wide, "run", state))
                x += wide
        return pieces

    @property
    def others(self) -> int:
        """Targets beside those of the sample."""
        return max(0, self.act.count - SAMPLE)

    @property
    def follows(self) -> bool:
        """Whether its toast looks again: while it is held or sent, and for a moment after."""
        act = self.act
        if act.state == State.SETTLING:
            return time.time() - (act.sent_at or 0.0) < FOLLOWED
        return act.state in (State.HELD, State.SENDING)


_OPEN = {
    "revoke": "A revoked task is confirmed when a worker reaches it and skips it. Until then it waits in its "
    "queue, and Umbel sends the revoke again to each worker that restarts.",
    "retry": "A task that was sent again is confirmed when a worker has it; until then it waits.",
}


_WITHDRAWN = (
    "Nothing of it stands any more: Umbel tells no worker that restarts. Those that took it keep it until "
    "they restart, and skip what they reach."
)


@dataclass(frozen=True)
class Targets:
    """A page of targets, each with the name of its task and the key of its worker, if known."""

    rows: list[tuple[ActTarget, str, int | None]]
    page: int
    more: bool


def one(identity: uuid.UUID) -> Shown | None:
    """The act, if it was confirmed."""
    act = BulkAct.objects.exclude(state=State.DRAFT).filter(pk=identity).first()
    return Shown(act, _counts(act), _stands(act)) if act else None


def bare(identity: uuid.UUID) -> Shown | None:
    """The act without its counts."""
    act = BulkAct.objects.exclude(state=State.DRAFT).filter(pk=identity).first()
    return Shown(act) if act else None


def _counts(act: BulkAct) -> dict[str, int]:
    """As it ended; while it goes on counted once for all regions of a moment."""
    if act.tally:
        return dict(act.tally)
    at, found = _counted.get(act.pk, (0.0, {}))
    if not shared.kept or time.monotonic() - at > SHARED:
        if len(_counted) >= COUNTED:
            _counted.clear()
        found = counts(act)
        _counted[act.pk] = (time.monotonic(), found)
    return found


_counted: dict[uuid.UUID, tuple[float, dict[str, int]]] = {}


def _stands(act: BulkAct) -> int | None:
    """Of a revoke whose batches have all been sent: from then on they are the same ones."""
    if act.command != "revoke" or act.state not in (State.SETTLING, State.DONE):
        return None
    records = _batches.get(act.pk)
    if records is None:
        if len(_batches) >= COUNTED:
            _batches.clear()
        records = _batches[act.pk] = standing.batches(act)
    return standing.stands(records)


_batches: dict[uuid.UUID, list[uuid.UUID]] = {}


def targets(act: BulkAct, outcome: str, page: int) -> Targets:
    """In the order of the list, those with this outcome or all."""
    found = ActTarget.objects.filter(act=act)
    if outcome:
        found = found.filter(outcome=outcome)
    start = (page - 1) * ROWS
    rows = list(found.order_by("place")[start : start + ROWS + 1])
    names = [row.target for row in rows[:ROWS]]
    tasks = names_of(names) if act.what == "task" else {}
    keys = workers_of(names) if act.what == "worker" else {}
    shown = [(row, tasks.get(row.target, ""), keys.get(row.target)) for row in rows[:ROWS]]
    return Targets(shown, page, len(rows) > ROWS)


def now() -> list[Shown]:
    """Acts that are held or being sent, for the frame of every page."""
    return shared.reading("acts now", SHARED, _now)


def _now() -> list[Shown]:
    acts = BulkAct.objects.filter(state__in=(State.HELD, State.SENDING)).order_by("send_at")[:MOST_NOW]
    return [Shown(act, _counts(act) if act.state == State.SENDING else {}) for act in acts]


def entries(page: int) -> tuple[list[Shown], bool]:
    """A page of all acts, newest first, and whether there are more."""
    start = (page - 1) * ROWS
    acts = list(BulkAct.objects.exclude(state=State.DRAFT).order_by("-at", "pk")[start : start + ROWS + 1])
    return [Shown(act, _counts(act), _stands(act)) for act in acts[:ROWS]], len(acts) > ROWS


def of_record(record: uuid.UUID) -> BulkAct | None:
    """The act that a command was a batch of."""
    found = ActTarget.objects.filter(batch=record).values_list("act", flat=True).first()
    return BulkAct.objects.filter(pk=found).first() if found else None


def sample(act: BulkAct, most: int = SAMPLE) -> list[tuple[ActTarget, dict[str, Any]]]:
    """The first targets with what is known of them now; of tasks to be ended also how long they have run."""
    rows = list(ActTarget.objects.filter(act=act).order_by("place")[:most])
    tasks = Task.objects.filter(uuid__in=[r.target for r in rows]).defer("marks", "traceback", "result")
    known: dict[str, dict[str, Any]] = {}
    for task in tasks:
        known[task.uuid] = {"name": task.name, "worker": task.worker, "queue": task.queue}
        if act.command == "terminate":
            row = row_of(task, time.time())
            known[task.uuid] |= {"ran": row.ran, "pace": row.pace}
    return [(row, known.get(row.target, {})) for row in rows]
