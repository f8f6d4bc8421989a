"""Server-side SVG: norm bars, pool slots, sparklines, stacked bars and the umbel, for every template.

All geometry is in SVG attributes, never in ``style``, so that the strict CSP holds. Everything that could
come from an event passes through ``format_html``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

EMPTY = SafeString("")


def num(x: float) -> str:
    """A coordinate: two decimals at most, no trailing zeros; 0 for what is no number."""
    if not math.isfinite(x):
        return "0"
    return f"{x:.2f}".rstrip("0").rstrip(".")


def nice(top: float) -> float:
    """The smallest round axis end that leaves air above ``top``."""
    if not (math.isfinite(top) and top > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(top))
    return next(
        (m * power for m in (1, 1.2, 1.5, 2, 2.4, 3, 4, 5, 6, 8, 10) if m * power >= top * 1.04), 12 * power
    )


def spark(
    values: Sequence[float], state: str = "", width: int = 72, height: int = 20, label: str = ""
) -> SafeString:
    """A small line over its own area. Nothing is drawn for fewer than two values."""
    if len(values) < 2:
        return EMPTY
    top = max(*values, 1e-9) * 1.12
    line = _line(values, width, height - 2, top, dy=1)
    return format_html(
        '<svg class="spark"{} viewBox="0 0 {} {}" preserveAspectRatio="none" {}>'
        '<path class="area" d="{}L{} {}L0 {}z"/><path class="ln" d="{}"/></svg>',
        _state(state),
        width,
        height,
        _named(label),
        line,
        width,
        height,
        height,
        line,
    )


def area(
    values: Sequence[float], height: int = 120, top: float | None = None, state: str = "", width: int = 1000
) -> SafeString:
    """A line over its area, stretched to its box; ``top`` is the axis end."""
    if len(values) < 2:
        return EMPTY
    line = _line(values, width, height, top or nice(max(values)))
    return format_html(
        '<svg class="plot"{} viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="area" d="{}L{} {}L0 {}z"/><path class="ln" d="{}"/></svg>',
        _state(state),
        width,
        height,
        line,
        width,
        height,
        height,
        line,
    )


def bars(
    series: Sequence[tuple[str, Sequence[float]]],
    height: int = 180,
    top: float | None = None,
    gap: float = 0.24,
) -> SafeString:
    """Stacked bars, one path per (state, values), first at the bottom; ``top`` is the axis end."""
    count = max((len(values) for _, values in series), default=0)
    if not count:
        return EMPTY
    base = [0.0] * count
    top = top or nice(max(sum(v[k] for _, v in series if k < len(v)) for k in range(count)))
    wide = num(10 * (1 - gap))
    paths: list[tuple[str, str, str]] = []
    for state, values in series:
        calm = state == "succeeded"
        body, cap = [], []
        for k, value in enumerate(values):
            if not value > 0:
                continue
            y, x = height - base[k] / top * height, num(k * 10 + 5 * gap)
            # A single failure stays visible next to a thousand successes.
            tall = max(value / top * height, 0 if calm else 0.8)
            base[k] += value
            body.append(f"M{x} {num(y)}h{wide}v-{num(tall)}h-{wide}z")
            if calm and tall > 6:
                cap.append(f"M{x} {num(y - tall)}h{wide}v1.6h-{wide}z")
        paths.append((state, f"bar-{state}", "".join(body)))
        if cap:
            paths.append((state, f"cap-{state}", "".join(cap)))
    return format_html(
        '<svg class="plot" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        count * 10,
        height,
        format_html_join("", '<path data-state="{}" class="{}" d="{}"/>', paths),
    )


def norm(usual: Any, value: float | None, running: bool = False, label: str = "") -> SafeString:
    """This run against its own history, on a log track: band p5 to p95, tick p50, mark this run.

    In the band the mark is a dot (a ring while running), over p95 a triangle, over p99 a square.
    ``usual`` has p50, p95, p99 and maybe p5, in seconds; nothing is drawn without it or without a value.
    """
    if usual is None or value is None or not math.isfinite(value):
        return EMPTY
    p50 = max(float(value_of(usual, "p50") or 0), 1e-6)
    p95 = max(float(value_of(usual, "p95") or 0), p50 * 1.0001)
    p99 = max(float(value_of(usual, "p99") or 0), p95)
    # Runtimes are about log-normal: the low edge mirrors the high one when it was not measured.
    p5 = float(value_of(usual, "p5") or 0) or p50 * p50 / p95
    low, high = p50 / 6, max(p99 * 3, value * 1.25)

    def at(z: float) -> float:
        return max(0.0, min(100.0, math.log(max(z, low) / low) / math.log(high / low) * 100))

    left, right, middle, x = at(p5), at(p95), at(p50), num(max(3.0, min(97.0, at(value))))
    if value > p99:
        state = "stuck" if running else "failed"
        mark = format_html(
            '<rect class="mk" x="{}%" y="3" width="8" height="8" rx="1.5" transform="translate(-4 0)"/>', x
        )
    elif value > p95:
        state = "slow"
        mark = format_html(
            '<svg x="{}%" y="7" overflow="visible" width="1" height="1">'
            '<path class="mk" d="M0-5 5 4H-5z"/></svg>',
            x,
        )
    else:
        state = "running" if running else ""
        mark = format_html('<circle class="mk{}" cx="{}%" cy="7" r="3.5"/>', " mk-o" if running else "", x)
    over = (
        format_html('<line class="over" x1="{}%" x2="{}%" y1="7" y2="7"/>', num(right), x)
        if value > p95
        else EMPTY
    )
    said = (
        label
        or f"{'running for' if running else 'ran'} {value:.3g} s; usual p50 {p50:.3g} s, p95 {p95:.3g} s"
    )
    return format_html(
        '<svg class="norm"{} width="100%" height="14" {}><line class="tr" x1="0" x2="100%" y1="7" y2="7"/>'
        '<rect class="bd" x="{}%" width="{}%" y="4" height="6" rx="2"/>{}'
        '<line class="md" x1="{}%" x2="{}%" y1="3" y2="11"/>{}</svg>',
        _state(state),
        _named(said),
        num(left),
        num(max(0.0, right - left)),
        over,
        num(middle),
        num(middle),
        mark,
    )


# What a slot may be, and the words for it.
SLOT_WORDS = {"running": "running", "slow": "over p95", "stuck": "stuck", "lost": "lost", "idle": "idle"}
MOST_CELLS = 200


def slots(cells: Iterable[Any], label: str = "") -> SafeString:
    """One cell per pool process, thread or greenlet.

    Each cell has ``state`` (idle, running, slow, stuck, lost) and ``fill`` (0 to 1: runtime
    over its usual p95).
    Above 24 the cells shrink; above 200 there is one bar per state.
    """
    drawn = [_cell(c) for c in cells]
    count = len(drawn)
    if not count:
        return EMPTY
    totals = {s: sum(1 for state, _ in drawn if state == s) for s in SLOT_WORDS}
    busy = count - totals["idle"]
    parts = [f"{busy} of {count} slots busy"]
    parts += [f"{totals[s]} {SLOT_WORDS[s]}" for s in ("slow", "stuck", "lost") if totals[s]]
    said = label or ", ".join(parts)
    if count > MOST_CELLS:
        return _slot_bar(totals, count, said)
    size, gap, per = (7, 2, 15) if count > 24 else (14, 3, min(count, 8))
    wide, tall = per * (size + gap) - gap, math.ceil(count / per) * (size + gap) - gap
    body = [
        _slot((k % per) * (size + gap), (k // per) * (size + gap), size, state, _high(state, fill, size))
        for k, (state, fill) in enumerate(drawn)
    ]
    return format_html(
        '<svg class="slots" width="{}" height="{}" viewBox="0 0 {} {}" {}>{}</svg>',
        wide,
        tall,
        wide,
        tall,
        _named(said),
        format_html_join("", "{}", ((b,) for b in body)),
    )


@lru_cache(maxsize=4096)
def _slot(x: int, y: int, size: int, state: str, high: int) -> SafeString:
    """One cell; the few there are come back at every draw. ``high`` is the pixels filled."""
    r = "3" if size > 9 else "1.5"
    if state == "running":
        return format_html(
            '<rect class="sl-bg" x="{}" y="{}" width="{}" height="{}" rx="{}"/>'
            '<rect class="sl-run" x="{}" y="{}" width="{}" height="{}" rx="{}"/>',
            *(x, y, size, size, r),
            *(x, y + size - high, size, high, num(min(float(r), high / 2))),
        )
    if state == "slow":
        return format_html(
            '<rect fill="url(#p-slow)" x="{}" y="{}" width="{}" height="{}" rx="{}"/>', x, y, size, size, r
        )
    if state == "stuck":
        box = format_html(
            '<rect class="sl-stuck" x="{}" y="{}" width="{}" height="{}" rx="{}"/>', x, y, size, size, r
        )
        if size <= 9:
            return box
        bang = f"M{num(x + size / 2)} {num(y + 3.4)}v4.2M{num(x + size / 2)} {num(y + size - 3.3)}v.01"
        return format_html('{}<path class="sl-bang" d="{}"/>', box, bang)
    kind, edge = ("sl-lost" if state == "lost" else "sl-idle"), size - 1
    box = format_html(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="{}"/>',
        kind,
        x + 0.5,
        y + 0.5,
        edge,
        edge,
        r,
    )
    if state != "lost" or size <= 9:
        return box
    cross = f"M{x + 4} {y + 4}l{size - 8} {size - 8}M{x + size - 4} {y + 4}l-{size - 8} {size - 8}"
    return format_html('{}<path class="sl-q" d="{}"/>', box, cross)


def _cell(cell: Any) -> tuple[str, float]:
    state = str(value_of(cell, "state") or "idle")
    return (state if state in SLOT_WORDS else "idle", float(value_of(cell, "fill") or 0))


def _high(state: str, fill: float, size: int) -> int:
    return max(2, min(size, round(fill * size))) if state == "running" and math.isfinite(fill) else 0


def _slot_bar(totals: Mapping[str, int], count: int, said: str) -> SafeString:
    """A pool too large for cells: one stretch per state on one bar."""
    looks = {"stuck": "sl-stuck", "slow": "", "running": "sl-run", "lost": "sl-lost", "idle": "sl-idle"}
    x, parts = 0.0, []
    for state, look in looks.items():
        wide = totals[state] / count * 133
        if wide:
            fill = SafeString(' fill="url(#p-slow)"') if state == "slow" else EMPTY
            parts.append((fill, look, num(x), num(wide)))
        x += wide
    return format_html(
        '<svg class="slots" width="133" height="14" viewBox="0 0 133 14" {}>{}</svg>',
        _named(said),
        format_html_join("", '<rect{} class="{}" x="{}" y="0" width="{}" height="14" rx="2"/>', parts),
    )


def spans(pieces: Iterable[tuple[float, float, str, str]], height: int = 16) -> SafeString:
    """One row of a waterfall: (x %, width %, kind wait|reserved|run|eta, state) each."""
    fills = {"wait": SafeString(' fill="url(#p-wait)"'), "eta": SafeString(' fill="url(#p-retry)"')}
    return format_html_join(
        "",
        '<rect class="sp sp-{}"{}{} x="{}%" width="{}%" y="0" height="{}" rx="2.5"/>',
        (
            (kind, _state(state), fills.get(kind, EMPTY), num(x), num(max(wide, 0.35)), height)
            for x, wide, kind, state in pieces
        ),
    )


def _line(values: Sequence[float], width: float, height: float, top: float, dy: float = 0) -> str:
    step = width / (len(values) - 1)
    return "M" + "L".join(
        f"{num(k * step)} {num(height - v / top * height + dy)}" for k, v in enumerate(values)
    )


def _state(state: str) -> SafeString:
    return format_html(' data-state="{}"', state) if state else EMPTY


def _named(label: str) -> SafeString:
    return format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')


def value_of(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
