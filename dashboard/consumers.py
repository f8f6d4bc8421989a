"""The live socket: who may open it, from where, for how long. It only speaks; whatever it hears ends it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from dashboard import access, hub, rights
from dashboard.flow import SEND, WIRE
from dashboard.fragments import Page
from dashboard.outbox import Outbox
from monitor import publish

log = structlog.get_logger(__name__)

# Close codes. The browser comes back by itself after 3xxx, and never after 4xxx. (Autobahn, under Daphne,
# sends no code from 1001 to 2999.)
RESTART, TRY_LATER = 3012, 3013
COMMAND, SIGNED_OUT, FORBIDDEN, NO_PAGE = 4400, 4401, 4403, 4404

LONGEST_QUERY = 8192  # bytes of path and filters

Scope = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class SameOrigin:
    """Lets a socket through only from a page of this very site: scheme, host and port.

    Browsers send cookies with any page's sockets, and Channels' own check takes every port, and with
    ``ALLOWED_HOSTS = ["*"]`` every host. What does not say where it comes from is refused as well.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if is_same_origin(scope):
            await self.app(scope, receive, send)
            return
        log.warning("A socket from another site was refused.", origin=_header(scope, b"origin"))
        await receive()
        await send({"type": "websocket.close", "code": FORBIDDEN})


def is_same_origin(scope: Scope) -> bool:
    """Whether the Origin header names the site that the Host header asks for, or one the settings trust."""
    origin, host = _header(scope, b"origin"), _header(scope, b"host")
    if not origin or not host:
        return False
    there = _site(origin)
    if there is None or there[1] is None:
        return False
    if origin.lower() in {trusted.lower() for trusted in settings.CSRF_TRUSTED_ORIGINS}:
        return True
    here = _site(f"{_scheme(scope)}://{host}")
    allowed = settings.ALLOWED_HOSTS or ["localhost", "127.0.0.1", "[::1]"]
    return here is not None and there == here and validate_host(split_domain_port(host)[0], allowed)


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One browser tab and the page it shows."""

    # None is called so: the hub listens for all sockets, so they need no channel of their own.
    channel_layer_alias = ""

    outbox: Outbox | None = None

    _sender: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Also when the server kills us, which calls no disconnect.
            self._end()

    async def connect(self) -> None:
        role = await rights.role(self.scope)
        page = self._page(role) if role else None
        if not role:
            known = self.scope["user"].is_authenticated
            await self.close(FORBIDDEN if known else SIGNED_OUT)
        elif page is None:
            await self.close(NO_PAGE)
        elif hub.current().is_full():
            await self.close(TRY_LATER)
        else:
            await self.accept()
            self._key = str(self.scope["session"].session_key)
            self.outbox = Outbox(page, session=session_topic(self._key), wire=self.scope.get(WIRE))
            rights.current().watch(self.outbox, self._key, self.scope["user"].pk)
            await hub.current().join(self.outbox)
            self._sender = asyncio.create_task(self._send(self.outbox))
            self._sender.add_done_callback(self._ended)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Every act is a POST; a socket that speaks is not one of our pages."""
        self._end()
        await self.close(COMMAND)

    async def disconnect(self, code: int) -> None:
        self._end()

    async def _send(self, outbox: Outbox) -> None:
        """Sends what leaves by no wire of its own, until the socket is to close."""
        send = self.scope[SEND]
        while (text := await outbox.next()) is not None:
            try:
                await send({"type": "websocket.send", "text": text})
            except (RuntimeError, OSError) as problem:
                # Some servers say so when the browser has gone in the meantime; the disconnect follows.
                log.info("A browser went while it was sent to.", problem=repr(problem))
                return
        await self.close(SIGNED_OUT if outbox.closed == rights.SIGNED_OUT else RESTART)

    def _page(self, role: str) -> Page | None:
        raw = self.scope["query_string"]
        if len(raw) > LONGEST_QUERY:
            return None
        asked = parse_qs(raw.decode("ascii", "replace"))
        path = asked.get("path", [""])[0]
        prefix = (settings.FORCE_SCRIPT_NAME or self.scope.get("root_path") or "").rstrip("/")
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
        return Page.at(path, asked.get("query", [""])[0], role, access.read_only(), self.scope["user"].pk)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        """A socket whose runner failed would look live and never change: it ends; the browser comes back."""
        if runner.cancelled() or runner.exception() is None:
            return
        log.error("A live socket failed.", exc_info=runner.exception())
        self._end()
        self._closing = asyncio.create_task(self.close(RESTART))

    def _end(self) -> None:
        if self.outbox is not None:
            hub.current().leave(self.outbox)
            rights.current().leave(self.outbox, self._key)
            self.outbox = None
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None


def session_topic(session_key: str | None) -> str:
    """The topic on which the sockets of a session hear that it ended; the key itself stays secret."""
    return f"session:{hashlib.sha256((session_key or '').encode()).hexdigest()[:24]}"


@receiver(user_logged_out)
def _say_signed_out(sender: object, request: HttpRequest, **kwargs: object) -> None:
    publish.announce({session_topic(request.session.session_key)})


def _header(scope: Scope, name: bytes) -> str:
    """The header's value, "" when it is missing or there are several."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else ""


def _scheme(scope: Scope) -> str:
    """How the browser reached us. Daphne does not say it of sockets, so it is asked as Django asks it."""
    if settings.SECURE_PROXY_SSL_HEADER:
        name, secure = settings.SECURE_PROXY_SSL_HEADER
        header = name.removeprefix("HTTP_").replace("_", "-").lower().encode()
        return "https" if _header(scope, header).split(",")[0].strip() == secure else "http"
    return "https" if scope.get("scheme") in ("wss", "https") else "http"


def _site(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port of an origin; None when it is anything more or less than an origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if (
        parts.scheme not in ("http", "https")
        or parts.path
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        return None
    return parts.scheme, parts.hostname, port
