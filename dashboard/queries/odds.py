"""Where a running task stands among the stored runs of its name: how many took as long, and went on how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from dashboard.queries.usual import ENOUGH
from dashboard.templatetags.words import duration_text
from monitor import rates

NEARLY_ALL = 0.99  # of the runs, which the evidence names a time for
FEW = 10  # runs that got this far, below which a share of them would say more than they do
# What "soon" is: at least this part of the time it ran. A bucket of the histogram spans 5.5 %, so that less
# could not be told from nothing.
SOON = 0.25


@dataclass(frozen=True, slots=True)
class Odds:
    """A run that has taken ``ran`` seconds, against ``runs`` that succeeded. All times in seconds, about."""

    ran: float
    runs: int
    share: float  # of the runs, ended within ``within``: exact but for the rounding of the time
    within: float
    certain: int  # runs that took longer, for certain
    most: int  # and at most: the histogram does not order what is in one bucket
    longer: float  # about so many
    soon: float
    ended: float  # of those longer ones, ended within ``soon`` more, about
    longest: float  # of all runs

    def usually(self, name: str = "") -> str:
        """What the past of its name is; ``name`` where it does not stand beside."""
        runs, within = f"{self.runs:,} runs{f' of {name}' if name else ''}", duration_text(self.within)
        if self.share >= 1:
            return f"all {runs} ended within about {within}"
        return f"{_percent(self.share)} of {runs} end within about {within}"

    @property
    def took(self) -> str:
        """How many runs took as long as this one has."""
        if not self.most:
            return f"none of {self.runs:,} runs took this long"
        if not self.certain:
            return f"at most {self.most:,} of {self.runs:,} runs took this long"
        about = "" if self.certain == self.most else "about "
        return f"{about}{max(1, round(self.longer)):,} of {self.runs:,} runs took this long"

    @property
    def chance(self) -> str:
        """How the runs that got this far went on; "" when there are none for certain."""
        if not self.certain:
            return ""
        within = f"within about another {duration_text(self.soon)}"
        far, ended = max(1, round(self.longer)), round(self.ended)
        if far < FEW:
            if far == 1:
                return f"the one run that got this far {'ended' if ended else 'did not end'} {within}"
            return f"of the {far} runs that got this far, {min(ended, far) or 'none'} ended {within}"
        part = min(1.0, self.ended / self.longer)
        return f"of the runs that got this far, about {_percent(part)} ended {within}"


def odds(histogram: Mapping[int, int], ran: float, p95: float) -> Odds | None:
    """None when the name has fewer than ``ENOUGH`` runs: they would say nothing."""
    counts = {index: count for index, count in histogram.items() if count > 0}
    runs = sum(counts.values())
    if runs < ENOUGH:
        return None
    ended = 0
    within = max(counts)
    for index in sorted(counts):
        ended += counts[index]
        if ended >= NEARLY_ALL * runs:
            within = index
            break
    soon = max(p95, ran * SOON)
    certain, most = rates.beyond(counts, ran)
    longer = rates.about_beyond(counts, ran)
    return Odds(
        ran=ran,
        runs=runs,
        share=ended / runs,
        within=rates.edge(within),
        certain=certain,
        most=most,
        longer=longer,
        soon=soon,
        ended=max(0.0, longer - rates.about_beyond(counts, ran + soon)),
        longest=rates.edge(max(counts)),
    )


def counts_of(histogram: object) -> dict[int, int]:
    """A stored histogram, whose buckets JSON made texts; nothing of one that cannot be read."""
    if not isinstance(histogram, dict):
        return {}
    try:
        return {int(index): int(count) for index, count in histogram.items()}
    except (TypeError, ValueError):
        return {}


def _percent(share: float) -> str:
    """Rounded down: what is left over is never rounded away."""
    tenths = floor(share * 1000 + 1e-9) / 10
    return f"{tenths:.0f}%" if tenths == int(tenths) else f"{tenths:.1f}%"
