"""Readings that regions and pages of this process share for a moment, so that each is read once for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Reading:
    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = float("-inf")
    value: Any = None


def reading(name: str, seconds: float, read: Callable[[], T]) -> T:
    """What ``read`` answered last, when that is at most so many seconds ago; else it is asked again.

    Names are constants of the code, so the memory is bounded. While one thread reads, others that want the
    same wait for it. Whoever gets it must not change it.
    """
    if not kept:
        return read()
    with _lock:
        found = _readings.setdefault(name, _Reading())
    with found.lock:
        if time.monotonic() - found.at > seconds:
            # Of the start: what changes during the read may be missing.
            began = time.monotonic()
            found.value, found.at = read(), began
        answer: T = found.value
        return answer


def forget() -> None:
    """Everything is read again."""
    with _lock:
        _readings.clear()


# Tests look right after they wrote, and turn it off.
kept = True
_lock = threading.Lock()
_readings: dict[str, _Reading] = {}
