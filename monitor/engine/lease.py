"""The lease: one row that says who may write history now, for whoever wants to be the one.

It is taken for seconds and renewed while its holder lives. Each holder has a number of its own (the epoch),
and every write asks for it in its own transaction: what was taken over cannot write any more, however late
it wakes up. All times are the database's clock, so that machines need not agree on theirs.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.backends.utils import CursorWrapper

TABLE = "monitor_lease"
# Seconds that a lease lasts after its last renewal. On SQLite a renewal waits its turn behind long writes.
LASTS = {"postgresql": 2.0, "sqlite": 3.0}
# PostgreSQL: milliseconds that one question may take, and that we wait for whoever writes now.
PATIENCE_MS, LOCK_MS = 2_000, 300

_NOW = {
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp())::double precision",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
}
_LOCK_NOT_AVAILABLE = "55P03"

log = structlog.get_logger(__name__)


class Deposed(Exception):
    """Another holds the lease: what was to be written is not."""


@dataclass(frozen=True, slots=True)
class State:
    """The row as it is: ``left`` is the seconds until it expires, negative when it has."""

    holder: str
    machine: str
    epoch: int
    left: float
    since: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """One holding of the lease, after ``former`` ('': it was free), silent for so many seconds."""

    holder: str
    epoch: int
    former: str = ""
    silent: float = 0.0
    # Set by whoever finds out first that the term is over.
    over: threading.Event = field(default_factory=threading.Event, compare=False)


class Lease:
    """The row by its name, for one process. Everything here blocks and may raise ``DatabaseError``."""

    def __init__(self, name: str = "monitor", *, lasts: float | None = None, holder: str = "") -> None:
        self.name = name
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"[-255:]
        self.machine = _machine()
        self._lasts = lasts
        self._renewed = 0.0  # monotonic
        self._mine = threading.local()  # the connection that was prepared, of each thread

    @property
    def lasts(self) -> float:
        return self._lasts or LASTS.get(connection.vendor, 3.0)

    def look(self) -> State:
        """The row, made when there is none."""
        self._prepare()
        with connection.cursor() as cursor:
            state = self._state(cursor)
            if state is None:
                cursor.execute(
                    f"INSERT INTO {TABLE} (name, holder, machine, epoch, since, expires_at, note) "  # noqa: S608
                    "VALUES (%s, '', '', 0, 0, 0, '') ON CONFLICT (name) DO NOTHING",
                    [self.name],
                )
                state = self._state(cursor)
        assert state is not None
        return state

    def take(self) -> Term | None:
        """The lease, if nobody holds it; None while somebody does."""
        if not self._is_free(self.look()):
            return None
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                return self._take(cursor)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
                raise
        self._end_frozen()
        return None

    def renew(self, term: Term) -> bool:
        """Whether it is still ours; it may have run out as long as nobody else took it."""
        if connection.vendor == "sqlite" and time.monotonic() - self._renewed < self.lasts / 4:
            # A write has just done it, and the next one must not wait for this.
            return not term.over.is_set()
        self._prepare()
        with connection.cursor() as cursor:
            renewed = self._extend(cursor, term)
        if not renewed:
            term.over.set()
        return renewed

    def release(self, term: Term) -> None:
        """Give it back at once, if it is still ours."""
        self._prepare()
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET holder = '', machine = '', expires_at = {self._now}, note = %s "  # noqa: S608
                "WHERE name = %s AND epoch = %s AND holder = %s",
                [f"handed over by {term.holder}"[:255], self.name, term.epoch, term.holder],
            )

    def fence(self, term: Term, cursor: CursorWrapper) -> None:
        """First in each transaction that writes under this term; raises ``Deposed`` when it is over.

        PostgreSQL: the row stays locked against a new holder until the transaction ends, and not against our
        own renewals. SQLite has one writer at a time anyway, and the write renews the lease.
        """
        if connection.vendor == "postgresql":
            cursor.execute(
                f"SELECT 1 FROM {TABLE} WHERE name = %s AND epoch = %s AND holder = %s FOR KEY SHARE",  # noqa: S608
                [self.name, term.epoch, term.holder],
            )
            held = cursor.fetchone() is not None
        else:
            held = self._extend(cursor, term)
        if not held:
            term.over.set()
            raise Deposed(f"{term.holder} no longer leads (epoch {term.epoch}): its writes are refused.")

    def close(self) -> None:
        """Give back this thread's connection."""
        self._mine.prepared = None
        connections.close_all()

    @property
    def _now(self) -> str:
        return _NOW[connection.vendor]

    def _prepare(self) -> None:
        """A connection that answers soon or fails: whoever waits for ever cannot know that it has lost."""
        if connection.errors_occurred and not connection.in_atomic_block:
            connection.close()
        connection.ensure_connection()
        if connection.vendor == "postgresql" and connection.connection is not getattr(
            self._mine, "prepared", None
        ):
            with connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = {PATIENCE_MS}")
            self._mine.prepared = connection.connection

    def _state(self, cursor: CursorWrapper, lock: str = "") -> State | None:
        cursor.execute(
            f"SELECT holder, machine, epoch, expires_at - {self._now}, since, note "  # noqa: S608
            f"FROM {TABLE} WHERE name = %s{lock}",
            [self.name],
        )
        row = cursor.fetchone()
        return State(*row) if row else None

    def _is_free(self, state: State) -> bool:
        return not state.holder or state.left <= 0 or self._is_dead(state)

    def _is_dead(self, state: State) -> bool:
        """A holder on this very machine whose process is gone need not be waited for."""
        if not self.machine or state.machine != self.machine or state.holder == self.holder:
            return False
        pid = state.holder.split(":")[-2:-1]
        if not pid or not pid[0].isdigit():
            return False
        try:
            return _status(int(pid[0])) in ("Z", "X")
        except FileNotFoundError:
            return True
        except (OSError, UnicodeError):
            return False

    def _take(self, cursor: CursorWrapper) -> Term | None:
        lock = ""
        if connection.vendor == "postgresql":
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
            lock = " FOR UPDATE"
        state = self._state(cursor, lock)
        if state is None or not self._is_free(state):
            return None
        silent = max(0.0, self.lasts - state.left) if state.holder else 0.0
        note = f"{state.holder} was silent for {silent:.1f} s" if state.holder else state.note
        cursor.execute(
            f"UPDATE {TABLE} SET holder = %s, machine = %s, epoch = epoch + 1, since = {self._now}, "  # noqa: S608
            f"expires_at = {self._now} + %s, note = %s WHERE name = %s",
            [self.holder, self.machine, self.lasts, note[:255], self.name],
        )
        self._renewed = time.monotonic()
        return Term(self.holder, state.epoch + 1, state.holder, silent)

    def _extend(self, cursor: CursorWrapper, term: Term) -> bool:
        at = time.monotonic()
        cursor.execute(
            f"UPDATE {TABLE} SET expires_at = {self._now} + %s "  # noqa: S608
            "WHERE name = %s AND epoch = %s AND holder = %s",
            [self.lasts, self.name, term.epoch, term.holder],
        )
        if cursor.rowcount:
            self._renewed = at
        return bool(cursor.rowcount)

    def _end_frozen(self) -> None:
        """A leader that stopped in the middle of a write holds the row: its connection is ended.

        Only a transaction that has the row and is older than any of ours can be; the server lets the same
        user do this.
        """
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute(
                "SELECT a.pid, pg_terminate_backend(a.pid) "
                "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE l.relation = %s::regclass AND l.mode = 'RowShareLock' AND l.granted "
                "AND a.pid <> pg_backend_pid() AND a.xact_start < clock_timestamp() - interval '1 second'",
                [TABLE],
            )
            for pid, ended in cursor.fetchall():
                log.warning("a frozen leader's connection was ended", pid=pid, ended=ended)


def _status(pid: int) -> str:
    """Linux's letter for what the process does; raises FileNotFoundError when there is no such process."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[0]


def _machine() -> str:
    """What tells this machine (and its space of process ids) from others; '' when nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
    except (OSError, UnicodeError):
        return ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:32]
