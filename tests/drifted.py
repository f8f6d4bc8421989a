"""A worker whose settings were changed by commands, and what a restart does to it."""

from __future__ import annotations

from typing import Any

from dashboard.queries import drift
from dashboard.queries import workers as worker_queries
from monitor import models
from monitor.control.workers import drifting

NOW = 0.0


REGISTERED = ["shop.add", "shop.mail [rate_limit=10/m time_limit=60.0]"]


def worker(hostname: str = "a@h", **values: Any) -> models.Worker:
    defaults: dict[str, Any] = {
        "status": "online", "pool": "prefork", "size": 4, "first_seen_at": NOW - 900, "heartbeat_at": NOW,
        "pid": 100, "booted_at": NOW - 600, "online_at": NOW - 600, "inspected_at": NOW - 1,
        "queues": ["mail"],
        "details": {"stats": {"pool": {"max-concurrency": 4}}, "registered": REGISTERED, "conf": {}},
    }  # fmt: skip
    return models.Worker.objects.create(hostname=hostname, **defaults | values)


def record(command: str, at: float | None = None, **values: Any) -> models.ControlRecord:
    """A completed command of mila's, as it is in the log, and noted."""
    at = NOW - 300 if at is None else at
    defaults: dict[str, Any] = {
        "at": at, "sent_at": at, "answered_at": at, "completed_at": at + 1, "username": "mila",
        "role": "operator", "command": command, "targets": ["a@h"], "effect": "verified",
        "replies": [{"worker": "a@h", "outcome": "ok", "text": "ok"}],
        "seen": [{"target": "a@h", "seen": True, "text": "seen"}],
    }  # fmt: skip
    found = models.ControlRecord.objects.create(**defaults | values)
    drifting.note(found)
    return found


def grown(to: int = 8, before: int = 4, **values: Any) -> models.ControlRecord:
    name = "pool_grow" if to > before else "pool_shrink"
    return record(name, arguments={"n": abs(to - before), "before": before, "to": to}, **values)


def known() -> list[tuple[str, str]]:
    return [(one.kind, one.key) for one in models.Drift.objects.order_by("kind", "key")]


def follow() -> set[str]:
    return drifting.follow(NOW)


def restart(**values: Any) -> None:
    """Another process under the same name, which has told all of itself."""
    fresh = {"pid": 200, "booted_at": NOW - 20, "online_at": NOW - 20, "inspected_at": NOW - 10}
    models.Worker.objects.filter(hostname="a@h").update(**fresh | values)


def lines(row: models.Worker) -> list[drift.Line]:
    view = worker_queries.one(row.pk)
    assert view is not None
    return drift.drift(view).lines
