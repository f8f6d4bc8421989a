"""Rows of the task list: a layout that the template engine draws once, and its slots, filled for each row.

Fifty rows through some thirty tags each are most of what a page costs; so filled they take a twelfth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from django import template
from django.template.loader import render_to_string
from django.urls import get_script_prefix, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags import umbel
from dashboard.templatetags.gaps import blind_row
from dashboard.templatetags.words import UNKNOWN, domid, plain

if TYPE_CHECKING:
    from dashboard.queries.gaps import Blind
    from dashboard.queries.tasks import Row

register = template.Library()

COLUMNS = 10  # and one for the boxes
LATE = 60.0  # seconds of waiting from which it is marked
KEPT = 2_000  # rows drawn before, at some 2 kB each


@register.simple_tag
def task_rows(
    rows: Sequence[Row],
    off: Sequence[str] = (),
    blind: Mapping[int, Sequence[Blind]] | None = None,
    selects: bool = True,
) -> SafeString:
    """The rows of a list; ``off`` are the actions whose buttons are left out.

    ``blind``: spans without ears, by the place of the row that they stand before.
    ``selects``: whether there is anything that the reader may do with rows that they choose.
    """
    prefix, now = get_script_prefix(), time.time()
    drawn = [_row(row, row.action in off, selects, prefix, now) for row in rows]
    for place in sorted(blind or (), reverse=True):
        drawn[place:place] = [blind_row(gap, COLUMNS + selects) for gap in (blind or {})[place]]
    return format_html_join("", "{}", ((row,) for row in drawn))


def _row(row: Row, mute: bool, selects: bool, prefix: str, now: float) -> SafeString:
    """What stands before and after its age is the same as long as the task is."""
    task = row.task
    # All that is shown, but of those that run and those that wait for their time.
    key = (
        *(task.uuid, task.name, task.state, task.worker, task.queue, task.wait, row.text, row.ran, row.tries),
        *(row.usual, row.how, mute, selects, prefix),
    )
    parts = _drawn.get(key)
    if parts is None:
        parts = _parts(row, mute, selects, prefix, now)
        if not row.running and task.eta is None:
            if len(_drawn) >= KEPT:
                _drawn.clear()
            _drawn[key] = parts
    return format_html("{}{}{}", parts[0], umbel.when(task.seen_at), parts[1])


_drawn: dict[object, tuple[SafeString, SafeString]] = {}


def _parts(row: Row, mute: bool, selects: bool, prefix: str, now: float) -> tuple[SafeString, SafeString]:
    task = row.task
    uuid = plain(task.uuid)
    ids = {"uuid": uuid, "short": uuid[:8]}
    label = plain(task.name)
    scheduled = task.eta if task.eta is not None and task.eta > now else None
    before, _, after = _layout("tasks/_row.html", prefix).partition("{when}")
    action = _NOTHING
    if row.action and not mute:
        layout = _layout(_ACTIONS[row.action], prefix)
        action = format_html(layout, **ids, query=quote(task.uuid, safe=""))
    return (
        format_html(
            before,
            **ids,
            domid=domid(task.uuid),
            select=format_html(_layout("tasks/_row_select.html", prefix), **ids, label=label)
            if selects
            else _NOTHING,
            state=_state(task.state, scheduled, row.pace),
            href=_address(task.uuid, prefix),
            name=_name(task.name),
            args=format_html(_HOW, plain(row.how), plain(row.text)) if row.how else plain(row.text),
            queue=_queue(task.queue),
            worker=plain(task.worker or UNKNOWN),
            waited=_LATE if task.wait and task.wait > LATE else _NOTHING,
            wait=_duration(task.wait),
            ran=_duration(row.ran),
            norm=umbel.norm(row.usual, row.ran, row.running),
            tried=_DIM if row.tries == 1 else _NOTHING,
            tries=row.tries,
        ),
        format_html(after, action=action),
    )


# What can be asked for a task -> its button.
_ACTIONS = {
    "revoke": "tasks/_row_revoke.html",
    "terminate": "tasks/_row_terminate.html",
    "retry": "tasks/_row_retry.html",
}
_NOTHING = SafeString("")
_HOW = '<span class="soft">{}</span> {}'
_LATE = SafeString(' class="warn"')
_DIM = SafeString(' class="dim"')


@lru_cache(maxsize=64)
def _layout(name: str, prefix: str) -> str:
    """Addresses in it begin with the prefix that this thread serves."""
    return render_to_string(name)


@lru_cache(maxsize=1024)
def _name(name: str) -> SafeString:
    return umbel.task_name(name)


@lru_cache(maxsize=256)
def _state(state: str, eta: float | None, pace: str) -> SafeString:
    return umbel.state(state, eta=eta, pace=pace)


@lru_cache(maxsize=4096)
def _duration(seconds: float | None) -> SafeString:
    return umbel.duration(seconds)


@lru_cache(maxsize=256)
def _queue(queue: str) -> SafeString:
    return format_html("{}", plain(queue)) if queue else format_html('<span class="dim">{}</span>', UNKNOWN)


def _address(uuid: str, prefix: str) -> str:
    if uuid.isascii() and uuid.replace("-", "").isalnum():
        return f"{_task_base(prefix)}{uuid}/"
    return reverse("task", args=[uuid])


@lru_cache(maxsize=16)
def _task_base(prefix: str) -> str:
    return reverse("task", args=["0"]).removesuffix("0/")
