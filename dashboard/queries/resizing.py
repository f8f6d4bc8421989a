"""What another pool size of a worker would do, in words: measured rates, their ranges, what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from django.db.models import Sum
from django.utils.html import format_html

from dashboard.queries import worker as queries
from dashboard.queries.workers import WorkerView
from dashboard.templatetags.words import duration_text, number, plain, rate
from monitor import broker, control, models, rates, registered, resizing
from monitor.control.capabilities import pool_kind
from monitor.control.revokes import here
from monitor.records import RECEIVED
from monitor.resizing import ENOUGH, Estimate, Outlook

SPANS = (900, 3600, 86_400)  # seconds looked back, until there are enough tasks
ARRIVALS = 900.0  # seconds
MOST_ROWS = 3_000  # of one queue, looked at for what arrives
MOST_QUEUES = 8
MOST_RESERVED = 5_000


@dataclass(frozen=True, slots=True)
class Row:
    """One size: what the pool would end a second, and when nothing would wait any more."""

    size: int
    is_now: bool
    is_wanted: bool
    ends: str
    drains: str


@dataclass(frozen=True, slots=True)
class Preview:
    """All of it; sentences may hold <b>, through format_html only."""

    size: int | None  # wanted
    now: str  # busy share and backlog
    flows: str  # what arrives and what a slot ends; "" while there is too little history
    rows: list[Row]
    no_effect: str
    memory: str
    basis: str  # from how many tasks and over which time
    busy: int  # slots that a shrink would have to wait for


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was counted."""

    waiting: int
    counted: str  # by whom
    arriving: Estimate
    sent: bool  # whether clients tell what they send
    slot: Estimate | None
    others: float  # tasks a second that other workers end of these queues


def cannot(view: WorkerView) -> str:
    """Why this pool has no size that could be set; "" where it has."""
    if (can := queries.can(view).grow).allowed:
        return ""
    scaled = view.row.autoscale_max is not None and not view.offline
    return f"{can.reason} Its autoscaler would undo any other size." if scaled else str(can.reason)


def preview(view: WorkerView, wanted: int | None, ask: bool = False) -> Preview:
    """For a size that somebody thinks of; ``ask`` the broker how much waits, too."""
    seen = _seen(view, ask)
    size = view.size
    enough = seen.slot is not None and seen.slot.enough
    outlooks: list[Outlook] = []
    if size and enough and seen.slot is not None and queries.can(view).grow.allowed:
        step = abs(wanted - size) if wanted is not None and wanted != size else 1
        sizes = sorted({max(1, size - step), size, size + step, *([wanted] if wanted else [])})
        outlooks = [
            resizing.outlook(one, seen.waiting, seen.arriving, seen.slot, seen.others) for one in sizes
        ]
    return Preview(
        wanted,
        _now(view, seen),
        _flows(seen) if enough else "",
        [_row(one, view, wanted) for one in outlooks],
        _no_effect(view, wanted, seen),
        _memory(view, wanted),
        _basis(view, seen),
        max(0, view.busy - wanted) if wanted is not None and size is not None and wanted < size else 0,
    )


def _seen(view: WorkerView, ask: bool) -> _Seen:
    names = view.queues[:MOST_QUEUES]
    waiting, counted = _waiting(names, view.now, ask)
    arriving, sent = _arriving(names, view.now)
    slot, others = None, 0.0
    for seconds in SPANS:
        runtime, done = _worked(view, seconds)
        slot = resizing.per_slot(runtime, seconds)
        if slot is not None and slot.enough:
            others = max(0.0, _done_of(names, view.now, seconds) - done) / seconds
            break
    return _Seen(waiting, counted, arriving, sent, slot, others)


def _waiting(names: Sequence[str], now: float, ask: bool) -> tuple[int, str]:
    """What waits in these queues for a slot, here or anywhere: not what is held for its ETA."""
    tasks = models.Task.objects.filter(queue__in=names)
    due = tasks.exclude(eta__gt=now)
    reserved = due.filter(state=RECEIVED)[:MOST_RESERVED].count()
    if ask and (depth := _depth(names)) is not None:
        return depth + reserved, "as the broker counts, with those that workers hold"
    sent = due.filter(state="PENDING")[: MOST_RESERVED * 2].count()
    return sent + reserved, "by events" if sent < MOST_RESERVED * 2 else "by events, and more"


def _depth(names: Sequence[str]) -> int | None:
    try:
        depths = [control.depth(broker.current(), name) for name in names]
    except (control.Unreachable, RuntimeError):  # no broker at all in a process that only shows
        return None
    return None if None in depths else sum(depth or 0 for depth in depths)


