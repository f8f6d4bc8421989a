"""What templates say: glyphs, states, times, durations, names and drawings, in the design's words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags import drawings
from dashboard.templatetags.art import art as drawn_art
from dashboard.templatetags.words import (
    NBSP,
    UNKNOWN,
    ago,
    clock,
    date_of,
    domid,
    drift,
    duration_text,
    initials,
    known,
    lag,
    number,
    percent,
    plain,
    rate,
    short,
    stamp,
)

register = template.Library()
for written in (ago, clock, domid, drift, duration_text, initials, lag, number, percent, plain, rate, stamp):
    register.filter(written.__name__, written)
register.simple_tag(domid)


# Celery's state -> the design's name and its word.
STATES = {
    "PENDING": ("sent", "Waiting"),
    "RECEIVED": ("received", "Reserved"),
    "STARTED": ("running", "Running"),
    "SUCCESS": ("succeeded", "Succeeded"),
    "FAILURE": ("failed", "Failed"),
    "RETRY": ("retry", "Retrying"),
    "REVOKED": ("revoked", "Revoked"),
    "REJECTED": ("rejected", "Rejected"),
    "LOST": ("lost", "Lost"),
}
# Umbel's own, by the design's name.
OWN = {
    "scheduled": "Scheduled",
    "slow": "Slow",
    "stuck": "Stuck",
    "online": "Online",
    "offline": "Offline",
    "unknown": "Unknown",
    "warn": "Warning",
}
WORDS = {**dict(STATES.values()), **OWN}
# The glyph and the colours of a state that has none of its own name.
GLYPHS = {"slow": "warn", "unknown": "lost"}
COLOURS = {"unknown": "lost"}


@register.simple_tag
def icon(name: str, look: str = "") -> SafeString:
    """A glyph of the sprite; decorative, the word stands beside it."""
    return format_html(
        '<svg class="i{}" aria-hidden="true"><use href="#{}"/></svg>', f" {look}" if look else "", name
    )


@register.simple_tag
def state(
    name: str | None,
    label: str = "",
    *,
    eta: float | None = None,
    pace: str = "",
    look: str = "",
    glyph: str = "",
) -> SafeString:
    """Glyph and word of a Celery state, or of one of the design's own names.

    A task held for its ``eta`` is scheduled; ``pace`` (slow or stuck) stands in for a running one.
    """
    key, word = named_state(name, eta, pace)
    return format_html(
        '<span class="state{}" data-state="{}">{}<span>{}</span></span>',
        f" {look}" if look else "",
        COLOURS.get(key, key),
        icon(f"s-{GLYPHS.get(key, key)}", glyph),
        label or word,
    )


@register.filter
def state_name(name: str | None) -> str:
    """The design's name of a Celery state, for ``data-state``."""
    key, _ = named_state(name)
    return COLOURS.get(key, key)


@register.filter
def state_word(name: str | None) -> str:
    """The design's word of a Celery state."""
    return named_state(name)[1]


def named_state(name: str | None, eta: float | None = None, pace: str = "") -> tuple[str, str]:
    """The design's name and word; a state nobody knows keeps its own word and the glyph of the unknown."""
    if name in ("PENDING", "RECEIVED") and eta is not None and eta > time.time():
        return "scheduled", WORDS["scheduled"]
    if name == "STARTED" and pace in ("slow", "stuck"):
        return pace, WORDS[pace]
    if name in STATES:
        return STATES[name]
    if name in WORDS:
        return name, WORDS[name]
    return "unknown", plain(name) if name else WORDS["unknown"]


@register.simple_tag
def when(at: float | None, text: str = "", look: str = "") -> SafeString:
    """A moment: relative in words (ticking in the browser), absolute in its title. Unix seconds in."""
    opened = _opened(at, look, bool(text))
    if at is None or not opened:
        return format_html('<span class="dim">{}</span>', UNKNOWN if at is None else "unreadable time")
    return format_html("{}{}</time>", opened, text or ago(at))


