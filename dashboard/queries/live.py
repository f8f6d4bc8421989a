"""What the live pages of this web process get, and what they do not: read from its hubs, from any thread."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard import hub as hubs
from dashboard.pace import PERIODS


@dataclass(frozen=True, slots=True)
class Pages:
    """Of all sockets of the process; counts are since it started."""

    sockets: int = 0
    regions: int = 0  # that somebody looks at
    slower: int = 0  # of these, drawn less often than they ask for, since drawing them takes long
    frames: int = round(1 / PERIODS[0])  # a second, at most
    coarse: int = 0  # seconds with fewer than that
    skipped: int = 0  # frames that a browser which reads slowly never got, since a newer one came
    failed: int = 0  # draws
    refused: int = 0  # sockets beyond the limit


def pages() -> Pages:
    found = Pages()
    for hub in hubs.all_of_process():
        outboxes, lives, pace = list(hub.outboxes()), list(hub.lives()), hub.pace
        wanted = [max(live.region.every, PERIODS[0]) for live in lives]
        actual = [pace.rest(live.region.every, live.cost, len(live.content or "")) for live in lives]
        found = Pages(
            sockets=found.sockets + len(outboxes),
            regions=found.regions + len(lives),
            slower=found.slower + sum(a > w for a, w in zip(actual, wanted, strict=True)),
            frames=min(found.frames, pace.frames),
            coarse=found.coarse + pace.coarse,
            skipped=found.skipped + hub.counts.skipped + sum(outbox.skipped for outbox in outboxes),
            failed=found.failed + hub.counts.failed,
            refused=found.refused + hub.counts.refused,
        )
    return found
