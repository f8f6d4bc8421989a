"""The pages and sockets alone: any number of these beside one ``umbel monitor`` or several."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dashboard import process
from dashboard.process import database, serving


class Command(BaseCommand):
    help = "Serves the dashboard until it is told to stop; umbel monitor watches the broker."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        process.log_to_stderr()
        process.check_settings()
        process.need_channels()
        broker = process.broker()
        serving.check()
        database.prepare()
        web = serving.Web(self._say)
        web.serve()
        broker.close()
        if web.refusal:
            raise CommandError(web.refusal)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
