"""Regions of the tasks page and of one task's page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dashboard import access
from dashboard.forms.tasks import SPANS, TaskFilter, task_filter
from dashboard.fragments import Page, Region, register
from dashboard.fragments.overview import CLOCK
from dashboard.queries import gaps, ladders, runs, twice, usual
from dashboard.queries import task as one
from dashboard.queries import tasks as many
from dashboard.queries.distribution import distribution
from dashboard.queries.matches import matches
from dashboard.queries.running import going
from dashboard.queries.waits import why_waiting
from dashboard.queries.workflow import workflow
from dashboard.templatetags.umbel import state_name
from dashboard.templatetags.words import clock
from monitor.deltas import CONTROLS, FEED, GAPS, TASKS, WORKERS
from monitor.models import Task
from monitor.records import RETRY, STARTED, STATES, WAITING


def _asked(page: Page) -> TaskFilter:
    return task_filter(page.params)


def why_not_control(page: Page) -> str:
    """Why the reader's buttons are off, "" when they are on."""
    if page.read_only:
        return "Umbel runs read-only"
    return "" if access.can_control(page) else "Needs the operator role"


def _states(page: Page) -> Mapping[str, Any]:
    asked, counts = _asked(page), many.state_counts()
    chips = [(s, _count(counts[s]), s in asked.states, asked.toggled(s)) for s in STATES]
    waiting = [s for s in STATES if s in WAITING and s != RETRY]
    views = [
        ("All tasks", "", "", not asked.narrowed),
        ("Running", _count(counts[STARTED]), "state=STARTED", asked.asked == {"state": [STARTED]}),
        ("Stuck", _count(many.stuck_count()), "stuck=1", asked.asked == {"stuck": ["1"]}),
        ("Failed", _count(counts["FAILURE"]), "state=FAILURE", asked.asked == {"state": ["FAILURE"]}),
        (
            "Waiting",
            _count(sum(counts[s] for s in waiting)),
            "&".join(f"state={s}" for s in waiting),
            asked.asked == {"state": waiting},
        ),
    ]
    return {"chips": chips, "views": views}


def _count(number: int) -> str:
    return f"{many.COUNTED:,}+" if number > many.COUNTED else f"{number:,}" if number else ""


def _matches(page: Page) -> Mapping[str, Any]:
    asked, now = _asked(page), time.time()
    found = matches(asked, now)
    begin, end = found.begin, found.end
    drawn = [(state_name(state), values) for state, values in found.series]
    axis = [clock(begin + (end - begin) * n / 5)[:5] for n in range(5)]
    axis.append("now" if now - end < 1 else clock(end)[:5])
    text = f"{found.total:,}{'+' if found.more else ''}"
    blind = gaps.between(begin, end, now)
    context = {"series": drawn, "axis": axis, "total": text, "total_note": _note(asked)}
    return context | {"blind": blind, "bands": [gap.part(begin, end) for gap in blind]}


def _note(asked: TaskFilter) -> str:
    if asked.stuck:
        return "tasks stuck now"
    if asked.states == (STARTED,):
        return "tasks running now"
    return "tasks match" if asked.narrowed else "tasks in the history"


def _not_in_order(asked: TaskFilter, now: float) -> list[gaps.Blind]:
    """What touches the time asked for, or the last day, where no row has its place in time."""
    since = now - SPANS.get(asked.span, gaps.DAY) if asked.since is None else asked.since
    return gaps.between(since, min(asked.until or now, now), now)


# A filter by its key in the URL -> the words for it.
_DROPS = {
    **{"q": "text", "name": "name", "worker": "worker", "queue": "queue", "error": "exception"},
    **{"state": "state", "in": "time"},
}


# A row's button -> its command.
_ACTIONS = {"revoke": "revoke", "terminate": "terminate", "retry": "send_task"}


def _off(page: Page) -> list[str]:
    return [action for action, command in _ACTIONS.items() if not access.may(page, command).allowed]


def selects(page: Page) -> bool:
    """Whether there is anything that the readers of this page may do with the rows that they choose."""
    return len(_off(page)) < len(_ACTIONS)


def _list(page: Page) -> Mapping[str, Any]:
    asked = _asked(page)
    found = many.window(asked)
    context: dict[str, Any] = {"asked": asked, "window": found, "off": _off(page), "selects": selects(page)}
    if found.rows and not (asked.stuck or asked.sort):
        moments = [row.task.seen_at for row in found.rows]
        context["blind"] = gaps.among(moments, newest=not (asked.before or asked.after))
    else:
        context["blind_note"] = _not_in_order(asked, time.time())
    if not found.rows:
        context["nothing"] = not Task.objects.exists()
        drops = [(key, word) for key, word in _DROPS.items() if asked.asked.get(key)]
        drops += [(key, "time") for key in ("from", "to") if asked.asked.get(key)]
        context["drops"] = [(word, ", ".join(asked.asked[key]), asked.query(drop=key)) for key, word in drops]
    return context


def _list_stamp(page: Page) -> object:
    """Rows come to the top with each event. What else they show (usual runtimes) may be a second old."""
    now = time.time()
    return int(now), many.places(_asked(page), now)


