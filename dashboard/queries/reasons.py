"""Why a task waits: each cause tested against what Umbel has stored, with evidence, the most telling first.

Pure: everything known comes in as ``Facts``; nothing is asked of a worker or the broker. What could not be
tested is listed as such, with the reason, so that silence never passes for "no".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dashboard.queries import holding
from dashboard.queries.facts import Consumer, Facts, Reason
from dashboard.templatetags.words import duration_text, plain
from monitor.control.revokes.stopping import GROWN
from monitor.records import PENDING, RECEIVED, RETRY

MANY = 8  # names told; then "and n more"
SETTLED = 10.0  # seconds after which a message that was sent is in its queue, or was in it
OLD = 60.0  # seconds after which an answer to inspect is told with its age


@dataclass(frozen=True, slots=True)
class Unchecked:
    """What was not tested, and why not."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Why:
    reasons: list[Reason] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)


def why(facts: Facts) -> Why:
    """What holds, the most telling first, and what could not be looked at."""
    reasons = [reason for test in TESTS if (reason := test(facts)) is not None]
    if not any(reason.key not in _OBSERVED for reason in reasons):
        reasons.insert(0 if facts.live else 1, _unexplained(facts))
    return Why(reasons, _unchecked(facts))


# The tests, each one cause


def _blind(facts: Facts) -> Reason | None:
    if facts.live:
        return None
    known = facts.blind_since is not None
    head = "Umbel last heard from the broker" if known else "Umbel does not hear from the broker"
    text = "All below is as of then; the task may have run meanwhile."
    return Reason("blind", head, text, facts.blind_since, state="failed", icon="s-offline")


def _is_revoked(facts: Facts) -> Reason | None:
    asked = facts.may_take
    listing = [worker for worker in asked if worker.is_revoked]
    by = "" if facts.revoked is None else f"Revoked by {plain(facts.revoked.by)}, verified then. "
    if listing:
        others = [worker for worker in asked if worker.is_revoked is False]
        rest = f" {_names(others)} {_do(others)} not list it, and would run it." if others else ""
        holder = facts.holder
        if (
            holder is not None
            and (holder.takes_at_once or holder.has_grown)
            and (facts.eta or 0.0) <= facts.now
        ):
            head, does = "Revoked, too late", "has given it to its pool, which runs it all the same."
            if not holder.takes_at_once:
                head, does = "Revoked, perhaps too late", f"lists it as revoked. {GROWN}"
            text = f"{by}{plain(holder.hostname)} {does}"
            return Reason("revoked too late", head, text, None, holder.pk, "slow", "s-warn")
        lists = f"{_names(listing)} {_do(listing, 'lists', 'list')} it as revoked: dropped when reached."
        text = f"{by}{lists}{rest}"
        at = facts.revoked.at if facts.revoked else None
        return Reason("revoked", "Revoked already", text, at, _one(listing), "revoked", "s-revoked")
    if facts.revoked is None:
        return None
    if asked and all(worker.is_revoked is False for worker in asked):
        text = f"{by}{_names(asked)} {_do(asked)} not list it now: a worker forgets when it restarts."
        return Reason(
            "revoke forgotten", "Revoked, and forgotten", text, facts.revoked.at, None, "slow", "s-warn"
        )
    text = f"{by}It shows as revoked when a worker reaches it."
    return Reason("revoked", "Revoked already", text, facts.revoked.at, None, "revoked", "s-revoked")


def _has_expired(facts: Facts) -> Reason | None:
    if facts.expires is None or facts.expires > facts.now:
        return None
    text = "The worker that reaches it revokes it and does not run it."
    return Reason("expired", "It has expired", text, facts.expires, None, "revoked", "s-revoked")


def _no_consumer(facts: Facts) -> Reason | None:
    if facts.state == RECEIVED or not facts.queue:
        return None
    online = facts.online
    if any(facts.queue in (worker.queues or ()) for worker in online):
        return None
    silent = [worker for worker in online if worker.queues is None]
    queue = plain(facts.queue)
    gone = [w for w in facts.workers if w.status == "offline" and facts.queue in (w.queues or ())]
    before = f" {_names(gone)}, which consumed it, {_do(gone, 'is', 'are')} offline." if gone else ""
    if not online:
        if any(worker.status == "unknown" for worker in facts.workers):
            return None
        head = "No worker is online"
        return Reason("no consumer", head, f"It waits in {queue}.{before}", None, None, "failed", "s-offline")
    told = sorted({plain(name) for worker in online for name in worker.queues or ()})
    if len(silent) == len(online):
        return None
    head = f"No worker{' that told its queues' if silent else ''} consumes the queue {queue}"
    who = _count(len(online) - len(silent), "online worker")
    text = f"{who} told: consumed {_do(told, 'is', 'are')} {_list(told) or 'no queue'}.{before}"
    return Reason("no consumer", head, text, None, None, "failed", "s-failed")


