"""How long to wait before the next try to connect, and the two callbacks of a source."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from monitor.events import Decoded

OnMessage = Callable[[Decoded, float], None]


class OnState(Protocol):
    """``since``: our clock, when something was last heard; None means now."""

    def __call__(self, connected: bool, reason: str, since: float | None = None, /) -> None: ...


class Backoff:
    """Doubles from ``first`` to ``most`` seconds, with jitter, so that monitors do not return as one."""

    def __init__(self, first: float = 0.1, most: float = 10.0) -> None:
        self.first, self.most = first, most
        self._next = first

    def reset(self) -> None:
        self._next = self.first

    def delay(self) -> float:
        at, self._next = self._next, min(self._next * 2, self.most)
        return at * random.uniform(0.5, 1.0)  # noqa: S311 jitter is no secret
