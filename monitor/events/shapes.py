"""The shapes of Celery's events: one struct a type, holding only what that type carries, within its bounds.

The bounds are checked while the bytes are parsed, so what comes out needs no second look. Fields are in the
order of the wire, which parses fastest.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

EVENTS_LIMIT = 10_000  # events in one message
NAME_LIMIT = 255  # characters of a task name, hostname, queue …
UUID_LIMIT = 155
TEXT_LIMIT = 8_192  # characters of args, kwargs, result, exception
TRACEBACK_LIMIT = 65_536
EXTRA_LIMIT = 4_096  # characters of a custom event's extra fields, as JSON
LATEST = 4_102_444_800.0  # 2100-01-01
BIGGEST = 2**63 - 1
BIGGEST_SMALL = 2**31 - 1

Hostname = Annotated[str, Meta(min_length=1, max_length=NAME_LIMIT)]
Uuid = Annotated[str, Meta(min_length=1, max_length=UUID_LIMIT)]
Stamp = Annotated[float, Meta(gt=0, lt=LATEST)]
Offset = Annotated[float, Meta(ge=-48, le=48)]
Small = Annotated[int, Meta(ge=0, le=BIGGEST_SMALL)]
Big = Annotated[int, Meta(ge=0, le=BIGGEST)]
Seconds = Annotated[float, Meta(ge=0, lt=LATEST)]
Name = Annotated[str, Meta(max_length=NAME_LIMIT)]
Identifier = Annotated[str, Meta(max_length=UUID_LIMIT)]
Moment = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]
Traceback = Annotated[str, Meta(max_length=TRACEBACK_LIMIT)]
Signal = Annotated[int, Meta(ge=0, lt=256)]
Load = Annotated[list[float], Meta(max_length=3)]


# A field that only we fill: its name on the wire is one that nobody can know.
_UNHEARD_OF = f"_{secrets.token_hex(12)}"


class Event(msgspec.Struct, kw_only=True, gc=False):
    """What every event has. ``timestamp`` 0.0 means that the sender's was not usable."""

    # The event's type on the wire, and without "task-" (of worker events the whole type).
    type: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    hostname: Hostname
    utcoffset: Offset | None = None
    pid: Small = 0
    clock: Big = 0
    timestamp: Stamp


class TaskEvent(Event, kw_only=True, gc=False):
    """An event of one task. ``seen_at`` is our clock at its receipt; no sender can set it."""

    uuid: Uuid
    seen_at: float = msgspec.field(default=0.0, name=_UNHEARD_OF)


class Received(TaskEvent, kw_only=True, gc=False, tag="task-received"):
    type = "task-received"
    kind = "received"

    name: Name | None = None
    args: Text | None = None
    kwargs: Text | None = None
    root_id: Identifier | None = None
    parent_id: Identifier | None = None
    retries: Small | None = None
    eta: Moment | None = None  # a number when it was sent as one
    expires: Moment | None = None


class Sent(TaskEvent, kw_only=True, gc=False, tag="task-sent"):
    type = "task-sent"
    kind = "sent"

    root_id: Identifier | None = None
    parent_id: Identifier | None = None
    name: Name | None = None
    args: Text | None = None
    kwargs: Text | None = None
    retries: Small | None = None
    eta: Moment | None = None
    expires: Moment | None = None
    queue: Name | None = None
    exchange: Name | None = None
    routing_key: Name | None = None


class Started(TaskEvent, kw_only=True, gc=False, tag="task-started"):
    type = "task-started"
    kind = "started"


class Succeeded(TaskEvent, kw_only=True, gc=False, tag="task-succeeded"):
    type = "task-succeeded"
    kind = "succeeded"

    result: Text | None = None
    runtime: Seconds | None = None


class Raised(TaskEvent, kw_only=True, gc=False):
    """A task raised something."""

    exception: Text | None = None
    traceback: Traceback | None = None


class Failed(Raised, kw_only=True, gc=False, tag="task-failed"):
    type = "task-failed"
    kind = "failed"


class Retried(Raised, kw_only=True, gc=False, tag="task-retried"):
    type = "task-retried"
    kind = "retried"


class Revoked(TaskEvent, kw_only=True, gc=False, tag="task-revoked"):
    type = "task-revoked"
    kind = "revoked"

    terminated: bool | None = None
    signum: Signal | None = None  # a text when it was sent as one
    expired: bool | None = None


class Rejected(TaskEvent, kw_only=True, gc=False, tag="task-rejected"):
    type = "task-rejected"
    kind = "rejected"

    requeue: bool | None = None


class Custom(TaskEvent, kw_only=True, gc=False):
    """A task event that is not Celery's own, such as ``task-progress``, with whatever it carries."""

    type: str  # type: ignore[misc]
    extra: dict[str, Any] | None = None

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.type[5:]


class WorkerEvent(Event, kw_only=True, gc=False):
    """What a worker says of itself."""

    freq: Seconds | None = None
    active: Small | None = None
    processed: Big | None = None
    loadavg: Load | None = None
    sw_ident: Name | None = None
    sw_ver: Name | None = None
    sw_sys: Name | None = None


class Online(WorkerEvent, kw_only=True, gc=False, tag="worker-online"):
    type = kind = "worker-online"


class Heartbeat(WorkerEvent, kw_only=True, gc=False, tag="worker-heartbeat"):
    type = kind = "worker-heartbeat"


class Offline(WorkerEvent, kw_only=True, gc=False, tag="worker-offline"):
    type = kind = "worker-offline"