def _arriving(names: Sequence[str], now: float) -> tuple[Estimate, bool]:
    """Tasks that were heard of for the first time, and whether any of them was heard of when it was sent."""
    count, length, sent = 0, ARRIVALS, False
    read = []
    for name in names:
        rows = models.Task.objects.filter(queue=name, seen_at__gt=now - ARRIVALS).order_by("-seen_at")
        found = list(rows.values_list("seen_at", "first_seen_at", "sent_at")[:MOST_ROWS])
        if len(found) == MOST_ROWS:
            length = min(length, max(1.0, now - found[-1][0]))
        read += found
    for _, first, sent_at in read:
        count += first >= now - length
        sent = sent or sent_at is not None
    return resizing.arrivals(count, length), sent


def _worked(view: WorkerView, seconds: int) -> tuple[rates.Histogram, int]:
    rows = models.Rollup.objects.filter(
        width=60, by="worker", key=view.hostname, start__gte=int(view.now) - seconds
    )
    runtime: rates.Histogram = {}
    done = 0
    for histogram, good, bad in rows.values_list("runtime", "succeeded", "failed"):
        runtime = rates.merge(runtime, {int(bucket): int(n) for bucket, n in histogram.items()})
        done += good + bad
    return runtime, done


def _done_of(names: Sequence[str], now: float, seconds: int) -> int:
    rows = models.Rollup.objects.filter(width=60, by="queue", key__in=names, start__gte=int(now) - seconds)
    found = rows.aggregate(good=Sum("succeeded"), bad=Sum("failed"))
    return (found["good"] or 0) + (found["bad"] or 0)


def _now(view: WorkerView, seen: _Seen) -> str:
    if not view.size:
        return "Its pool size is not known yet."
    waits = "1 task waits" if seen.waiting == 1 else f"{seen.waiting:,} tasks wait"
    share = f"{100 * min(view.busy, view.size) / view.size:.0f}"
    if not view.queues:
        none = "<b>{} of {}</b> slots busy ({}%). It consumes no queue, as far as is known."
        return format_html(none, view.busy, view.size, share)
    queues = "its queue" if len(view.queues) == 1 else f"its {len(view.queues)} queues"
    return format_html(
        "<b>{} of {}</b> slots busy ({}%). <b>{}</b> in {}, {}.",
        view.busy,
        view.size,
        share,
        waits,
        queues,
        seen.counted,
    )


def _flows(seen: _Seen) -> str:
    if seen.slot is None:
        return ""
    others = f", and other workers end about {rate(seen.others)} /s" if seen.others > 0 else ""
    heard = "" if seen.sent or not seen.arriving.tasks else ", as workers took them: clients do not tell"
    return format_html(
        "About <b>{} /s</b> arrive ({}){}. A busy slot ends about <b>{} /s</b> ({}){}.",
        rate(seen.arriving.value),
        _range(seen.arriving),
        heard,
        rate(seen.slot.value),
        _range(seen.slot),
        others,
    )


def _range(estimate: Estimate) -> str:
    high = rate(estimate.high) if isfinite(estimate.high) else "any more"
    return f"{rate(estimate.low)} to {high}"


def _row(one: Outlook, view: WorkerView, wanted: int | None) -> Row:
    return Row(one.size, one.size == view.size, one.size == wanted, f"{rate(one.ends.value)} /s", drains(one))


def drains(one: Outlook) -> str:
    """When nothing waits any more, with its range."""
    found = one.drain
    if found is None:
        return "and nothing waits"
    if found.surely_never:
        return f"never drains, grows by {rate(found.growth)} /s"
    best = duration_text(found.best) if found.best >= 1 else "under 1\u00a0s"
    if found.never:
        return f"may never drain; at best in {best}"
    worst = f"to {duration_text(found.worst)}" if isfinite(found.worst) else "or never"
    if isfinite(found.worst) and found.worst < 1:
        return "drains in under 1\u00a0s"
    about = duration_text(found.about) if found.about >= 1 else "1\u00a0s"
    return f"drains in about {about} ({best} {worst})"


def _no_effect(view: WorkerView, wanted: int | None, seen: _Seen) -> str:
    """Why another size would change nothing; "" when it would, or when nobody thinks of one."""
    if never := cannot(view):
        return never
    if wanted is None or view.size is None or wanted == view.size:
        return ""
    idle = view.size - view.busy
    limited = _limited(view)
    if wanted > view.size:
        if not seen.waiting:
            return "No effect now: nothing waits in its queues."
        if idle > 0:
            slots = "1 slot is" if idle == 1 else f"{idle:,} slots are"
            why = (
                f" {limited}"
                if limited
                else " Something else holds them: a rate limit, the broker, or prefetch."
            )
            return f"No effect likely: {slots} idle though {seen.waiting:,} wait.{why}"
        if limited:
            return f"It may change less than that. {limited}"
        if seen.slot is not None and seen.slot.enough:
            least = resizing.break_even(seen.arriving, seen.slot, seen.others)
            if wanted < least:
                return f"Not enough yet: below about {least} slots it keeps growing."
        return ""
    stays = view.busy - wanted
    if stays > 0:
        slots = "1 slot" if stays == 1 else f"{stays:,} slots"
        return f"Only idle slots go at once: {slots} too many would be busy. “When free” waits for them."
    return ""


