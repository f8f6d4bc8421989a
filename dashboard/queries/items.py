"""One thing that needs a human, for the list on the overview."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse


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


def titled(
    severity: int, age: float, look: tuple[str, str], said: tuple[str, str, str], act: str = "Inspect"
) -> Item:
    """``look``: state and icon; ``said``: title, which is the clause as well, text and address."""
    (state, icon), (title, text, href) = look, said
    return Item(severity, age, state, icon, title, text, title[0].lower() + title[1:], href, act)


def task_page(uuid: str) -> str:
    """Where a task is shown, or the list where its id is no part of an address."""
    return reverse("task", args=[uuid]) if uuid.strip("./") else reverse("tasks")
