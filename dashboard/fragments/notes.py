"""Regions of notes: on a task's page, a worker's page, and the list of one task name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dashboard import access
from dashboard.forms.tasks import task_filter
from dashboard.fragments import Page, Region, register
from dashboard.queries import notes as queries
from dashboard.queries.notes import About


def on_task(page: Page) -> list[About]:
    """What a note on that page can be on."""
    return queries.of_task(page.arg("uuid"))


def on_worker(page: Page) -> list[About]:
    """The same of a worker's page."""
    return queries.of_worker(page.arg("pk"))


def on_name(page: Page) -> list[About]:
    """The same of a list with one whole task name in its filter; else nothing."""
    return queries.of_name(task_filter(page.params).name)


def form(about: list[About]) -> Mapping[str, Any]:
    """What the form beside a region needs; no frame touches it while someone types."""
    return {"subjects": about, "longest": queries.LONGEST}


def _notes(name: str, about: Callable[[Page], list[About]]) -> Callable[[Page], Mapping[str, Any]]:
    def context(page: Page) -> Mapping[str, Any]:
        found = about(page)
        shown = [
            (note, queries.about(note), access.may_change_note(page, note.author_id))
            for note in queries.notes(found)
        ]
        return {
            **{"id": name, "subjects": found, "notes": shown, "several": len(found) > 1},
            # A list has no room to say that there is none.
            **{"quiet": name == "name-notes", "may": access.may(page, "note").allowed},
        }

    return context


# Whose a note is makes a difference to operators alone: see Page.user.
_WHO = ("role", "read_only", "user")
_TOPICS, _TEMPLATE = (queries.TOPIC,), "notes/_notes.html"
register(
    "task",
    [Region("task-notes", _notes("task-notes", on_task), _TOPICS, _TEMPLATE, sees=("view", "kwargs", *_WHO))],
)
register(
    "worker",
    [
        Region(
            "worker-notes",
            _notes("worker-notes", on_worker),
            _TOPICS,
            _TEMPLATE,
            sees=("view", "kwargs", *_WHO),
        )
    ],
)
register(
    "tasks",
    [Region("name-notes", _notes("name-notes", on_name), _TOPICS, _TEMPLATE, sees=("view", "query", *_WHO))],
)
