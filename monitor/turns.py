"""Turns: of those who want the same thing at once, each waits for the one before."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Turns:
    """A bounded set of locks, by key. Each use has its own, so that turns may lie within each other."""

    def __init__(self, locks: int = 32) -> None:
        self._locks = [threading.Lock() for _ in range(locks)]

    @contextmanager
    def of(self, *key: Hashable) -> Iterator[None]:
        with self._locks[hash(key) % len(self._locks)]:
            yield
