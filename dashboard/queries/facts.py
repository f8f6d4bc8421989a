"""What is known of a task that waits and of the workers around it, for ``reasons`` to decide by."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.queries.chords import Chord
from monitor.records import RECEIVED


@dataclass(frozen=True, slots=True)
class Reason:
    """One cause that holds, or an observation that narrows it; ``at`` is counted down to."""

    key: str
    head: str
    evidence: str = ""
    at: float | None = None
    pk: int | None = None  # of the worker it is about
    state: str = "sent"  # the design's name
    icon: str = "s-sent"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One worker. None is what it has not told."""

    hostname: str
    status: str = "online"
    pk: int | None = None
    queues: frozenset[str] | None = None
    names: frozenset[str] | None = None  # task names; None, too, where they were not looked at
    rate_limit: str = ""  # of the task's name
    is_revoked: bool | None = None  # whether it lists the task
    takes_at_once: bool = False  # gives its pool what it reserves, where no revoke reaches it
    has_grown: bool = False  # its prefork pool, which may have taken more than it was started to
    size: int | None = None
    pool: str = ""  # its name, or the class path of one
    busy: int = 0  # by events
    runs: tuple[tuple[str, float], ...] = ()  # (task name, seconds) of what runs there, the longest first
    asked_at: float | None = None
    stalled: str = ""  # that it works nothing, in words
    is_read: bool = True  # whether its answers were looked at: there may be too many workers for that

    @property
    def is_full(self) -> bool:
        return bool(self.size) and self.busy >= (self.size or 0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where it stands among the tasks that wait in its queue, by events."""

    ahead: int
    waiting: int  # with itself
    more: bool = False  # there are more than were counted


@dataclass(frozen=True, slots=True)
class Revoked:
    """A command of Umbel's that revoked it, as verified then."""

    at: float
    by: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of the task and its surroundings. Times: Unix seconds, our clock."""

    now: float
    state: str
    name: str = ""
    queue: str = ""
    worker: str = ""
    eta: float | None = None
    expires: float | None = None
    live: bool = True
    blind_since: float | None = None
    workers: tuple[Consumer, ...] = ()
    place: Place | None = None
    ahead_there: int | None = None  # reserved by its worker before it, not held for an ETA
    revoked: Revoked | None = None
    depth: int | None = None  # messages in its queue as the broker counted them
    depth_at: float | None = None
    seen_at: float = 0.0  # when Umbel last heard of it
    given_back: float | None = None  # when a Redis broker hands its message out again, if it was taken
    timeout: str = ""  # the visibility timeout, in words with how it is known
    chord: Chord | None = None  # that it looks after

    @property
    def held_back(self) -> bool:
        """Whether its time has not come."""
        return self.eta is not None and self.eta > self.now

    @property
    def online(self) -> list[Consumer]:
        """Where Umbel does not hear, those that it heard last: all is told as of then."""
        there = ("online",) if self.live else ("online", "unknown")
        return [worker for worker in self.workers if worker.status in there]

    @property
    def consumers(self) -> list[Consumer]:
        """Who is online and consumes its queue."""
        return [worker for worker in self.online if self.queue and self.queue in (worker.queues or ())]

    @property
    def holder(self) -> Consumer | None:
        """Who has reserved it."""
        if self.state != RECEIVED:
            return None
        return next((worker for worker in self.workers if worker.hostname == self.worker), None)

    @property
    def may_take(self) -> list[Consumer]:
        """Who will meet the task, as far as known."""
        if self.state != RECEIVED:
            return self.consumers if self.queue else self.online
        holder = self.holder
        return [holder] if holder is not None and holder.status != "offline" else []

    @property
    def unread(self) -> int:
        """Workers that may take it whose answers were not looked at."""
        return sum(not worker.is_read for worker in self.may_take)
