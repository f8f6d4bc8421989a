"""Control commands as values: who asks for what, and why a command is refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from monitor.models import ControlRecord

SIGNALS = ("SIGTERM", "SIGKILL", "SIGUSR1", "SIGINT", "SIGQUIT")
REVOKE, TERMINATE = "revoke", "terminate"
GROW, SHRINK, AUTOSCALE, RESTART_POOL = "pool_grow", "pool_shrink", "autoscale", "pool_restart"
RATE_LIMIT, TIME_LIMIT = "rate_limit", "time_limit"
ADD_CONSUMER, CANCEL_CONSUMER = "add_consumer", "cancel_consumer"
ENABLE_EVENTS, DISABLE_EVENTS = "enable_events", "disable_events"
PING, SHUTDOWN = "ping", "shutdown"
PURGE = "purge"
SEND = "send_task"
# Asked of Umbel itself: it sends the others when their time has come.
SHRINK_WHEN_FREE, KEEP_SIZE = "shrink_when_free", "keep_size"
DRAIN, END_DRAIN, DISMISS = "drain", "end_drain", "dismiss"
REVOKE_STAMPED, ABORT = "revoke_by_stamped_headers", "abort"
SIGNAL_PROCESS = "signal_process"  # a rung of a ladder alone

# Roles that may control; ``dashboard.access`` says who has them.
MAY_CONTROL = ("operator", "admin")
# Ids in one message: 5,000 block a worker for 2.5 s, and it remembers 50,000 in all.
MOST_IDS = 500
UUID = re.compile(r"[\w.:@+-]{1,155}")


class Refused(Exception):
    """A command that was not sent. Its text is a sentence with the value in it and a way out.

    ``skipped``: why each of several targets was left out, when that is what was left.
    """

    def __init__(self, text: str, skipped: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.skipped = dict(skipped or {})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    user_id: int | None
    username: str
    role: str
    address: str = ""


# What Umbel does of itself.
UMBEL = Actor(None, "Umbel", "operator")


@dataclass(frozen=True, slots=True)
class Message:
    """A task to be sent. Its arguments are sent as they are, and kept nowhere. Times: Unix seconds."""

    uuid: str
    name: str
    queue: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    priority: int | None = None
    eta: float | None = None
    expires: float | None = None
    of: str = ""  # the task that it runs again
    source: str = ""  # where its arguments come from: a key of originals.SOURCES, or "form"
    edited: bool = False
    headers: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    argsrepr: str | None = None  # what events show in place of the arguments
    kwargsrepr: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked.

    ``targets`` are task uuids (revoke, terminate, abort), of new tasks (send_task), a queue (purge), a stamp
    as ``header=value`` (revoke_by_stamped_headers) or worker hostnames (the others). ``arguments``:

    - terminate ``{"signal": "SIGTERM"}``; revoke ``{"if_started": "SIGTERM"}``, the signal for a task that is
      started all the same, or nothing;
    - revoke_by_stamped_headers ``{"header": "tenant", "value": "42", "signal": "SIGTERM"}``, without a signal
      running tasks go on;
    - pool_grow and pool_shrink ``{"n": 2}``, or ``{"to": 6}`` for the size to reach from whatever it is when
      it is sent; autoscale ``{"max": 8, "min": 2}``;
    - rate_limit ``{"task": "shop.add", "rate": "10/m"}``, "0" for none; time_limit ``{"task": "shop.add",
      "soft": 30, "hard": 60}``, seconds, "" for none, left out to stay as it is;
    - add_consumer ``{"queue": "mail"}``; cancel_consumer the same, with ``"last": True`` for the last queue;
    - signal_process ``{"signal": "SIGKILL", "pid": 4201, "began": 123456}``, a process of this machine;
    - purge ``{"count": 312}``, the messages that the operator was shown;
    - send_task ``{"despite": ["new queue"]}``, warnings of ``routes`` that were read and overruled; what is
      sent is ``messages``, and no record keeps their arguments.

    ``destinations`` may be left empty: Umbel knows whom to ask.
    """

    name: str
    targets: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    destinations: tuple[str, ...] = ()
    reason: str = ""
    messages: tuple[Message, ...] = ()


class Perform(Protocol):
    """``control.perform``, as those that act later are given it."""

    def __call__(
        self,
        command: Command,
        actor: Actor,
        *,
        identity: uuid.UUID | None = None,
        still: Callable[[], None] | None = None,
        looks: bool = True,
    ) -> ControlRecord: ...


# Why who asked for what is carried out later may not have it done any more; "" while they may.
Barred = Callable[[Actor, Command], str]


def nobody_barred(actor: Actor, command: Command) -> str:
    """Where nobody keeps accounts: who might when they asked still may."""
    return ""


def need_operator(actor: Actor) -> None:
    """Raises ``Refused`` for whoever may only look."""
    if actor.role not in MAY_CONTROL:
        raise Refused(f"{actor.username or 'You'} cannot control workers: that needs the operator role.")


def whole_number(value: Any, name: str, least: int, most: int) -> int:
    """A whole number within bounds; raises ``Refused``."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise Refused(f"{name} must be a whole number; {text[:40]!r} is not.")
    if not least <= int(text) <= most:
        raise Refused(f"{name} must be from {least} to {most}; {int(text)} is not.")
    return int(text)
