"""What a revoke by stamp would hit: the stamps of a task, and the messages that bear one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from dashboard.queries import backlog
from dashboard.queries.radius import radius
from monitor import broker, messages, queues
from monitor.control.capabilities import capabilities
from monitor.control.commands import TERMINATE
from monitor.control.revokes.stamps import HOURS, values_of
from monitor.models import StandingStamp, Worker

SAMPLE = 5
SHOWN = 20  # stamps that stand


@dataclass(slots=True)
class Hit:
    """``waiting``: messages at the broker that bear the stamp; None when they could not be counted."""

    uuid: str = ""
    header: str = ""
    value: str = ""
    hours: int = HOURS
    stamps: list[tuple[str, str]] = field(default_factory=list)
    waiting: int | None = None
    whole: bool = False
    sample: list[str] = field(default_factory=list)  # names of tasks
    workers: int = 0  # online
    deaf: list[tuple[str, str]] = field(default_factory=list)  # who cannot end a running task, and why
    standing: list[StandingStamp] = field(default_factory=list)  # the last ones
    more: int = 0  # that stand
    unchecked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def choices(self) -> list[tuple[str, str, str]]:
        """What each choice sends, its header and its value: either may hold an equals sign."""
        return [(json.dumps(one), *one) for one in self.stamps]


def hit(uuid: str, header: str, value: str) -> Hit:
    """Of a task, or of a stamp given by hand."""
    uuid, header, value = (text.replace("\0", "").strip()[:255] for text in (uuid, header, value))
    found = Hit(uuid, header, value)
    online = list(Worker.objects.exclude(status="offline").filter(is_beat=False))
    found.workers = len(online)
    found.deaf = [
        (worker.hostname, can.reason)
        for worker in online
        if not (can := capabilities(worker).of(TERMINATE)).allowed
    ]
    stand = StandingStamp.objects.filter(until__gt=time.time())
    found.standing = list(stand.order_by("-since")[:SHOWN])
    found.more = stand.count() - len(found.standing)
    if found.uuid:
        near = radius([found.uuid], "revoke")
        found.unchecked = near.unchecked
        found.stamps = [(key, one) for key, values in sorted(near.stamps.items()) for one in values]
        if len(found.stamps) == 1 and not found.header:
            found.header, found.value = found.stamps[0]
    if found.header and found.value:
        _count(found)
    return found


def _count(found: Hit) -> None:
    current = broker.current()
    names = {queue.name for queue in backlog.current().queues}
    if current.transport != "redis":
        found.unchecked.append(("waiting messages", "only a Redis broker lets them be read where they lie"))
        return
    texts = [value if isinstance(value, str) else str(value) for value in values_of(found.value)]
    try:
        # Also those of which no event told.
        names |= set(queues.names(current))
        search = messages.stamped(current, found.header, texts, names)
    except (RedisError, OSError, KombuError) as error:
        found.unchecked.append(("waiting messages", f"the broker did not answer: {current.explain(error)}"))
        return
    found.waiting, found.whole = len(search.found), search.whole
    found.sample = sorted({one.name for one in search.found})[:SAMPLE]
