"""The web processes of one database: whether all of them sign with the same secret key.

A session that one has signed is none to another with a different key, so people are signed out whenever the
proxy sends them there. No process sees that by itself: each leaves a fingerprint of its key in the database.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import structlog
from django.db import DatabaseError, connections
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac

from dashboard.models import WebProcess

EVERY = 15.0  # seconds between two words of a process
SILENT = timedelta(seconds=60)  # after which it is taken for gone
SHOWN = 50

log = structlog.get_logger()
_own = f"{socket.gethostname()[:80]}:{os.getpid()}:{secrets.token_hex(4)}"
_stopped = threading.Event()
_warned: set[str] = set()


def fingerprint() -> str:
    """Of this process's key: the same for equal keys, and no way back to them."""
    return salted_hmac("umbel.fingerprint", "", algorithm="sha256").hexdigest()[:12]


def begin() -> None:
    """From now on, on a thread of its own, this process is told of and looks at the others."""
    _stopped.clear()
    threading.Thread(target=_run, name="siblings", daemon=True).start()


def end() -> None:
    """Takes its word back."""
    _stopped.set()
    try:
        WebProcess.objects.filter(name=_own).delete()
    except DatabaseError:
        pass  # it is forgotten in a minute
    finally:
        connections.close_all()


def tell() -> None:
    """This process's word."""
    told = {"host": socket.gethostname()[:255], "pid": os.getpid(), "key": fingerprint(), "seen_at": Now()}
    told["version"] = _version()
    WebProcess.objects.update_or_create(
        name=_own, defaults=told, create_defaults={**told, "started_at": Now()}
    )
    WebProcess.objects.filter(seen_at__lt=Now() - SILENT * 10).delete()


def alive() -> list[WebProcess]:
    """Those that spoke within the last minute, the longest at work first."""
    return list(WebProcess.objects.filter(seen_at__gt=Now() - SILENT).order_by("started_at", "pk")[:SHOWN])


def other_keys() -> list[WebProcess]:
    """Those that sign with another key than this one."""
    own = fingerprint()
    return [one for one in alive() if one.key != own]


def look() -> None:
    """Says in the log, once for each of them, who signs with another key."""
    others = [one for one in other_keys() if one.name not in _warned]
    if others:
        _warned.update(one.name for one in others)
        names = ", ".join(f"{one.host} (pid {one.pid})" for one in others[:5])
        log.warning(
            f"This web process signs sessions with another secret key than {names}: people are signed out "
            "when the proxy sends them from one to the other. Give all of them the same UMBEL_SECRET_KEY "
            "or UMBEL_SECRET_KEY_FILE."
        )


def _run() -> None:
    while not _stopped.is_set():
        try:
            tell()
            look()
        except DatabaseError as problem:
            # A schema older than this process has no such table yet.
            log.info("Other web processes could not be looked at; tried again soon.", problem=repr(problem))
        finally:
            connections.close_all()
        _stopped.wait(EVERY)


def _version() -> str:
    try:
        return version("umbel")[:32]
    except PackageNotFoundError:
        return ""
