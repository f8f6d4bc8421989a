"""Who runs the engine: the one leader among any number of processes, and what the others do meanwhile.

A thread takes the lease when it is free, starts an engine for the term, renews while it lives, and ends the
engine when the term is over. A process that loses the lease becomes a standby again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from django.db import DatabaseError, InterfaceError

from monitor.engine.lease import Deposed, Lease, State, Term

__all__ = ["LEADER", "STANDBY", "Deposed", "Leader", "Lease", "Post", "State", "Term"]

RENEW_EVERY = 0.5  # seconds
LOOK_EVERY = 0.4
# After the database could not be asked: the leader, who could not either, comes first when it is back.
AFTER_YOU = 2.0
STANDBY, LEADER = "standby", "leader"

# What a database that is away, or a connection that was cut, raises.
_AWAY = (DatabaseError, InterfaceError, OSError)

log = structlog.get_logger(__name__)


class Post(Protocol):
    """What the leader does. Each is called on the leader's thread and may block."""

    def begin(self, term: Term) -> None:
        """Work under this term: everything that is written is fenced by it."""

    def end(self, graceful: bool) -> None:
        """Stop; ``graceful``: the term is still ours, write what is held. Else nothing may be written."""

    def failed(self) -> str:
        """Why the work has ended by itself; '' while it has not."""


class Leader:
    """Start it once. ``role`` and ``term`` say what it is now; ``failed`` why it gave up, '' if it did not.

    ``told`` is called at each change of role with it and with the lease as it was then seen.
    """

    def __init__(
        self, lease: Lease, post: Post, told: Callable[[str, State | Term], None] = lambda *_: None
    ) -> None:
        self.lease, self.post = lease, post
        self.failed = ""
        self.term: Term | None = None
        self.held_by = ""  # the other holder, as last seen
        self._told = told
        self._role = ""
        self._stopping = threading.Event()
        self._blind_until = 0.0  # monotonic
        self._thread = threading.Thread(target=self._run, name="umbel-leader", daemon=True)

    @property
    def role(self) -> str:
        """'leader', 'standby', or '' while it does not know yet."""
        return self._role

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Write what is held, hand over, end. Whether that was done in time."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and not self.failed:
                term = self._try()
                if term is not None:
                    self._lead(term)
                else:
                    # Standbys that look at different moments do not all try at once.
                    self._stopping.wait(LOOK_EVERY * random.uniform(0.8, 1.2))  # noqa: S311
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
            log.exception("the leader's thread died")
        finally:
            self.lease.close()

    def _try(self) -> Term | None:
        try:
            state = self.lease.look()
            if time.monotonic() < self._blind_until:
                return None
            term = self.lease.take()
        except _AWAY as error:
            self._blind_until = time.monotonic() + AFTER_YOU
            log.warning("the lease cannot be looked at", error=type(error).__name__)
            self.lease.close()
            return None
        if term is None and state.holder != self.held_by:
            self.held_by = state.holder
            self._become(STANDBY, state)
        return term

    def _lead(self, term: Term) -> None:
        self.term, self.held_by = term, ""
        renewing = threading.Thread(target=self._renew, args=(term,), name="umbel-lease", daemon=True)
        finished = self._finished = threading.Event()
        renewing.start()
        try:
            self.post.begin(term)
            self._become(LEADER, term)
            while not self._stopping.is_set() and not term.over.is_set():
                if failed := self.post.failed():
                    self.failed = failed
                    break
                term.over.wait(0.1)
        finally:
            # Renewed to the end: what is written at the end is written by the leader.
            try:
                self.post.end(graceful=not term.over.is_set())
            finally:
                finished.set()
                renewing.join(2 * RENEW_EVERY + 5.0)
                self.term, self._role = None, ""
                self._give_back(term)
                # It may be long dead, and what comes next is a look that must not fail for that.
                self.lease.close()

    def _renew(self, term: Term) -> None:
        """Until the term's end. A database that is away ends no term: nobody else can take it meanwhile, or
        else the next renewal says so.
        """
        away = False
        while not self._finished.wait(RENEW_EVERY if not away else RENEW_EVERY / 2):
            try:
                if not self.lease.renew(term):
                    log.warning("another leads now", epoch=term.epoch)
                    break
                away = False
            except _AWAY as error:
                if not away:
                    log.warning("the lease cannot be renewed", error=type(error).__name__)
                away = True
                self.lease.close()
        self.lease.close()

    def _give_back(self, term: Term) -> None:
        if term.over.is_set():
            return
        try:
            self.lease.release(term)
        except _AWAY as error:
            log.warning("the lease could not be handed over: it runs out", error=type(error).__name__)

    def _become(self, role: str, what: Any) -> None:
        self._role = role
        self._told(role, what)
