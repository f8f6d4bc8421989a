"""The engine alone: the leader, or a standby until the leader is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand

from dashboard import process
from dashboard.process import database, notify
from dashboard.process.watching import Monitor


class Command(BaseCommand):
    help = "Watches the broker until it is told to stop; umbel web serves what it sees."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        process.log_to_stderr()
        process.check_settings()
        broker = process.broker()
        stopping = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        database.prepare()
        monitor = Monitor(broker, self._say)
        self._say(f"Umbel's monitor watches {broker.shown} into {database.shown()}")
        if process.is_alone():
            self._say("It has no --channels: what it sees is kept, and no page hears of it at once.")
        monitor.start()
        self._watch(monitor, stopping)
        notify.say(STOPPING="1")
        self._say("Stopping.")
        process.end_within()
        failure = monitor.failure
        monitor.stop()
        broker.close()
        if failure:
            self.stderr.write(f"The engine has ended: {failure}")
            sys.exit(1)

    def _watch(self, monitor: Monitor, stopping: threading.Event) -> None:
        recovered = 0.0
        while not stopping.wait(1.0) and not monitor.failure:
            recovered += 1.0
            if monitor.role == "leader" and recovered >= database.RECOVER_EVERY:
                recovered = 0.0
                database.recover()

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
