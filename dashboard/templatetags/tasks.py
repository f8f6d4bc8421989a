"""Drawings of the task page: the waterfall of its attempts, and the runtimes of its name."""

from __future__ import annotations

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags import drawings

register = template.Library()


@register.simple_tag
def waterfall(attempt: object) -> SafeString:
    """The bar of one attempt: spans of waiting, reserved and running, and its p95 as a dashed line."""
    line = drawings.value_of(attempt, "p95_at")
    return format_html(
        '<svg class="g-bar" role="img" aria-label="{}">{}{}</svg>',
        drawings.value_of(attempt, "aria"),
        drawings.spans(drawings.value_of(attempt, "spans")),
        format_html('<line class="g-mark" x1="{0}%" x2="{0}%" y1="0" y2="16"/>', drawings.num(line))
        if line
        else "",
    )


@register.simple_tag
def distribution(dist: object) -> SafeString:
    """Runs by duration on a log axis; nine in ten of them are inside the band."""
    values = drawings.value_of(dist, "values")
    top = max(max(values, default=0), 1)
    low, high = drawings.value_of(dist, "band")
    bars = (
        (
            "hb-in" if low <= k <= high else "hb",
            f"M{k * 10 + 0.8:g} 100h8.4v-{max(value / top * 95, 1):.1f}h-8.4z",
        )
        for k, value in enumerate(values)
        if value
    )
    return format_html(
        '<svg class="plot hist" viewBox="0 0 {} 100" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        len(values) * 10,
        format_html_join("", '<path class="{}" d="{}"/>', bars),
    )
