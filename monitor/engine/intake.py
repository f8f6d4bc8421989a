"""The bounded buffer between what arrives and what is applied, for the engine's loop."""

from __future__ import annotations

from collections import deque

from monitor.events import Decoded


class Intake:
    """Messages and changes of the connection in the order they came; past ``limit`` events are only counted.

    A change of the connection is never dropped: it is a ``(connected, reason, at)`` among the messages.
    """

    def __init__(self, limit: int = 200_000) -> None:
        self.limit = limit
        self.waiting = 0
        self._dropped = 0
        self._items: deque[tuple[Decoded, float] | tuple[bool, str, float]] = deque()

    def message(self, decoded: Decoded, received_at: float) -> None:
        # A message without events still holds what was malformed.
        size = max(1, len(decoded.events))
        if self.waiting + size > self.limit:
            self._dropped += len(decoded.events) + decoded.malformed + decoded.ignored
            return
        self.waiting += size
        self._items.append((decoded, received_at))

    def state(self, connected: bool, reason: str, at: float) -> None:
        self._items.append((connected, reason, at))

    def take(self, events: int) -> list[tuple[Decoded, float] | tuple[bool, str, float]]:
        """The next items, up to so many events (at least one item)."""
        taken: list[tuple[Decoded, float] | tuple[bool, str, float]] = []
        while self._items and events > 0:
            item = self._items.popleft()
            if isinstance(item[0], Decoded):
                size = max(1, len(item[0].events))
                self.waiting -= size
                events -= size
            taken.append(item)
        return taken

    def dropped(self) -> int:
        """Events dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped
