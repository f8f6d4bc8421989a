"""The pages and sockets on Daphne, in the main thread of a process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError
from django.db import connections

from dashboard import access
from dashboard.process import database, end_within, is_alone, notify, siblings
from monitor import broker as brokers
from monitor import publish

# Seconds that a thread keeps the interpreter while another waits for it: a page that reads fifty rows beside
# a busy engine waits some fifty times.
SWITCH = 0.0005
LARGEST_MESSAGE = 64 * 1024  # bytes of a WebSocket message; the pages send none


def check() -> None:
    """Whether this process may listen where it is told to; raises ``CommandError``."""
    _check_port_is_free(settings.UMBEL_ADDRESS, settings.UMBEL_PORT)


class Web:
    """Serves until a signal comes, or until ``refusal`` or ``failure`` says why not.

    ``begin`` is called on a thread once it listens, ``failed`` each second (a sentence ends the server), and
    ``end`` on a thread before it goes.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        begin: Callable[[], None] = lambda: None,
        failed: Callable[[], str] = lambda: "",
        end: Callable[[], Any] = lambda: None,
    ) -> None:
        self.refusal = ""  # why it could not begin
        self.failure = ""
        self._say, self._begin, self._failed, self._end = say, begin, failed, end

    def serve(self) -> None:
        """Blocks; in the main thread. The database must be ready."""
        _check_address_is_safe(settings.UMBEL_ADDRESS)
        sys.setswitchinterval(SWITCH)
        self._first_token = access.first_link()
        connections.close_all()
        # Daphne installs its reactor when it is imported: nothing of Twisted may come before it.
        from daphne.server import Server
        from twisted.internet import reactor, task, threads

        from dashboard.asgi import application

        twisted: Any = reactor
        address = settings.UMBEL_ADDRESS.replace(":", "\\:")
        self._server = Server(
            application,
            endpoints=[f"tcp:port={settings.UMBEL_PORT}:interface={address}"],
            websocket_timeout=-1,
            websocket_max_message_size=LARGEST_MESSAGE,
            websocket_max_frame_size=LARGEST_MESSAGE,
            application_close_timeout=3,
            verbosity=0,
            server_name="",
        )

        async def begin() -> None:
            publish.bind(asyncio.get_running_loop())
            await asyncio.to_thread(self._begin)
            if not is_alone():
                siblings.begin()
            self._say_where()

        def watch() -> None:
            begun = self._beginning
            if begun.done() and not begun.cancelled() and begun.exception():
                self.refusal = str(begun.exception())
            self.failure = self._failed()
            if self.refusal or self.failure:
                self._server.stop()

        def started() -> None:
            # get_running_loop() fails here in silence: the reactor's own loop it is.
            self._beginning = twisted._asyncioEventloop.create_task(begin())
            task.LoopingCall(watch).start(1.0, now=False)
            recovering = task.LoopingCall(lambda: threads.deferToThread(database.recover))
            recovering.start(database.RECOVER_EVERY, now=False)

        def stopping() -> Any:
            notify.say(STOPPING="1")
            self._say("Stopping.")
            end_within()
            return threads.deferToThread(self._bow_out)

        twisted.callWhenRunning(started)
        twisted.addSystemEventTrigger("before", "shutdown", stopping)
        self._server.run()
        if not self._server.listening_addresses:
            raise CommandError(_taken(settings.UMBEL_ADDRESS, settings.UMBEL_PORT, "it could not be opened"))
        publish.bind(None)
        connections.close_all()

    def _bow_out(self) -> None:
        self._end()
        if not is_alone():
            siblings.end()

    def _say_where(self) -> None:
        address, port = self._server.listening_addresses[0][:2]
        host = "127.0.0.1" if address in ("0.0.0.0", "::") else address  # noqa: S104
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}{settings.UMBEL_PREFIX}/"
        lines = [
            f"Umbel is on {base}",
            f"It watches {brokers.current().shown}; its data are in {settings.DATA}",
        ]
        if self._first_token:
            lines += [
                "There is no user yet. This link signs in the first one, once, within an hour:",
                f"  {base}sign-in/{self._first_token}/",
            ]
        self._say("\n".join([*lines, "Ctrl-C stops it."]))
        notify.say(READY="1", STATUS=f"Umbel is on {base}")


def _check_port_is_free(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise CommandError(_taken(address, port, error.strerror or str(error))) from error


def _taken(address: str, port: int, reason: str) -> str:
    return (
        f"Cannot listen on {address} port {port} ({reason}): choose another with --port, or --port 0 for any."
    )


def _check_address_is_safe(address: str) -> None:
    try:
        local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = address == "localhost"
    if not local and not get_user_model().objects.exists():
        raise CommandError(
            f"Umbel does not listen on {address} while it has no user: whoever came first would own it. "
            "Add one (umbel user add NAME --role admin), or listen on 127.0.0.1."
        )
