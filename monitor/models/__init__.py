"""What is kept in the database, by subject; Django finds models by way of this module."""

from __future__ import annotations

from monitor.models.control import ControlRecord, Ladder, SentTask, StandingRevoke, StandingStamp, Threshold
from monitor.models.history import NOT_ROOT, Feed, Gap, RateBucket, Rollup, Task, TaskType, Worker
from monitor.models.lease import Lease
from monitor.models.tended import Asked, Drain, Drift, Start, WaitingShrink

__all__ = [
    "NOT_ROOT",
    "Asked",
    "ControlRecord",
    "Drain",
    "Drift",
    "Feed",
    "Gap",
    "Ladder",
    "Lease",
    "RateBucket",
    "Rollup",
    "SentTask",
    "StandingRevoke",
    "StandingStamp",
    "Start",
    "Task",
    "TaskType",
    "Threshold",
    "WaitingShrink",
    "Worker",
]

from monitor.acts import models as _acts  # noqa: F401 - the models of acts
