"""Spans in which Umbel was not listening, drawn: bands in charts, rows in lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard.templatetags.drawings import EMPTY, num
from dashboard.templatetags.umbel import icon
from dashboard.templatetags.words import plain

if TYPE_CHECKING:
    from dashboard.queries.gaps import Blind

register = template.Library()

NARROWEST = 0.4  # percent of the axis: a blink is seen as well
TOLD = 3  # spans told in a sentence, the newest
MAY_MISS = "What happened then may be missing here."


@register.simple_tag
def blind_bands(parts: Iterable[tuple[float, float]]) -> SafeString:
    """Behind the bars of a chart: (start %, width %) each. The words stand beside the chart."""
    bands = format_html_join(
        "",
        '<rect class="blind" x="{}" width="{}" y="0" height="100"/>',
        ((num(x), num(max(wide, NARROWEST))) for x, wide in parts),
    )
    if not bands:
        return EMPTY
    return format_html(
        '<svg class="plot" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{}</svg>',
        bands,
    )


@register.simple_tag
def blind_words(gaps: Sequence[Blind]) -> SafeString:
    """ "blind from … to …, blind from … to … and 2 times before"; the reason of each shows on it."""
    spans = format_html_join(
        ", ", '<span title="{}">{}</span>', ((plain(gap.reason), gap.words) for gap in gaps[-TOLD:])
    )
    return format_html("{}{}", spans, _before(gaps))


@register.simple_tag
def blind_text(gaps: Sequence[Blind]) -> str:
    """The same without markup."""
    return ", ".join(gap.words for gap in gaps[-TOLD:]) + _before(gaps)


def _before(gaps: Sequence[Blind]) -> str:
    more = len(gaps) - TOLD
    return f" and {more} time{'' if more == 1 else 's'} before" if more > 0 else ""


@register.simple_tag
def blind_row(gap: Blind, columns: int, note: str = MAY_MISS) -> SafeString:
    """A row of a table between those that it separates; ``note`` says what that means for the table."""
    return format_html(
        '<tr class="blind-r" id="{}"><td colspan="{}" title="{}"><p>{}<span>Umbel was {}. {}</span></p></td>'
        "</tr>",
        gap.id,
        columns,
        plain(gap.reason),
        icon("s-offline", "i-s"),
        gap.words,
        note,
    )


@register.simple_tag
def blind_spans(gaps: Iterable[Blind], begin: float, end: float) -> SafeString:
    """One row of a waterfall, from ``begin`` to ``end``."""
    return format_html(
        '<svg class="g-bar" role="img" aria-label="{}">{}</svg>',
        ", ".join(gap.words for gap in gaps),
        format_html_join(
            "",
            '<rect class="sp sp-blind" x="{}%" width="{}%" y="0" height="16"/>',
            ((num(x), num(max(wide, NARROWEST))) for x, wide in (gap.part(begin, end) for gap in gaps)),
        ),
    )
