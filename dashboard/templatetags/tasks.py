"""Drawings of the task pages: bars of matches, waterfall, runtime distribution, folded tracebacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags import drawings
from dashboard.templatetags.umbel import named_state

register = template.Library()


@register.filter
def total(values: Iterable[int]) -> int:
    """Their sum."""
    return sum(values)


@register.simple_tag
def match_bars(values: Sequence[int], state: str = "") -> SafeString:
    """Matches over time as bars in the colour of the one state asked for, else grey."""
    top = max(max(values, default=0), 1)
    path = "".join(
        f"M{k * 10 + 1.2:g} 28h7.6v-{max(value / top * 27, 1):.1f}h-7.6z" for k, value in enumerate(values) if value
    )
    name = named_state(state)[0] if state else "sent"
    return format_html(
        '<svg class="plot" viewBox="0 0 {} 28" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path data-state="{}" class="bar-one" d="{}"/></svg>',
        len(values) * 10,
        f"{sum(values):,} tasks, most at once {max(values, default=0):,}",
        name,
        path,
    )


@register.simple_tag
def waterfall(attempt: object) -> SafeString:
    """The bar of one attempt: spans of waiting, reserved and running, and its p95 as a dashed line."""
    line = drawings.value_of(attempt, "p95_at")
    return format_html(
        '<svg class="g-bar" role="img" aria-label="{}">{}{}</svg>',
        drawings.value_of(attempt, "aria"),
        drawings.spans(drawings.value_of(attempt, "spans")),
        format_html('<line class="g-mark" x1="{0}%" x2="{0}%" y1="0" y2="16"/>', drawings.num(line)) if line else "",
    )


@register.simple_tag
def distribution(dist: object) -> SafeString:
    """Runs by duration on a log axis."""
    values = drawings.value_of(dist, "values")
    top = max(max(values, default=0), 1)
    low, high = drawings.value_of(dist, "band")
    bars = (
        (
            "db-in" if low <= k <= high else "db-out",
            f"M{k * 10 + 0.6:g} 100h8.8v-{max(value / top * 98, 0.6 if value else 0):.1f}h-8.8z",
        )
        for k, value in enumerate(values)
        if value
    )
    return format_html(
        '<svg class="plot" viewBox="0 0 {} 100" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        len(values) * 10,
        format_html_join("", '<path class="{}" d="{}"/>', bars),
    )