def _limited(view: WorkerView) -> str:
    """Rate limits here that hold back what waits in its queues, as far as events tell what that is."""
    details = view.row.details if isinstance(view.row.details, dict) else {}
    limited = registered.limited(details)
    waits = models.Task.objects.filter(queue__in=view.queues[:MOST_QUEUES], state__in=("PENDING", RECEIVED))
    known = set(waits.order_by("-seen_at").values_list("name", flat=True)[:500]) if limited else set()
    names = sorted(limited & known)
    if not names:
        return ""
    shown = ", ".join(f"{plain(name)} ({registered.rate_limit(details, name)})" for name in names[:3])
    return f"Rates are limited here: {shown}{' and more' if len(names) > 3 else ''}."


def _memory(view: WorkerView, wanted: int | None) -> str:
    more = (wanted or view.size or 0) - (view.size or 0)
    if pool_kind(view.row) in ("gevent", "eventlet", "threads", "solo"):
        return (
            "A slot costs no process: all share the memory of one; what each task takes is not known. "
            "Umbel cannot see free memory on the host."
        )
    details = view.row.details if isinstance(view.row.details, dict) else {}
    stats = details.get("stats")
    found = here.memory_of(view.hostname, stats) if isinstance(stats, dict) and not view.offline else None
    return _here(found, more) if found else _elsewhere(view, more)


def _here(found: here.Memory, more: int) -> str:
    """Read from its processes."""
    of = "the one" if found.processes == 1 else f"the {found.processes:,}"
    if found.own is None:
        how = f"resident, the mean of {of} here; what they share is in each"
        text = f"A pool process takes about {_size(found.each)} ({how})"
    else:
        text = (
            f"A pool process takes about {_size(found.each)} (proportional set, the mean of {of} here), "
            f"{_size(found.own)} of it its own"
        )
    if more:
        size = abs(more) * (found.each if found.own is None else found.own)
        many = f"{abs(more):,} {'more' if more > 0 else 'fewer'}"
        does = "cost" if more > 0 else "free"
        text += f". {many} would {does} about {_size(size)}"
        if more > 0 and found.available is not None and size > found.available:
            text += ", more than there is"
    if found.available is not None:
        return f"{text}. {_size(found.available)} are available on this machine now."
    return f"{text}. Umbel cannot see free memory on the host."


def _elsewhere(view: WorkerView, more: int) -> str:
    """Of the main process Celery tells the peak."""
    peak = _peak(view)
    unknown = "What a pool process takes is not known: it runs on another machine, or is not seen from here"
    text = (
        f"{unknown}. Celery tells only of the main one, which took {_size(peak)} at its peak"
        if peak
        else unknown
    )
    if peak and more > 0:
        text += f". If each took as much, {more} more would be +{_size(more * peak)}"
    return f"{text}. Umbel cannot see free memory on the host."


def _size(bytes_: float) -> str:
    """ "184 MB", "6.1 GB"."""
    if bytes_ < 1024**3:
        return f"{bytes_ / 1024**2:,.0f}\u00a0MB"
    return f"{bytes_ / 1024**3:,.1f}\u00a0GB"


def _peak(view: WorkerView) -> float | None:
    """Bytes; Linux counts kilobytes."""
    details = view.row.details if isinstance(view.row.details, dict) else {}
    stats = details.get("stats")
    usage = stats.get("rusage") if isinstance(stats, dict) else None
    peak = usage.get("maxrss") if isinstance(usage, dict) else None
    return (
        peak * 1024.0 if isinstance(peak, int | float) and not isinstance(peak, bool) and peak > 0 else None
    )


def _basis(view: WorkerView, seen: _Seen) -> str:
    if seen.slot is None or not seen.slot.enough:
        ran = seen.slot.tasks if seen.slot else 0
        return (
            f"Too little history to estimate: {number(ran)} task{'' if ran == 1 else 's'} ended well here in "
            f"the last {_length(SPANS[-1])}; {ENOUGH} are needed."
        )
    came = "1 arrival" if seen.arriving.tasks == 1 else f"{seen.arriving.tasks:,} arrivals"
    return (
        f"Estimates, from {seen.slot.tasks:,} tasks that ended well here in "
        f"{_length(seen.slot.seconds)} and {came} in {_length(seen.arriving.seconds)}. "
        "The true value lies in each range 19 times of 20, if things stay as they are."
    )


def _length(seconds: float) -> str:
    """A span that was looked back, in whole units: "15 min"."""
    return duration_text(seconds).removesuffix("\u00a000\u00a0s").removesuffix("\u00a000\u00a0min")
