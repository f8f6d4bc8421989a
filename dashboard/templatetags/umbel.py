"""What templates say: glyphs, states, times, durations, names and drawings, in the design's words."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags import drawings
from dashboard.templatetags.art import art as drawn_art

register = template.Library()

NBSP = "\u00a0"
UNKNOWN = "–"

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
    moment = _moment(at)
    if moment is None or at is None:
        return format_html('<span class="dim">{}</span>', UNKNOWN if at is None else "unreadable time")
    return format_html(
        '<time{} datetime="{}" title="{}"{}>{}</time>',
        format_html(' class="{}"', look) if look else "",
        moment.isoformat(timespec="milliseconds"),
        stamp(at),
        "" if text else format_html(' data-age="{}"', f"{at:.3f}"),
        text or ago(at),
    )


@register.filter
def ago(at: float | None, now: float | None = None) -> str:
    """ "3 s ago", "in 4 min"; "now" within a second either way."""
    if _moment(at) is None or at is None:
        return UNKNOWN
    past = (time.time() if now is None else now) - at
    span = abs(past)
    if span < 1:
        return "now"
    for size, unit in ((172800, "d"), (3600, "h"), (60, "min"), (0, "s")):
        if span >= size:
            step = {"d": 86400, "h": 3600, "min": 60, "s": 1}[unit]
            words = f"{int(span // step)}{NBSP}{unit}"
            return f"{words} ago" if past > 0 else f"in {words}"
    return "now"


@register.filter
def stamp(at: float | None) -> str:
    """2026-03-12 14:32:04 UTC"""
    moment = _moment(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else UNKNOWN


@register.filter
def clock(at: float | None, parts: str = "") -> str:
    """14:32:04, or 14:32:04.128 with ``clock:"ms"``"""
    moment = _moment(at)
    if moment is None:
        return UNKNOWN
    return f"{moment:%H:%M:%S}" + (f".{moment.microsecond // 1000:03d}" if parts == "ms" else "")


@register.simple_tag
def duration(seconds: float | None) -> SafeString:
    """A duration for tables, "6.2 min", the unit small and never broken from its number."""
    if not _known(seconds):
        return format_html('<span class="dim">{}</span>', UNKNOWN)
    words = _short(float(seconds or 0)).split(" ")
    pairs = list(zip(words[::2], words[1::2], strict=False))
    return format_html_join(NBSP, '{}<span class="u">{}</span>', pairs)


@register.filter
def duration_text(seconds: float | None) -> str:
    """A duration for prose: "6 min 12 s"."""
    return _long(float(seconds or 0)).replace(" ", NBSP) if _known(seconds) else UNKNOWN


@register.filter
def lag(seconds: float | None) -> str:
    """How far behind, in a box of one width: "0.4 s", "12 s", "3 min 20 s"."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    return f"{max(seconds, 0):.1f}{NBSP}s" if seconds < 9.95 else duration_text(seconds)


@register.filter
def number(value: float | None) -> str:
    """1,234; "–" for what is not known, never 0."""
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else UNKNOWN


@register.filter
def rate(value: float | None) -> str:
    """A rate a second with as many digits as it deserves: 196, 4.2, 0.59, 0.003."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}" if value >= 0.01 else f"{value:.3f}"


@register.filter
def percent(part: float | None) -> str:
    """A share (0 to 1) as "6.2%", with two decimals under one percent."""
    if part is None or not math.isfinite(part):
        return UNKNOWN
    value = part * 100
    return (
        "0%"
        if value == 0
        else f"{value:.2f}%"
        if value < 1
        else f"{value:.1f}%"
        if value < 100
        else f"{value:.0f}%"
    )


@register.filter
def drift(seconds: float | None) -> str:
    """A clock's lead over ours: "+0.2 s", "-4 min 12 s"."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    return f"{'-' if seconds < 0 else '+'}{duration_text(abs(seconds))}"


@register.simple_tag
def task_name(name: str | None) -> SafeString:
    """The module grey, the function plain; when room is short the module gives way."""
    if not name:
        return SafeString('<span class="tn dim">name not known</span>')
    module, dot, function = plain(name)[:NAME_SHOWN].rpartition(".")
    front = format_html('<span class="tn-m">{}{}</span>', module, dot) if module else SafeString("")
    return format_html('<span class="tn">{}<span class="tn-f">{}</span></span>', front, function)


NAME_SHOWN = 255


@register.filter
def plain(value: object) -> str:
    """Text that can be shown and sent: no NUL, no lone surrogate, nothing that turns the line around."""
    text = str(value).translate(_MARKS)
    return text.encode("utf-8", "replace").decode()


# Control characters show as pictures; the ones that reorder a line show as an empty box.
_MARKS = {
    **{c: 0x2400 + c for c in range(32) if c not in (9, 10, 13)},
    0x7F: 0x2421,
    **{c: 0x25AF for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)},
}


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


@register.filter(name="domid")
def domid_filter(value: object) -> str:
    """As ``{% domid %}``."""
    return domid(value)


@register.simple_tag
def domid(value: object) -> str:
    """A DOM id's tail for a value from an event: 12 hex digits, never the value itself."""
    return hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


@register.filter
def initials(name: str) -> str:
    """Two letters for the avatar."""
    words = [w for w in name.replace(".", " ").replace("-", " ").replace("_", " ").split() if w]
    return ("".join(w[0] for w in words[:2]) if len(words) > 1 else name[:2]).upper()


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


def _moment(at: float | None) -> datetime | None:
    """None for what is no time that a calendar has."""
    try:
        return None if at is None else datetime.fromtimestamp(float(at), UTC)
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def _known(seconds: float | None) -> bool:
    return seconds is not None and math.isfinite(seconds)


def _short(s: float) -> str:
    if 59.5 <= s < 119.5:
        return f"{s:.0f} s"
    if 119.5 <= s < 597:
        return f"{s / 60:.1f} min"
    if 597 <= s < 3570:
        return f"{s / 60:.0f} min"
    return _long(s)


def _long(s: float) -> str:
    if s < 0:
        return "0 s"
    if s < 0.001:
        return "0 s" if s == 0 else "<1 ms"
    if s < 0.9995:
        return f"{s * 1000:.0f} ms"
    if s < 9.95:
        return f"{s:.1f} s"
    if s < 59.5:
        return f"{s:.0f} s"
    minutes, seconds = divmod(round(s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days = hours // 24
    return f"{days:,} d {hours % 24} h"
