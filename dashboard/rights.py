"""Who may still look: the sessions behind open sockets, looked at together every few seconds.

A look at one session costs some queries. For hundreds of sockets that is more than all they are sent, so
what the answer depends on is read for all at once, and only where that differs a session is looked at itself,
several on one connection: opening one costs more than the queries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Hashable, Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.http import HttpRequest
from django.utils import timezone

from dashboard import access
from dashboard.outbox import Outbox

log = structlog.get_logger(__name__)

RECHECK = 20.0  # seconds between two looks
LONGEST = 60.0  # seconds without a look, when the database is away: what cannot be asked is not allowed
TOGETHER = 500  # sessions in one query
AT_ONCE = 25  # sessions looked at by themselves before others may use the thread

SIGNED_OUT, ANOTHER_ROLE, UNCHECKED = "signed out", "another role", "unchecked"

Scope = dict[str, Any]


async def role(scope: Scope) -> str:
    """The role of the session's user as the database has it now, "" for none."""
    held: str
    scope["user"], held = await database_sync_to_async(_held)(scope["session"])
    return held


class Rights:
    """The sockets of one event loop, by session. A socket whose reader may no longer look is closed."""

    def __init__(self) -> None:
        self._sockets: dict[str, dict[Outbox, int]] = {}  # by session key; with the user's id
        self._prints: dict[str, Hashable] = {}  # what the last answer about a session went by
        self._looked_at = 0.0  # monotonic
        self._runner: asyncio.Task[None] | None = None

    def watch(self, outbox: Outbox, session_key: str, user_id: int) -> None:
        self._sockets.setdefault(session_key, {})[outbox] = user_id
        # The role may have changed since this socket's was read.
        self._prints.pop(session_key, None)
        if self._runner is None or self._runner.done():
            self._looked_at = time.monotonic()
            self._runner = asyncio.create_task(self._look_for_ever())

    def leave(self, outbox: Outbox, session_key: str) -> None:
        sockets = self._sockets.get(session_key, {})
        sockets.pop(outbox, None)
        if not sockets:
            self._sockets.pop(session_key, None)
            self._prints.pop(session_key, None)

    async def _look_for_ever(self) -> None:
        while self._sockets:
            await asyncio.sleep(RECHECK)
            try:
                await self._look()
                self._looked_at = time.monotonic()
            except Exception as problem:  # noqa: BLE001 - the database may be away
                log.warning("The sessions of open sockets could not be checked.", problem=repr(problem))
                if time.monotonic() - self._looked_at > LONGEST - RECHECK:
                    # The browsers try again.
                    self._close(list(self._sockets), UNCHECKED)

    async def _look(self) -> None:
        users = {key: next(iter(sockets.values())) for key, sockets in self._sockets.items()}
        prints = await database_sync_to_async(_prints)(users)
        doubtful = [key for key in users if prints.get(key) is None or self._prints.get(key) != prints[key]]
        for keys in _parts(doubtful, AT_ONCE):
            roles = await database_sync_to_async(_roles)(keys)
            for key in keys:
                if key in self._sockets:
                    self._prints[key] = prints.get(key)
                    self._say(key, roles[key])

    def _say(self, key: str, held: str) -> None:
        for outbox in self._sockets[key]:
            if outbox.page.role != held:
                outbox.close(ANOTHER_ROLE if held else SIGNED_OUT)

    def _close(self, keys: Collection[str], reason: str) -> None:
        for key in keys:
            for outbox in self._sockets[key]:
                outbox.close(reason)


def current() -> Rights:
    """Those of the running event loop."""
    return _RIGHTS.setdefault(asyncio.get_running_loop(), Rights())


def _held(session: Any) -> tuple[Any, str]:
    """Whose session it is, and the role."""
    request = HttpRequest()
    request.session = session
    user = get_user(request)
    return user, access.role(user)


def _roles(keys: Iterable[str]) -> dict[str, str]:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    return {key: _held(store(key))[1] for key in keys}


def _prints(users: dict[str, int]) -> dict[str, Hashable]:
    """All that the role of a session depends on, by session key; nothing for those that have ended.

    Sessions that are not in the database have none, and are each looked at by themselves.
    """
    if settings.SESSION_ENGINE != "django.contrib.sessions.backends.db":
        return {}
    from django.contrib.sessions.models import Session

    model = get_user_model()
    found: dict[str, Hashable] = {}
    for keys in _parts(users, TOGETHER):
        ids = {users[key] for key in keys}
        people = {
            row[0]: row
            for row in model.objects.filter(pk__in=ids).values_list(
                "pk", "password", "is_active", "is_superuser"
            )
        }
        groups: dict[int, set[str]] = {}
        for pk, name in model.objects.filter(pk__in=ids).values_list("pk", "groups__name"):
            groups.setdefault(pk, set()).add(name or "")
        alive = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
        for key, data in alive.values_list("session_key", "session_data"):
            pk = users[key]
            found[key] = (data, people.get(pk), frozenset(groups.get(pk, ())))
    return found


def _parts(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    left = iter(keys)
    while part := list(islice(left, size)):
        yield part


_RIGHTS: WeakKeyDictionary[asyncio.AbstractEventLoop, Rights] = WeakKeyDictionary()