def _not_registered(facts: Facts) -> Reason | None:
    consumers = facts.consumers
    told = [worker for worker in consumers if worker.names is not None]
    lacking = [worker for worker in told if facts.name not in (worker.names or ())]
    if not facts.name or not lacking or facts.state == RECEIVED:
        return None
    name, queue = plain(facts.name), plain(facts.queue)
    if len(lacking) == len(consumers):
        head = f"{name} is not registered on any consumer of {queue}"
        text = f"{_names(lacking)} {_do(lacking)} not know it. Celery discards a message it has no task for."
        return Reason("not registered", head, text, None, _one(lacking), "failed", "s-failed")
    head = f"{name} is not registered on every consumer of {queue}"
    text = f"{_names(lacking)} {_do(lacking)} not know it: taken there, its message is discarded."
    return Reason("not registered on some", head, text, None, _one(lacking), "slow", "s-warn")


def _is_gone(facts: Facts) -> Reason | None:
    """Its queue is empty, and was counted when its message must have been in it for long."""
    if facts.state == RECEIVED or facts.held_back or facts.depth != 0:
        return None
    if (facts.depth_at or 0.0) < facts.seen_at + SETTLED:
        return None
    head = f"{plain(facts.queue)} is empty at the broker"
    text = "It has left unseen: purged, or taken while its events did not reach Umbel."
    return Reason("gone", head, text, None, None, "lost", "s-lost")


def _stalled(facts: Facts) -> Reason | None:
    may = [worker for worker in facts.may_take if worker.status == "online"]
    if not may or not all(worker.stalled for worker in may):
        return None
    if facts.held_back or may[0].size == 0:
        return None
    first = may[0]
    others = f" So do {_names(may[1:])}." if len(may) > 1 else ""
    head = f"{plain(first.hostname)} is online and works nothing"
    return Reason("stalled", head, f"{first.stalled}{others}", None, first.pk, "failed", "s-failed")


def _held_for_eta(facts: Facts) -> Reason | None:
    if not facts.held_back or facts.eta is None:
        return None
    left = duration_text(facts.eta - facts.now)
    holder = facts.holder
    if facts.state == RECEIVED and facts.worker:
        text = f"{plain(facts.worker)} holds it for {left} more, in memory, beside what it runs."
        pk = holder.pk if holder else None
        return Reason("eta", "Held for its ETA", text, facts.eta, pk, "scheduled", "s-scheduled")
    head = "Its retry is not due yet" if facts.state == RETRY else "Its ETA has not come"
    text = f"It is due in {left}. A worker takes it before that, and holds it."
    return Reason("eta", head, text, facts.eta, None, "scheduled", "s-scheduled")


def _rate_limited(facts: Facts) -> Reason | None:
    if facts.held_back:
        return None
    holder = facts.holder
    name = plain(facts.name)
    if facts.state == RECEIVED:
        if holder is None or not holder.rate_limit:
            return None
        head = f"Rate limited on {plain(holder.hostname)}: {name} runs at most {holder.rate_limit} there"
        age = _age(holder, facts.now)
        told = f"As registered there{age}. Inspect does not list tasks that wait for their turn."
        text = f"{_slots(holder)} {told}".strip()
        return Reason("rate limit", head, text, None, holder.pk, "scheduled", "s-scheduled")
    consumers = facts.consumers
    limited = [worker for worker in consumers if worker.rate_limit]
    if not consumers or len(limited) < len(consumers):
        return None
    rates = _list(sorted({worker.rate_limit for worker in limited}))
    head = f"Every consumer of {plain(facts.queue)} limits {name}: {rates}"
    text = f"As registered on {_names(limited)}. What waits for its turn there fills the prefetch."
    return Reason("rate limit", head, text, None, _one(limited), "scheduled", "s-scheduled")


