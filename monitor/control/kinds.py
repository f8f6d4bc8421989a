"""The commands that Umbel sends: for each its arguments, its order, and how its effect is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from monitor.control import commands as names
from monitor.control import purging
from monitor.control.asking import Reply
from monitor.control.commands import MOST_IDS, UUID, Actor, Command, Refused, need_operator
from monitor.control.inspecting import LIMITS, QUEUES, Looks, Seen
from monitor.control.orders import Order, to_workers
from monitor.control.revokes import aborting, here, places, stamps, stopping
from monitor.control.runs import arriving, sending
from monitor.control.verifying import Finding, Verdict
from monitor.control.workers import consumers, limits, pools, service
from monitor.models import ControlRecord

Check = Callable[[Mapping[str, Any]], dict[str, Any]]


def _nothing(given: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """One command. ``order`` raises ``Refused`` and ``Unreachable``; so may ``settle``."""

    judge: Callable[[Order, float, Mapping[str, Seen]], list[Finding]]
    order: Callable[[Command], Order] = to_workers
    arguments: Check = _nothing  # as they are recorded and sent; raises Refused
    looks: Looks = field(default_factory=dict)  # asked beside the tasks while its effect is looked for
    what: str = "worker"  # its targets are: tasks by id, workers by name, a queue, or a stamp
    many: bool = False  # workers, in one command
    is_answered: bool = True
    # What is done instead of asking workers; raises Unreachable.
    act: Callable[[Order], list[Reply]] | None = None
    together: bool = False  # judged by its record alone, so that one look does for many
    alone: bool = False  # one at a time on a worker, in this process
    # In the transaction that writes the record: what depends on other commands under way.
    settle: Callable[[Order, float], Order] | None = None
    stands: Callable[[Order, ControlRecord], None] | None = None  # the same, once the record is there
    # After the last look: where each target is still found, for the receipt.
    places: Callable[[Order, Mapping[str, Seen]], dict[str, Any]] | None = None


_RESIZE = Kind(pools.sized, pools.resize, pools.steps_of, alone=True, settle=pools.clamp)
_CONSUMER = Kind(consumers.consumed_as_asked, consumers.order, consumers.queue_of, looks=QUEUES, alone=True)
_EVENTS = Kind(service.events, many=True)
KINDS: Mapping[str, Kind] = {
    names.REVOKE: Kind(
        stopping.revoked,
        stopping.revoke,
        stopping.option_of,
        what="task",
        stands=stopping.stand,
        places=places.of,
        together=True,
    ),
    names.TERMINATE: Kind(
        stopping.terminated, stopping.terminate, stopping.signal_of, what="task", places=places.of
    ),
    names.REVOKE_STAMPED: Kind(
        stamps.noted, stamps.order, stamps.stamp_of, what="stamp", stands=stamps.stand
    ),
    names.ABORT: Kind(aborting.aborted, aborting.order, what="task", act=aborting.write),
    names.SIGNAL_PROCESS: Kind(here.ended, here.order, here.process_of, what="task", act=here.send),
    names.GROW: _RESIZE,
    names.SHRINK: _RESIZE,
    names.AUTOSCALE: Kind(pools.sized, pools.resize, pools.limits_of, alone=True),
    names.RESTART_POOL: Kind(pools.restarted, pools.restart, alone=True),
    names.RATE_LIMIT: Kind(limits.set_as_asked, limits.order, limits.rate_of, looks=LIMITS, alone=True),
    names.TIME_LIMIT: Kind(limits.set_as_asked, limits.order, limits.times_of, looks=LIMITS, alone=True),
    names.ADD_CONSUMER: _CONSUMER,
    names.CANCEL_CONSUMER: _CONSUMER,
    names.ENABLE_EVENTS: _EVENTS,
    names.DISABLE_EVENTS: _EVENTS,
    names.PURGE: Kind(
        purging.emptied, purging.order, purging.shown, what="queue", act=purging.purge, alone=True
    ),
    names.SEND: Kind(
        arriving.arrived, sending.order, sending.stated, what="task", act=sending.send, stands=sending.note
    ),
    names.PING: Kind(service.answers, many=True),
    names.SHUTDOWN: Kind(service.stopped, many=True, is_answered=False),
}


def checked(command: Command, actor: Actor) -> Command:
    """The command with its arguments checked as far as no worker need be known; raises ``Refused``."""
    need_operator(actor)
    kind = KINDS.get(command.name)
    if kind is None:
        raise Refused(f"{command.name!r} is not a command Umbel sends; it sends {', '.join(KINDS)}.")
    targets = tuple(dict.fromkeys(command.targets))
    if not targets:
        raise Refused("Nothing was selected, so nothing was sent.")
    if len(targets) > MOST_IDS:
        raise Refused(
            f"{len(targets):,} are too many at once: a worker stalls over {MOST_IDS}. Select fewer."
        )
    if kind.what == "task":
        for uuid in targets:
            if not isinstance(uuid, str) or not UUID.fullmatch(uuid):
                raise Refused(f"{str(uuid)[:60]!r} is not a task id.")
    elif len(targets) > 1 and not kind.many:
        raise Refused(f"{command.name} is for one {kind.what} at a time; {len(targets)} were named.")
    arguments = kind.arguments(command.arguments)
    return replace(
        command,
        targets=targets,
        arguments=arguments,
        destinations=tuple(command.destinations),
        reason=command.reason[:500],
    )


def judge(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> Verdict:
    """One look: what the workers hold now (``seen``, those that answered) and what events have said since."""
    return Verdict(KINDS[order.command.name].judge(order, sent_at, seen))
