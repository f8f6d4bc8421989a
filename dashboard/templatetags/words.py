"""How times, durations, numbers and names are written: text in the design's words, for every template."""

from __future__ import annotations

import hashlib
import math
import time
from datetime import UTC, datetime

NBSP = "\u00a0"


UNKNOWN = "–"


def ago(at: float | None, now: float | None = None) -> str:
    """ "3 s ago", "in 4 min"; "now" within a second either way."""
    if date_of(at) is None or at is None:
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


def stamp(at: float | None) -> str:
    """2026-03-12 14:32:04 UTC"""
    moment = date_of(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else UNKNOWN


def clock(at: float | None, parts: str = "") -> str:
    """14:32:04, or 14:32:04.128 with ``clock:"ms"``"""
    moment = date_of(at)
    if moment is None:
        return UNKNOWN
    return f"{moment:%H:%M:%S}" + (f".{moment.microsecond // 1000:03d}" if parts == "ms" else "")


def duration_text(seconds: float | None) -> str:
    """A duration for prose: "6 min 12 s"."""
    return _long(float(seconds or 0)).replace(" ", NBSP) if known(seconds) else UNKNOWN


def lag(seconds: float | None) -> str:
    """How far behind, in a box of one width: "0.4 s", "12 s", "3 min 20 s"."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    return f"{max(seconds, 0):.1f}{NBSP}s" if seconds < 9.95 else duration_text(seconds)


def number(value: float | None) -> str:
    """1,234; "–" for what is not known, never 0."""
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else UNKNOWN


def rate(value: float | None) -> str:
    """A rate a second with as many digits as it deserves: 196, 4.2, 0.59, 0.003."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}" if value >= 0.01 else f"{value:.3f}"


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


def drift(seconds: float | None) -> str:
    """A clock's lead over ours: "+0.2 s", "-4 min 12 s"."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    return f"{'-' if seconds < 0 else '+'}{duration_text(abs(seconds))}"


def plain(value: object) -> str:
    """Text that can be shown and sent: no NUL, no lone surrogate, nothing that turns the line around."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_MARKS)
    return text.encode("utf-8", "replace").decode()


# Control characters show as pictures; the ones that reorder a line show as an empty box.
_MARKS = {
    **{c: 0x2400 + c for c in range(32) if c not in (9, 10, 13)},
    0x7F: 0x2421,
    **{c: 0x25AF for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F)},
}


def initials(name: str) -> str:
    """Two letters for the avatar."""
    words = [w for w in name.replace(".", " ").replace("-", " ").replace("_", " ").split() if w]
    return ("".join(w[0] for w in words[:2]) if len(words) > 1 else name[:2]).upper()


def domid(value: object) -> str:
    """A DOM id's tail for a value from an event: 12 hex digits, never the value itself."""
    return hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def date_of(at: float | None) -> datetime | None:
    """None for what is no time that a calendar has."""
    try:
        return None if at is None else datetime.fromtimestamp(float(at), UTC)
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def known(seconds: float | None) -> bool:
    return seconds is not None and math.isfinite(seconds)


def short(s: float) -> str:
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
