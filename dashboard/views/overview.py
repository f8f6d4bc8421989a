"""The overview: is it fine, and if not, what exactly?"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.fragments import overview as fragments
from dashboard.queries import gaps
from dashboard.queries import overview as queries
from dashboard.templatetags.drawings import nice
from dashboard.templatetags.words import duration_text, rate


@access.viewer
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """Live regions, and a chart that the server draws first."""
    span = queries.chosen(request.GET.get("range"))
    chart = fragments.chart(span)
    context = {"title": "Overview", "span": span, "chart": chart, **_drawn(chart, span)}
    return render(request, "overview/overview.html", context)


def _drawn(chart: dict[str, Any], span: queries.Range) -> dict[str, Any]:
    """The chart for readers without script: bars, axes and a sentence."""
    names = {"succeeded": "succeeded", "retried": "retry", "failed": "failed"}
    whole = [sum(trio) for trio in zip(*(chart[name] for name in names), strict=True)]
    trouble = [sum(pair) for pair in zip(chart["failed"], chart["retried"], strict=True)]
    top, small = nice(max(whole, default=0)), nice(max(trouble, default=0))
    last = {name: rate(chart[name][-1] if chart[name] else 0.0) for name in names}
    mean = {name: rate(sum(chart[name]) / len(chart[name]) if chart[name] else 0.0) for name in names}
    said = (
        f"Over {duration_text(len(whole) * span.step)}, on average {mean['succeeded']} succeeded, "
        f"{mean['retried']} retried and {mean['failed']} failed per second; "
        f"at most {rate(max(whole, default=0.0))} finished per second."
        if whole
        else "Nothing finished yet."
    )
    ends = (chart["t"][0], chart["t"][-1] + span.step) if chart["t"] else (0.0, 0.0)
    return {
        "bands": [gap.part(*ends) for gap in gaps.between(*ends)] if chart["t"] else [],
        "last": last,
        "description": said,
        "series": {
            "all": [(state, chart[name]) for name, state in names.items()],
            "trouble": [("failed", chart["failed"]), ("retry", chart["retried"])],
        },
        "axis": {
            "all": [f"{top * part:.3g}" for part in (1, 2 / 3, 1 / 3, 0)],
            "all_top": top,
            "trouble": [f"{small:g}", f"{small / 2:g}", "0"],
            "trouble_top": small,
        },
    }
