"""Tasks that a worker counted in its heartbeats and Umbel heard no start of: lost, or never announced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashboard.queries.workers import WorkerView

MOST_NAMES = 8  # task names shown, the most missed first


@dataclass(frozen=True, slots=True)
class Unheard:
    """What one worker started since Umbel knows it; each count excludes the others."""

    counting: bool  # whether there is a heartbeat to count from
    missed: int  # announced, and never received
    missed_names: tuple[tuple[str, int], ...]  # of these, where its answers to inspect tell them
    more_names: int
    silent: int  # of task names that send no events
    silent_names: tuple[str, ...]
    more_silent: int
    unsent: int  # while it sent no task event at all
    pending: int  # not yet known to be which

    @property
    def any(self) -> bool:
        return bool(self.missed or self.silent or self.silent_names or self.unsent or self.pending)


def unheard(view: WorkerView) -> Unheard:
    """As the engine last settled it."""
    details = view.row.details if isinstance(view.row.details, dict) else {}
    losses = details.get("losses")
    losses = losses if isinstance(losses, dict) else {}
    named = losses.get("missed_names")
    names = [
        (str(name), count)
        for name, count in (named.items() if isinstance(named, dict) else ())
        if isinstance(count, int) and count > 0
    ]
    names.sort(key=lambda item: (-item[1], item[0]))
    listed = losses.get("silent_names")
    silent_names = [str(name) for name in listed] if isinstance(listed, list) else []
    return Unheard(
        counting=bool(losses.get("accounts")),
        missed=view.row.missed,
        missed_names=tuple(names[:MOST_NAMES]),
        more_names=max(0, len(names) - MOST_NAMES),
        silent=_count(losses, "silent"),
        silent_names=tuple(silent_names[:MOST_NAMES]),
        more_silent=max(0, len(silent_names) - MOST_NAMES),
        unsent=_count(losses, "unsent"),
        pending=_count(losses, "pending"),
    )


def _count(losses: Mapping[str, Any], key: str) -> int:
    count = losses.get(key)
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0
