"""The database made ready by whichever process comes first, and looked after by all."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, connection, connections

from dashboard.process import is_alone
from monitor import control

# Any number that no other program uses for its own lock in the same database: "umbel" as bytes.
LOCK = int.from_bytes(b"umbel")
RECOVER_EVERY = 60.0  # seconds between two looks for control records that nobody will complete
GIVEN_UP_AFTER = 300.0  # seconds; no look for an effect takes so long

log = logging.getLogger(__name__)


def prepare() -> None:
    """Migrate, one process at a time, and close what a crash left open; raises ``CommandError``.

    A schema that is newer than this process knows is left as it is: a newer Umbel made it, and what an older
    one reads is still there.
    """
    try:
        with alone():
            call_command("migrate", verbosity=0, interactive=False)
        call_command("clearsessions")
        # Where others are at work, what is not completed may be theirs.
        control.recover(0.0 if is_alone() else GIVEN_UP_AFTER)
    except DatabaseError as error:
        raise CommandError(
            f"The database {shown()} cannot be used ({' '.join(str(error).split())}): "
            "check UMBEL_DATABASE (--database) and the data folder."
        ) from error
    finally:
        connections.close_all()


@contextmanager
def alone() -> Iterator[None]:
    """One process at a time: an advisory lock of PostgreSQL, a locked file for SQLite."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        try:
            yield
        finally:
            if connection.connection is not None and connection.is_usable():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
        return
    with (settings.DATA / "migrating").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recover() -> None:
    """A look for an effect that failed must not leave its command pending for ever."""
    try:
        control.recover(GIVEN_UP_AFTER)
    except DatabaseError:
        log.warning("Control records could not be looked at; tried again in a minute.")
    finally:
        connections.close_all()


def shown() -> str:
    """Where the database is, without its password."""
    database = settings.DATABASES["default"]
    return f"{database['NAME']} on {database['HOST']}" if database.get("HOST") else str(database["NAME"])