def _reserved(facts: Facts) -> Reason | None:
    holder = facts.holder
    if holder is None or holder.status == "offline" or facts.held_back:
        return None
    name, ahead = plain(holder.hostname), facts.ahead_there
    before = "" if ahead is None else f" {_count(ahead, 'task')} reserved before it there." if ahead else ""
    if holder.size == 0:
        text = f"It can run nothing before its pool is grown.{before}"
        head = f"Reserved by {name}, which has no pool process"
        return Reason("no process", head, text, None, holder.pk, "failed", "s-failed")
    if holder.is_full:
        slots = "only slot is" if holder.size == 1 else f"{holder.size or 0:,} slots are all"
        head, text = f"Reserved by {name}, whose {slots} busy", f"{_running(holder)}{before}"
        return Reason("reserved", head, text, None, holder.pk, "received", "s-received")
    head = f"Reserved by {name}"
    return Reason("held", head, f"{_slots(holder)}{before}", None, holder.pk, "received", "s-received")


def _all_busy(facts: Facts) -> Reason | None:
    consumers = facts.consumers
    if facts.state == RECEIVED or not consumers or not all(w.is_full or w.size == 0 for w in consumers):
        return None
    size = sum(worker.size or 0 for worker in consumers)
    queue = plain(facts.queue)
    if not size:
        head = f"No consumer of {queue} has a pool process"
        text = f"{_names(consumers)}: grow it by one."
        return Reason("no process", head, text, None, _one(consumers), "failed", "s-failed")
    head = f"Every slot of the {len(consumers):,} consumers of {queue} is busy"
    if len(consumers) == 1:
        head = f"Every slot of {plain(consumers[0].hostname)}, the only consumer of {queue}, is busy"
    longest = max(consumers, key=lambda worker: worker.runs[0][1] if worker.runs else 0.0)
    text = f"{size:,} of {size:,} slots. {_running(longest, f'on {plain(longest.hostname)}')}"
    return Reason("busy", head, text, None, _one(consumers), "received", "s-received")


def _solo(facts: Facts) -> Reason | None:
    """What looks idle may be at work: a solo worker sends no event before its task has ended."""
    there = [facts.holder] if facts.state == RECEIVED and facts.holder else facts.consumers
    if facts.held_back or not there or not all("solo" in w.pool and not w.is_full for w in there):
        return None
    name = plain(there[0].hostname)
    if len(there) == 1:
        head = f"{name} is a solo worker: it runs one task at a time"
    else:
        head = (
            f"The {len(there):,} consumers of {plain(facts.queue)} are solo workers: one task at a time each"
        )
    text = "At work it sends no event, not even of the task that it took: what looks idle here may be busy."
    return Reason("solo", head, text, None, _one(there), "received", "s-received")


def _position(facts: Facts) -> Reason | None:
    place = facts.place
    if facts.state != PENDING or place is None or facts.held_back:
        return None
    at = f"{place.ahead + 1:,}"
    of = f"{'at least ' if place.more else ''}{place.waiting:,}"
    head = f"Position {at} of {of} in {plain(facts.queue) or 'its queue'}, by events"
    broker = "" if facts.depth is None else f" The broker counts {_count(facts.depth, 'message')} there."
    text = f"Only tasks whose task-sent event came are counted; priorities are not.{broker}"
    return Reason("position", head, text)


# The most telling first. What was seen of the task itself goes before what is true of its surroundings.
TESTS: tuple[Callable[[Facts], Reason | None], ...] = (
    _blind,
    _is_revoked,
    _has_expired,
    holding.holder_gone,
    holding.chord,
    _is_gone,
    _no_consumer,
    _not_registered,
    _held_for_eta,
    _stalled,
    _rate_limited,
    _reserved,
    _all_busy,
    _solo,
    holding.unacknowledged,
    _position,
)
# These say where it is, and not why it is still there.
_OBSERVED = frozenset({"blind", "held", "position", "not registered on some"})


def _unexplained(facts: Facts) -> Reason:
    consumers = facts.consumers
    free = [worker for worker in consumers if not worker.is_full]
    if facts.state == RECEIVED and (holder := facts.holder) is not None:
        text = (
            f"{plain(holder.hostname)} has a free slot, no rate limit for it is known, and no ETA holds it."
        )
    elif free:
        have = f"{_do(free, 'consumes', 'consume')} its queue and {_do(free, 'has', 'have')} a free slot"
        text = f"{_names(free)} {have}."
    else:
        text = "Nothing that Umbel has stored explains it."
    text += " It may just have been sent, or have left unseen: purged, or taken while Umbel did not hear."
    return Reason("unexplained", "No cause found", text, None, None, "lost", "s-lost")