@lru_cache(maxsize=8192)
def _opened(at: float | None, look: str, fixed: bool) -> SafeString:
    """The tag before the words; "" for what is no time. Lists show the same moments again and again."""
    moment = date_of(at)
    if moment is None or at is None:
        return SafeString("")
    return format_html(
        '<time{} datetime="{}" title="{}"{}>',
        format_html(' class="{}"', look) if look else "",
        moment.isoformat(timespec="milliseconds"),
        stamp(at),
        "" if fixed else format_html(' data-age="{}"', f"{at:.3f}"),
    )


@register.simple_tag
def duration(seconds: float | None) -> SafeString:
    """A duration for tables, "6.2 min", the unit small and never broken from its number."""
    if not known(seconds):
        return format_html('<span class="dim">{}</span>', UNKNOWN)
    words = short(float(seconds or 0)).split(" ")
    pairs = list(zip(words[::2], words[1::2], strict=False))
    return format_html_join(NBSP, '{}<span class="u">{}</span>', pairs)


@register.simple_tag
def task_name(name: str | None) -> SafeString:
    """The module grey, the function plain; when room is short the module gives way."""
    if not name:
        return SafeString('<span class="tn dim">name not known</span>')
    module, dot, function = plain(name)[:NAME_SHOWN].rpartition(".")
    front = format_html('<span class="tn-m">{}{}</span>', module, dot) if module else SafeString("")
    return format_html('<span class="tn">{}<span class="tn-f">{}</span></span>', front, function)


NAME_SHOWN = 255


@register.simple_tag
def marked(text: str, part: str) -> SafeString:
    """The text with what was searched for in it marked."""
    shown = plain(text)
    at = shown.casefold().find(part.casefold()) if part else -1
    if at < 0:
        return format_html("{}", shown)
    end = at + len(part)
    return format_html("{}<mark>{}</mark>{}", shown[:at], shown[at:end], shown[end:])


@register.simple_tag
def hostname(name: str) -> SafeString:
    """name@host with the host grey."""
    first, at, host = plain(name).partition("@")
    return format_html('<b>{}</b><span class="dim">{}{}</span>', first, at, host)


@register.simple_tag
def norm(usual: Any, value: float | None, running: bool = False, label: str = "") -> SafeString:
    """The norm bar; see ``drawings.norm``."""
    if not label and usual is not None and value is not None:
        verb = "running for" if running else "ran"
        p50, p95 = (drawings.value_of(usual, key) for key in ("p50", "p95"))
        label = f"{verb} {duration_text(value)}, usual p50 {duration_text(p50)}, p95 {duration_text(p95)}"
    return drawings.norm(usual, value, running, label)


@register.simple_tag
def slots(worker: Any, label: str = "") -> SafeString:
    """Pool slots of a worker view (its ``slots``), or of a list of slots; see ``drawings.slots``."""
    cells = drawings.value_of(worker, "slots")
    return drawings.slots(worker if cells is None else cells, label)


@register.simple_tag
def spark(
    values: Sequence[float], state: str = "", width: int = 72, height: int = 20, label: str = ""
) -> SafeString:
    """A sparkline."""
    return drawings.spark(values, state, width, height, label)


@register.simple_tag
def bars(
    series: Sequence[tuple[str, Sequence[float]]], height: int = 180, top: float | None = None
) -> SafeString:
    """Stacked bars of (state, values)."""
    return drawings.bars(series, height, top)


@register.simple_tag
def area(values: Sequence[float], height: int = 120, top: float | None = None, state: str = "") -> SafeString:
    """A line over its area."""
    return drawings.area(values, height, top, state)


@register.simple_tag
def spans(pieces: Iterable[tuple[float, float, str, str]], height: int = 16) -> SafeString:
    """One row of a waterfall."""
    return drawings.spans(pieces, height)


@register.simple_tag
def art(kind: str = "small") -> SafeString:
    """The umbel: large, wilted, medium or small."""
    return drawn_art(kind)


@register.simple_tag
def axis_x(labels: Iterable[str]) -> SafeString:
    """The words under a chart."""
    return format_html('<ol class="ax" aria-hidden="true">{}</ol>', _items(labels))


@register.simple_tag
def axis_y(labels: Iterable[str]) -> SafeString:
    """The words beside a chart, from the top."""
    return format_html('<ol class="ay" aria-hidden="true">{}</ol>', _items(labels))


def _items(labels: Iterable[str]) -> SafeString:
    return format_html_join("", "<li>{}</li>", ((label,) for label in labels))