register(
    "tasks",
    [
        Region("task-states", _states, (TASKS, usual.TOPIC), "tasks/_states.html", every=1.0),
        Region("task-matches", _matches, (TASKS, GAPS), "tasks/_matches.html", every=1.0),
        Region(
            "task-list", _list, (TASKS, GAPS, usual.TOPIC), "tasks/_list.html", held=True, stamp=_list_stamp
        ),
    ],
)


# One task


def _topics(page: Page) -> tuple[str, ...]:
    return (f"task:{page.arg('uuid')}", WORKERS, usual.TOPIC)


def _time_topics(page: Page) -> tuple[str, ...]:
    return (*_own(page), GAPS, usual.TOPIC)


def _running_topics(page: Page) -> tuple[str, ...]:
    return (*_own(page), WORKERS, CLOCK)


def _own(page: Page) -> tuple[str, ...]:
    return (f"task:{page.arg('uuid')}",)


# A row changes with its marks; of the large columns none changes alone.
_STAMP = ("seen_at", "state", "known", "note", "worker", "retries", "started_at", "ended_at", "eta", "marks")


def _stamp(page: Page) -> object:
    return Task.objects.filter(uuid=page.arg("uuid")).values_list(*_STAMP).first()


def _detail(page: Page) -> Mapping[str, Any]:
    return {"d": one.detail(page.arg("uuid"), time.time()), "why_not": why_not_control(page)}


def _head(page: Page) -> Mapping[str, Any]:
    return {**_detail(page), **_runs(page)}


def _runs(page: Page) -> Mapping[str, Any]:
    return {"runs": runs.runs(page.arg("uuid"))}


def _runs_stamp(page: Page) -> object:
    """The head alone shows what Umbel sent: the row's state, and how often it was run again."""
    return _stamp(page), runs.stamp(page.arg("uuid"))


def _runs_topics(page: Page) -> tuple[str, ...]:
    return (*_topics(page), CONTROLS)


def _time(page: Page) -> Mapping[str, Any]:
    context, now = _detail(page), time.time()
    line = context["d"].time if context["d"] else None
    return {**context, "blind": gaps.between(line.begin, min(line.end, now), now) if line else []}


def _running(page: Page) -> Mapping[str, Any]:
    return {"r": going(page.arg("uuid"), time.time())}


def _waiting(page: Page) -> Mapping[str, Any]:
    return {"why": why_waiting(page.arg("uuid"), time.time())}


def _waiting_topics(page: Page) -> tuple[str, ...]:
    # Not all tasks: what runs and waits beside it is looked at with the workers' heartbeats.
    return (*_own(page), WORKERS, FEED, CLOCK)


def _flow(page: Page) -> Mapping[str, Any]:
    uuid = page.arg("uuid")
    return {"flow": workflow(uuid, time.time()), "page_uuid": uuid, "why_not": why_not_control(page)}


def _acts(page: Page) -> Mapping[str, Any]:
    uuid = page.arg("uuid")
    return {"acts": ladders.of(uuid), "twice": twice.of(uuid, time.time()), "why_not": why_not_control(page)}


def _acts_topics(page: Page) -> tuple[str, ...]:
    # What is forecast comes to pass without an event.
    return (*_own(page), CLOCK)


def _usual(page: Page) -> Mapping[str, Any]:
    task = Task.objects.filter(uuid=page.arg("uuid")).first()
    if task is None:
        return {"dist": None}
    return {"dist": distribution(task, time.time()), "name": task.name, "after": usual.after(task.name)}


def _usual_topics(page: Page) -> tuple[str, ...]:
    return (*_own(page), usual.TOPIC)


def threshold_form(name: str) -> Mapping[str, Any]:
    """The fields in which an operator sets when a run of the name is slow or stuck, as they are set."""
    limit = usual.after(name)
    return {
        "threshold_name": name,
        "threshold_slow": f"{limit.slow:g}" if limit.slow_is_set else "",
        "threshold_stuck": f"{limit.stuck:g}" if limit.stuck_is_set else "",
    }


register(
    "task",
    [
        Region("task-head", _head, _runs_topics, "tasks/_head.html", stamp=_runs_stamp),
        Region("task-runs", _runs, _runs_topics, "tasks/_runs.html", every=0.5, stamp=_runs_stamp),
        Region("task-acts", _acts, _acts_topics, "tasks/_acts.html", every=2.0),
        Region("task-time", _time, _time_topics, "tasks/_time.html", stamp=_stamp),
        # Its countdowns are of the server: they go on while anybody looks.
        Region("task-running", _running, _running_topics, "tasks/_running.html", every=1.0),
        Region("task-waiting", _waiting, _waiting_topics, "tasks/_waiting.html", every=2.0),
        Region("task-failure", _detail, _own, "tasks/_failure.html", stamp=_stamp),
        Region("task-events", _detail, _own, "tasks/_events.html", stamp=_stamp),
        Region("task-usual", _usual, _usual_topics, "tasks/_usual.html", every=1.0, stamp=_stamp),
        Region("task-workflow", _flow, _own, "tasks/_workflow.html", every=1.0, stamp=_stamp),
        Region("task-facts", _detail, _own, "tasks/_facts.html", stamp=_stamp),
    ],
)
