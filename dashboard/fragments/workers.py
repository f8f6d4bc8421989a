"""Regions of the list of workers and of one worker's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dashboard import access, permissions
from dashboard.forms.workers import STATUSES, WorkerFilter, has
from dashboard.fragments import Page, Region, register
from dashboard.fragments.overview import CLOCK
from dashboard.queries import drains, gaps, resizing, stalled, tended
from dashboard.queries import drift as drift_queries
from dashboard.queries import feed as feed_queries
from dashboard.queries import worker as queries
from dashboard.queries import workers as worker_queries
from dashboard.queries.registered import registered
from dashboard.queries.unheard import unheard
from dashboard.queries.workers import WorkerView
from monitor.control.commands import CANCEL_CONSUMER, DRAIN, END_DRAIN, SHRINK_WHEN_FREE
from monitor.control.workers import draining
from monitor.deltas import CONTROLS, FEED, GAPS, TASKS, WORKERS

CHIPS = {
    "online": ("Online", "s-online", "succeeded"),
    "offline": ("Offline", "s-offline", "offline"),
    "unknown": ("Unknown", "s-lost", "lost"),
    "stuck": ("With stuck tasks", "s-stuck", "stuck"),
    "full": ("Full", "s-warn", "slow"),
}
# What a slot of each kind of pool is: one, and several.
UNITS = {
    "prefork": ("process", "processes"),
    "threads": ("thread", "threads"),
    "gevent": ("greenlet", "greenlets"),
    "eventlet": ("greenlet", "greenlets"),
}
NEAR = feed_queries.RECENT  # seconds for which a span without ears may still show in what workers do now
COLUMNS = (("busy", "Busy"), ("reserved", "Reserved"), ("rate", "Done /s"), ("load", "Load, 1 min"))


# What can be asked of several workers at once.
MANY = ("drain", "pool_restart", "pool_grow", "shutdown")


def selects(page: Page) -> bool:
    """Whether there is anything that the readers of this page may do with the workers that they choose."""
    return access.may(page, "bulk").allowed and any(access.may(page, name).allowed for name in MANY)


def _workers(page: Page) -> Mapping[str, Any]:
    fleet = worker_queries.current()
    chosen = WorkerFilter.of(page.params)
    found = chosen.chosen(fleet)
    fresh = feed_queries.freshness(fleet.now)
    return {
        "fleet": fleet,
        "stalled": stalled.by_worker(fresh),
        "workers": found,
        "filter": chosen,
        "columns": [(*c, chosen.sorted_by(c[0]), chosen.direction(c[0])) for c in COLUMNS],
        "by_name": (chosen.sorted_by("name"), chosen.direction("name")),
        "by_heartbeat": (chosen.sorted_by("heartbeat"), chosen.direction("heartbeat")),
        "feed": fresh,
        "selects": selects(page),
        "may_events": access.may(page, "enable_events").allowed,
    }


def _blind(name: str) -> Callable[[Page], Mapping[str, Any]]:
    """The context of a notice with that id."""

    def context(page: Page) -> Mapping[str, Any]:
        now = time.time()
        return {"id": name, "blind": gaps.between(now - NEAR, now, now)}

    return context


def _chips(page: Page) -> Mapping[str, Any]:
    fleet = worker_queries.current()
    chosen = WorkerFilter.of(page.params)
    chips = [
        {
            **dict(zip(("label", "icon", "state"), CHIPS[status], strict=True)),
            "count": count,
            "on": status in chosen.statuses,
            "href": chosen.toggled(status),
        }
        for status in STATUSES
        if (count := sum(has(w, status) for w in fleet.workers)) or status in ("online", *chosen.statuses)
    ]
    return {"chips": chips}


def _one(more: Callable[[Page, WorkerView], Mapping[str, Any]]) -> Callable[[Page], Mapping[str, Any]]:
    """The context of a region of one worker; without the worker there is only ``w`` None."""

    def context(page: Page) -> Mapping[str, Any]:
        view = worker_queries.one(int(dict(page.kwargs).get("pk", 0)))
        return {"w": view, **(more(page, view) if view else {})}

    return context


def _head(page: Page, view: WorkerView) -> Mapping[str, Any]:
    stall = stalled.by_worker(feed_queries.freshness(view.now)).get(view.hostname)
    return {
        "stall": f"{stalled.words(stall, view.now)} {stalled.remedy(view)}" if stall else "",
        "may": access.can_control(page),
        "host": view.hostname.partition("@")[2],
        "units": UNITS.get(view.row.pool, ("slot", "slots")),
        **_acts(page, view),
    }


@dataclass(frozen=True, slots=True)
class Act:
    """A button of the head: the command, its URL, and why it cannot be pressed."""

    command: str
    url: str
    label: str
    icon: str
    why_not: str
    asks: bool = False


# Command, URL, label, icon, and whether it asks first.
ACTS = (
    ("ping", "worker-ping", "Ping", "n-overview", False),
    ("pool_restart", "worker-restart-pool", "Restart pool", "s-retry", False),
    ("enable_events", "worker-enable-events", "Enable events", "a-eye", False),
    ("disable_events", "worker-disable-events", "Stop events", "a-eye", False),
    (DRAIN, "worker-drain", "Drain…", "a-drain", False),
    ("shutdown", "worker-shutdown", "Shut down…", "a-power", True),
)


def _acts(page: Page, view: WorkerView) -> Mapping[str, Any]:
    """What can be done to the worker as a whole; nothing for who may not."""
    if not access.can_control(page):
        return {"acts": [], "reasons": []}
    # Of the two that which makes sense; both while that is not known.
    unfit = {True: "enable_events", False: "disable_events", None: ""}[view.row.events_on]
    acts = [
        Act(command, url, label, icon, _why_not(page, view, command), asks)
        for command, url, label, icon, asks in ACTS
        if command != unfit
    ]
    by_reason: dict[str, list[str]] = {}
    for act in acts:
        if act.why_not:
            by_reason.setdefault(act.why_not, []).append(act.label.rstrip("…"))
    # A reason that all of them share needs no names before it.
    reasons = [
        ("" if len(labels) == len(acts) else ", ".join(labels), why) for why, labels in by_reason.items()
    ]
    stops = any(act.command == "disable_events" and not act.why_not for act in acts)
    return {"acts": acts, "reasons": reasons, "stops_events": stops}


def _why_not(page: Page, view: WorkerView, command: str) -> str:
    """Why these readers cannot ask this worker for it: since they may not, or since it cannot do it."""
    name, *also = permissions.named(command, {})
    able = CANCEL_CONSUMER if command == DRAIN else command
    return access.may(page, name, also=also).reason or queries.why_not(view, able)


def drain_no(page: Page, view: WorkerView) -> str:
    """Why these readers cannot begin a drain."""
    return _why_not(page, view, DRAIN) if access.can_control(page) else str(pool(page, view)["add_no"])


def _slots(page: Page, view: WorkerView) -> Mapping[str, Any]:
    known = queries.pids(view)
    return {"slots": [(slot, known.get(slot.task.uuid) if slot.task else None) for slot in view.slots[:200]]}


def _held(page: Page, view: WorkerView) -> Mapping[str, Any]:
    found, reserved = queries.reserved(view)
    later, scheduled = queries.scheduled(view)
    ids, revoked = queries.revoked(view)
    return {
        **{"reserved": found, "reserved_count": reserved, "scheduled": later, "scheduled_count": scheduled},
        **{"revoked": ids, "revoked_count": revoked},
    }


def _unheard(page: Page, view: WorkerView) -> Mapping[str, Any]:
    # The count goes back to when Umbel first heard of it; what is newer is said above.
    blind = gaps.between(view.row.first_seen_at, view.now - NEAR, view.now)
    before = [gap for gap in blind if gap.ended_at is not None and gap.ended_at < view.now - NEAR]
    return {"heard": unheard(view), "blind": before}


def _settings(page: Page, view: WorkerView) -> Mapping[str, Any]:
    rows, hidden = queries.settings(view)
    width = min(max((len(row.name) for row in rows), default=0), 36)
    return {"settings": [(row, row.name.ljust(width)) for row in rows], "hidden": hidden}


def _facts(page: Page, view: WorkerView) -> Mapping[str, Any]:
    return {"statistics": queries.statistics(view)}


def _queues(page: Page, view: WorkerView) -> Mapping[str, Any]:
    stop, add = (_why_not(page, view, name) for name in ("cancel_consumer", "add_consumer"))
    # The form beneath has its own reason in sight; the same one need not stand there twice.
    return {"may": access.can_control(page), "stop_no": stop, "stop_why": stop if stop != add else ""}


def _limits(page: Page, view: WorkerView) -> Mapping[str, Any]:
    return {"registered": registered(view), "may": access.can_control(page)}


def pool(page: Page, view: WorkerView) -> Mapping[str, Any]:
    """What may be asked of the pool and of what hangs on it, and by this reader."""
    can = queries.can(view)
    if page.read_only:
        why = "Umbel was started with --read-only: every control is off."
    elif not access.can_control(page):
        why = "You can look. Changing a pool needs the operator role."
    else:
        why = ""
    rate, times = (why or _why_not(page, view, name) for name in ("rate_limit", "time_limit"))
    # One field for both: what is left out is refused when it comes.
    sized = [access.may(page, name) for name in ("pool_grow", "pool_shrink")]
    unsized = "" if any(one.allowed for one in sized) else sized[0].reason
    resize = why or unsized or resizing.cannot(view)
    free, *also = permissions.named(SHRINK_WHEN_FREE, {})
    return {
        "add_no": why or _why_not(page, view, "add_consumer"),
        "rate_no": rate,
        "time_no": times,
        # One reason for both need not stand there twice.
        "limits_no": rate if rate == times else "",
        "resize_no": resize,
        "free_no": access.may(page, free, also=also).reason,
        "autoscale_no": why or access.may(page, "autoscale").reason or can.autoscale.reason,
        "autoscaled": can.autoscale.allowed or view.row.autoscale_max is not None,
        "units": UNITS.get(view.row.pool, ("slot", "slots")),
        "started_with": queries.started_with(view),
    }


def _tended(page: Page, view: WorkerView) -> Mapping[str, Any]:
    found = drift_queries.drift(view)
    return {"tended": tended.tended(view), "drift": found, "may": access.can_control(page)}


def _drift(page: Page, view: WorkerView) -> Mapping[str, Any]:
    return {"drift": drift_queries.drift(view)}


def _drain(page: Page, view: WorkerView) -> Mapping[str, Any]:
    back, *also = permissions.named(END_DRAIN, {})
    return {
        "drain": drains.drain(view),
        "may": access.can_control(page),
        "no": drain_no(page, view),
        "undo_no": access.may(page, back, also=also).reason,
    }


def _drain_begin(page: Page, view: WorkerView) -> Mapping[str, Any]:
    return {
        "may": access.can_control(page),
        "no": drain_no(page, view),
        "under_way": draining.of_worker(view.hostname) is not None,
    }


def _drain_begin_stamp(page: Page) -> object:
    """It is drawn when it changes, and not while somebody types a reason."""
    view = worker_queries.one(int(dict(page.kwargs).get("pk", 0)))
    return (len(view.queues), *_drain_begin(page, view).values()) if view else None


def _topics(*more: str) -> tuple[str, ...]:
    return (WORKERS, TASKS, CLOCK, *more)


register(
    "workers",
    [
        Region("worker-chips", _chips, _topics(FEED), "workers/_chips.html", every=1.0, sees=("query",)),
        Region(
            "workers",
            _workers,
            _topics(FEED),
            "workers/_list.html",
            every=0.5,
            sees=("query", "role", "read_only"),
        ),
        Region(
            "workers-blind", _blind("workers-blind"), (GAPS, CLOCK), "feed/_blind.html", every=1.0, sees=()
        ),
    ],
)
register(
    "worker",
    [
        Region("worker-head", _one(_head), _topics(FEED), "workers/_head.html", every=0.5),
        Region("worker-blind", _blind("worker-blind"), (GAPS, CLOCK), "feed/_blind.html", every=1.0, sees=()),
        Region("worker-tended", _one(_tended), _topics(CONTROLS), "workers/_tended.html", every=1.0),
        Region("worker-slots", _one(_slots), _topics(), "workers/_slots.html", every=0.5),
        Region("worker-held", _one(_held), _topics(), "workers/_held.html", every=1.0),
        Region("worker-unheard", _one(_unheard), (WORKERS, GAPS), "workers/_unheard.html", every=1.0),
        Region("worker-drift", _one(_drift), (WORKERS, CONTROLS), "workers/_drift.html", every=2.0),
        Region("worker-settings", _one(_settings), (WORKERS,), "workers/_settings.html", every=5.0),
        Region("worker-pool", _one(pool), _topics(), "workers/_pool.html", every=0.5),
        Region("worker-queues", _one(_queues), (WORKERS,), "workers/_queues.html", every=1.0),
        Region("worker-limits", _one(_limits), (WORKERS,), "workers/_limits.html", every=2.0),
        Region("worker-facts", _one(_facts), (WORKERS,), "workers/_facts.html", every=1.0),
    ],
)
register(
    "worker-drain",
    [
        Region("worker-drain", _one(_drain), _topics(CONTROLS), "workers/_drain.html", every=0.5),
        Region(
            "worker-drain-begin",
            _one(_drain_begin),
            (WORKERS, CONTROLS),
            "workers/_drain_begin.html",
            every=0.5,
            stamp=_drain_begin_stamp,
        ),
    ],
)
