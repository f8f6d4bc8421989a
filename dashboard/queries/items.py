"""One thing that needs a human, for the list on the overview."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that needs attention; ``clause`` is how the verdict says it."""

    severity: int  # 0 is worst
    age: float  # seconds; older first
    state: str
    icon: str
    title: str
    text: str  # may hold <b>, through format_html only
    clause: str
    href: str
    act: str = "Inspect"
    enable: int | None = None  # the worker whose events a button turns on
    post: str = ""  # where the button posts to, and what it says; without, it only leads to ``href``
    button: str = ""
