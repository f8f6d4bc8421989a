"""The whole of Umbel in one process: the engine in its thread, the pages and sockets on Daphne."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dashboard import process
from dashboard.process import database, serving
from dashboard.process.watching import Monitor

# Seconds until a lease whose holder was killed has run out; whoever still holds it then is alive.
PATIENCE = 8.0


class Command(BaseCommand):
    help = "Watches the broker and serves the dashboard until it is told to stop."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        process.log_to_stderr()
        process.check_settings()
        broker = process.broker()
        serving.check()
        database.prepare()
        self.monitor = Monitor(broker, lambda text: self._say(text) if not process.is_alone() else None)
        web = serving.Web(
            self._say, begin=self._begin, failed=lambda: self.monitor.failure, end=self.monitor.stop
        )
        web.serve()
        broker.close()
        if web.refusal:
            raise CommandError(web.refusal)
        if web.failure:
            self.stderr.write(f"The engine has ended: {web.failure}")
            sys.exit(1)

    def _begin(self) -> None:
        """Watches. Alone, it must lead: two such processes would not hear of each other's changes."""
        self.monitor.start()
        until = time.monotonic() + PATIENCE
        while process.is_alone() and self.monitor.role != "leader" and not self.monitor.failure:
            if time.monotonic() > until and self.monitor.role == "standby":
                holder = self.monitor.leader.held_by.rpartition(":")[0]
                raise CommandError(
                    f"Another Umbel ({holder}) watches into this database already: stop it, give this one "
                    "another --data or --database, or give both --channels redis://host:6379/0."
                )
            time.sleep(0.05)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
