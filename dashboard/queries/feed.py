"""How fresh and whole the picture is: read for the header's chip, the banner and the feed page."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import msgspec

from dashboard.queries import shared
from monitor import models
from monitor.records import FeedRecord

LATE = 2.0  # seconds behind before the chip turns amber
TOO_LATE = 10.0  # seconds behind before a banner says so
SILENT = 10.0  # seconds without a word from the engine before it counts as gone
LOSING = 0.001  # share of events missed before a banner says so
SHARED = 0.2  # seconds that one reading serves every region of a page
READ = 500  # gaps read at once, the newest
FLAPS = 5.0  # seconds between two gaps of one trouble
RECENT = 15 * 60.0  # seconds a closed gap is still told in a banner


@dataclass(frozen=True)
class Banner:
    """What is wrong with the picture, in one or two sentences."""

    state: str  # failed or warn
    icon: str
    head: str
    text: str
    since: float | None = None


@dataclass(frozen=True)
class Freshness:
    """The feed as it was last told, and when that was."""

    feed: FeedRecord
    at: float | None  # when the engine last told; None: never
    silent: bool  # the engine itself has said nothing for a while
    gap: models.Gap | None  # the last span in which Umbel was not listening

    @property
    def live(self) -> bool:
        return self.feed.connected and not self.silent

    @property
    def since(self) -> float | None:
        """Since when it is not live."""
        return self.at if self.silent else self.feed.since

    @property
    def late(self) -> bool:
        return (self.feed.lag or 0) >= LATE

    @property
    def state(self) -> str:
        """The colour of the chip."""
        if self.at is None:
            return "sent"
        if not self.live:
            return "failed"
        return "warn" if self.late or self.feed.store_error else "succeeded"

    @property
    def place(self) -> str:
        """Where the broker is, without scheme and credentials: host:port/db of the first."""
        return self.feed.broker.partition(";")[0].partition("://")[2].rpartition("@")[2]

    @property
    def host(self) -> str:
        """The broker's host alone: what its people call it."""
        return re.sub(r"(:\d+)?(/.*)?$", "", self.place)

    @property
    def expected(self) -> int:
        """Events there should have been."""
        return self.feed.accounting.received + self.feed.accounting.missed

    @property
    def missed_share(self) -> float:
        return self.feed.accounting.missed / self.expected if self.expected else 0.0


def freshness(now: float | None = None) -> Freshness:
    """The feed's one row. Before the first there is nothing: not connected, nothing counted."""
    now = time.time() if now is None else now
    row, gap = shared.reading("feed", SHARED, _last)
    if row is None:
        return Freshness(FeedRecord(), None, silent=False, gap=gap)
    try:
        feed = msgspec.convert(row.data, FeedRecord, strict=False)
    except msgspec.ValidationError:
        # Written by another version: better nothing than half of it.
        return Freshness(FeedRecord(), None, silent=False, gap=gap)
    return Freshness(feed, row.at, silent=now - row.at > SILENT, gap=gap)


def _last() -> tuple[models.Feed | None, models.Gap | None]:
    return models.Feed.objects.filter(pk=1).first(), models.Gap.objects.order_by("-started_at").first()


def banner(fresh: Freshness, now: float | None = None) -> Banner | None:
    """The worst thing about the picture, or None when it can be trusted."""
    now = time.time() if now is None else now
    feed = fresh.feed
    if fresh.at is None:
        return None
    if fresh.silent:
        return Banner(
            "failed",
            "s-offline",
            "Umbel's engine is silent",
            "Nothing was read from the broker since; is umbel monitor running? All below may have changed.",
            fresh.at,
        )
    if not feed.connected:
        why = f"{feed.error.rstrip('.')}. " if feed.error else ""
        return Banner(
            "failed",
            "s-offline",
            "Umbel cannot reach the broker",
            f"{why}Workers are unknown, not offline: they may be fine, Umbel just cannot see them. "
            "It keeps trying.",
            feed.since,
        )
    if feed.store_error:
        return Banner(
            "failed",
            "s-failed",
            "Umbel cannot write its history",
            f"{feed.store_error.rstrip('.')}. {feed.store_pending:,} changes wait; it keeps trying.",
        )
    if (feed.lag or 0) > TOO_LATE:
        return Banner(
            "warn",
            "s-warn",
            f"{feed.lag:.0f} s behind",
            "Events arrive later than they happen. What you see was true that long ago.",
        )
    gap = fresh.gap
    if (
        gap is not None
        and gap.ended_at is not None
        and now - gap.ended_at < RECENT
        and fresh.missed_share > LOSING
    ):
        # A broker that flaps cuts often: it is the first of those cuts that counts.
        recent = _silences(now - RECENT)
        length = max(sum(one.elapsed or 0.0 for one in recent), 0.1)
        spans = sum(one.times for one in recent)
        times = f", in {spans:,} spans" if spans > 1 else ""
        return Banner(
            "warn",
            "s-warn",
            f"{feed.accounting.missed:,} events missed",
            f"Umbel was not listening for {length:.1f} s{times}. Counts can be low by that much.",
            min((one.started_at for one in recent), default=gap.started_at),
        )
    return None


@dataclass(frozen=True)
class Silence:
    """A span in which Umbel was not listening; ``elapsed`` is None while it lasts."""

    started_at: float
    ended_at: float | None
    reason: str
    times: int = 1  # as many with hardly anything between them
    length: float = 0.0  # seconds, of all of them, without what is between

    @property
    def elapsed(self) -> float | None:
        return None if self.ended_at is None else self.length


def gaps(limit: int = 20) -> list[Silence]:
    """The last spans in which Umbel was not listening, newest first; those of one trouble are one."""
    found: list[Silence] = []
    for gap in models.Gap.objects.order_by("-started_at")[:READ]:
        length = (gap.ended_at or gap.started_at) - gap.started_at
        later = found[-1] if found else None
        # One begins when something was last heard, which may be before the one ahead of it ended.
        if later and gap.ended_at is not None and later.started_at - gap.ended_at < FLAPS:
            length = max(0.0, min(gap.ended_at, later.started_at) - gap.started_at)
            found[-1] = Silence(
                gap.started_at, later.ended_at, gap.reason, later.times + 1, later.length + length
            )
        elif len(found) == limit:
            break
        else:
            found.append(Silence(gap.started_at, gap.ended_at, gap.reason, 1, length))
    return found


def _silences(since: float) -> list[Silence]:
    return [one for one in gaps(READ) if one.ended_at is not None and one.ended_at >= since]


def missing_workers(limit: int = 50) -> list[models.Worker]:
    """Workers whose events went missing, most first."""
    return list(models.Worker.objects.filter(missed__gt=0).order_by("-missed", "hostname")[:limit])


@dataclass(frozen=True)
class Counts:
    """The figures of the navigation."""

    running: int
    online: int
    known: int

    @property
    def away(self) -> int:
        return self.known - self.online


def counts() -> Counts:
    """Tasks running, workers online and known (beat is not a worker)."""
    workers = list(models.Worker.objects.filter(is_beat=False).values_list("status", flat=True))
    return Counts(
        running=models.Task.objects.filter(state="STARTED").count(),
        online=sum(status == "online" for status in workers),
        known=len(workers),
    )
