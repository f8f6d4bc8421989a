"""What the live state may hold at most; every limit counts what it let go (``Cluster.feed().limits``)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Limits:
    """The bounds. Seconds and counts."""

    tasks: int = 50_000  # live tasks; finished ones leave first
    finished_for: float = 10.0  # how long an ended task stays for late events before it is read back
    workers: int = 5_000
    names: int = 5_000  # task names counted apart between two drains
    marks: int = 64  # per task: the first and the last are kept
    reasons: int = 64  # reasons of refusal counted apart
    starts: int = 100_000  # started clocks of a worker between two heartbeats
    let_go: Counter[str] = field(default_factory=Counter)


OTHER = "(other)"
