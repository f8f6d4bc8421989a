"""The whole of Umbel in one process: the engine in its thread, the pages and sockets on Daphne."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import sys
import threading
from typing import Any

import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from dashboard import access, logs
from monitor import broker as brokers
from monitor import control, publish, redact
from monitor.engine import Engine, Options
from monitor.store import Store

LARGEST_MESSAGE = 64 * 1024  # bytes of a WebSocket message; the pages send none
STOP_WITHIN = 8.0  # seconds for the engine to write what it holds
EXIT_WITHIN = 10.0  # seconds for all; then the process ends whatever hangs
RECOVER_EVERY = 60.0  # seconds between two looks for control records that nobody will complete
GIVEN_UP_AFTER = 300.0  # seconds; no look for an effect takes so long


class Command(BaseCommand):
    help = "Watches the broker and serves the dashboard until it is told to stop."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        _log_to_stderr()
        self.exit_code = 0
        broker = _broker()
        _check_port_is_free(settings.UMBEL_ADDRESS, settings.UMBEL_PORT)
        self._migrate()
        _check_address_is_safe(settings.UMBEL_ADDRESS)
        self.first_token = access.first_link()
        self._serve(broker)
        if self.exit_code:
            sys.exit(self.exit_code)

    def _migrate(self) -> None:
        try:
            call_command("migrate", verbosity=0, interactive=False)
            call_command("clearsessions")
            control.recover()
        except DatabaseError as error:
            raise CommandError(
                f"The database {_database()} cannot be used ({' '.join(str(error).split())}): "
                "check UMBEL_DATABASE (--database) and the data folder."
            ) from error
        finally:
            connections.close_all()

    def _serve(self, broker: brokers.Broker) -> None:
        # Daphne installs its reactor when it is imported: nothing of Twisted may come before it.
        from daphne.server import Server
        from twisted.internet import reactor, task, threads

        from dashboard.asgi import application

        self.engine = Engine(
            Options(
                broker=broker,
                store=Store(settings.UMBEL_RETENTION_DAYS, settings.UMBEL_RETENTION_ROWS),
                redactor=redact.DEFAULT,
            )
        )
        twisted: Any = reactor
        address = settings.UMBEL_ADDRESS.replace(":", "\\:")
        self.server = Server(
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
            await asyncio.to_thread(self.engine.start)
            self._say_where()

        def watch() -> None:
            if self.engine.failed:
                self.stderr.write(f"The engine has ended: {self.engine.failed}")
                self.exit_code = 1
                self.server.stop()

        def started() -> None:
            # get_running_loop() fails here in silence: the reactor's own loop it is.
            self._beginning = twisted._asyncioEventloop.create_task(begin())
            task.LoopingCall(watch).start(1.0, now=False)
            task.LoopingCall(lambda: threads.deferToThread(_recover)).start(RECOVER_EVERY, now=False)

        def stopping() -> Any:
            self.stdout.write("Stopping.")
            timer = threading.Timer(EXIT_WITHIN, os._exit, args=(3,))
            timer.daemon = True
            timer.start()
            return threads.deferToThread(self.engine.stop, STOP_WITHIN)

        twisted.callWhenRunning(started)
        twisted.addSystemEventTrigger("before", "shutdown", stopping)
        self.server.run()
        if not self.server.listening_addresses:
            raise CommandError(_taken(settings.UMBEL_ADDRESS, settings.UMBEL_PORT, "it could not be opened"))
        publish.bind(None)
        broker.close()
        connections.close_all()

    def _say_where(self) -> None:
        address, port = self.server.listening_addresses[0][:2]
        host = "127.0.0.1" if address in ("0.0.0.0", "::") else address  # noqa: S104
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}{settings.UMBEL_PREFIX}/"
        lines = [
            f"Umbel is on {base}",
            f"It watches {brokers.current().shown}; its data are in {settings.DATA}",
        ]
        if self.first_token:
            lines += [
                "There is no user yet. This link signs in the first one, once, within an hour:",
                f"  {base}sign-in/{self.first_token}/",
            ]
        self.stdout.write("\n".join([*lines, "Ctrl-C stops it."]))
        self.stdout.flush()


def _recover() -> None:
    """A look for an effect that failed must not leave its command pending for ever."""
    try:
        control.recover(GIVEN_UP_AFTER)
    except DatabaseError:
        logging.getLogger(__name__).warning(
            "Control records could not be looked at; tried again in a minute."
        )
    finally:
        connections.close_all()


def _log_to_stderr() -> None:
    """One line a thing, each in one write, so that lines of two threads never mix."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            # Here, and not by the renderer, whose tracebacks may show local variables.
            structlog.processors.format_exc_info,
            logs.clean,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def _broker() -> brokers.Broker:
    if not settings.UMBEL_BROKER:
        raise CommandError(
            "No broker is given: say umbel --broker redis://host:6379/0, or set UMBEL_BROKER. "
            "To look around without one: umbel demo."
        )
    redact.DEFAULT.hide(settings.UMBEL_REDACT)  # shared by all that shows values
    try:
        broker = brokers.Broker(
            settings.UMBEL_BROKER,
            result_backend=settings.UMBEL_RESULT_BACKEND or None,
            transport_options=settings.UMBEL_TRANSPORT_OPTIONS,
            key_prefix=settings.UMBEL_KEY_PREFIX,
            exchange=settings.UMBEL_EVENT_EXCHANGE,
            ssl=settings.UMBEL_BROKER_SSL,
        )
    except (ValueError, KeyError) as error:
        raise CommandError(f"The broker's URL cannot be used: {error}") from error
    brokers.configure(broker)
    return broker


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


def _database() -> str:
    database = settings.DATABASES["default"]
    return f"{database['NAME']} on {database['HOST']}" if database.get("HOST") else str(database["NAME"])