def _unchecked(facts: Facts) -> list[Unchecked]:
    found = []
    if facts.state != RECEIVED:
        counted = "" if facts.depth is None else f": it has counted {_count(facts.depth, 'message')}"
        found.append(Unchecked("the message in the broker", f"Umbel does not read queues’ messages{counted}"))
    if facts.state == RETRY and not facts.held_back:
        found.append(
            Unchecked(
                "when its retry is due", "the event of a retry does not say; its receipt by a worker does"
            )
        )
    if not facts.queue and facts.state != RECEIVED:
        found.append(
            Unchecked("its queue and who consumes it", "no task-sent event names it (task_send_sent_event)")
        )
    if facts.state == RECEIVED and facts.holder is None:
        who = plain(facts.worker)
        found.append(
            Unchecked(f"how busy {who} is", f"{who} is not in the list of workers")
            if who
            else Unchecked("which worker has it", "no worker said so; its message is not acknowledged")
        )
    if facts.chord is not None and facts.chord.ended is None:
        found.append(Unchecked("how many of the chord’s headers have ended", "its events name them abridged"))
    found += [_unasked(worker, facts) for worker in _silent(facts)]
    if facts.unread:
        found.append(
            Unchecked(f"{_count(facts.unread, 'more worker')} that may take it", "too many to look at all")
        )
    return found


def _silent(facts: Facts) -> list[Consumer]:
    """Who should have told something that a test needs, and has not."""
    if facts.state == RECEIVED:
        needed = [worker for worker in (facts.holder,) if worker is not None]
    else:
        # Of a queue that is not known, anyone may be the consumer.
        needed = [w for w in facts.workers if w.queues is None or not facts.queue or facts.queue in w.queues]
    return [worker for worker in needed if worker.is_read and _lacks(worker)][:MANY]


def _lacks(worker: Consumer) -> bool:
    if worker.status == "offline":
        return False
    return worker.status == "unknown" or None in (worker.queues, worker.names, worker.is_revoked)


def _unasked(worker: Consumer, facts: Facts) -> Unchecked:
    name = plain(worker.hostname)
    if worker.status == "unknown":
        return Unchecked(f"{name} as it is now", "it is not heard of")
    if worker.asked_at is None:
        return Unchecked(f"queues, task names and pool of {name}", "it has not answered inspect")
    if worker.queues is None and facts.state != RECEIVED:
        return Unchecked(f"which queues {name} consumes", "it left that unanswered")
    if worker.names is None:
        what = "limits its rate" if facts.state == RECEIVED else "knows the task name"
        return Unchecked(f"whether {name} {what}", "it has not told its task names")
    return Unchecked(f"whether {name} lists it as revoked", "it left that unanswered")


# Words and parts


def _slots(worker: Consumer) -> str:
    return "" if worker.size is None else f"{worker.busy:,} of its {_count(worker.size, 'slot')} busy."


def _running(worker: Consumer, there: str = "there") -> str:
    if not worker.runs:
        return "What runs there is not known."
    name, seconds = worker.runs[0]
    function = plain(name).rpartition(".")[2] or "a task"
    if len(worker.runs) == 1:
        return f"{function} runs {there}, for {duration_text(seconds)}."
    return f"Longest {there}: {function}, for {duration_text(seconds)}."


def _age(worker: Consumer, now: float) -> str:
    if worker.asked_at is None or not OLD < now - worker.asked_at < 1e9:
        return ""
    return f", asked {duration_text(now - worker.asked_at)} ago"


def _names(workers: Sequence[Consumer]) -> str:
    return _list([plain(worker.hostname) for worker in workers])


def _list(texts: Iterable[str]) -> str:
    names = list(texts)
    if len(names) > MANY:
        return f"{', '.join(names[:MANY])} and {len(names) - MANY:,} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _do(workers: Sequence[object], one: str = "does", more: str = "do") -> str:
    return one if len(workers) == 1 else more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _one(workers: Sequence[Consumer]) -> int | None:
    return workers[0].pk if len(workers) == 1 else None
