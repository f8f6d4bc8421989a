"""People on the command line: ``umbel user add`` and ``umbel user list``."""

from __future__ import annotations

import os
import secrets
import sys
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from dashboard import access
from dashboard.process import database
from monitor import control


class Command(BaseCommand):
    help = "Adds and lists the people who may use Umbel."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        add = actions.add_parser("add")
        add.add_argument("name")
        add.add_argument("--role", choices=access.ROLES, default="viewer")
        add.add_argument("--how", choices=("password", "stdin", "link"), default="password")
        actions.add_parser("list")

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)
        with database.alone():
            call_command("migrate", verbosity=0, interactive=False)
        if options["action"] == "add":
            self._add(options["name"], options["role"], options["how"])
        else:
            self._list()

    def _add(self, name: str, role: str, how: str) -> None:
        password = None
        if how == "password":
            password = secrets.token_urlsafe(15)
        elif how == "stdin":
            password = sys.stdin.readline().rstrip("\r\n")
            try:
                validate_password(password)
            except ValidationError as error:
                raise CommandError(" ".join(error.messages)) from error
        try:
            with transaction.atomic():
                user = access.create_user(name, role, password)
                control.keep(
                    control.Command("user_add", (name,), {"role": role}),
                    control.Actor(None, "command line", "admin"),
                    "By umbel user add.",
                )
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{name} may sign in now, as {role}.")
        if how == "password":
            self.stdout.write(f"Password: {password}")
        elif how == "link":
            self.stdout.write("This link signs them in, once, within a day:")
            self.stdout.write(f"  {_base()}/sign-in/{access.link_for(user)}/")

    def _list(self) -> None:
        users = list(get_user_model().objects.order_by("username"))
        if not users:
            self.stdout.write("There is no user yet: umbel user add NAME --role admin")
        for user in users:
            state = "" if user.is_active else "  (disabled)"
            self.stdout.write(f"{user.username:<24} {access.role(user) or 'no role'}{state}")


def _base() -> str:
    """Where a browser on this machine finds Umbel."""
    address = settings.UMBEL_ADDRESS
    if address in ("0.0.0.0", "::"):  # noqa: S104
        address = "127.0.0.1"
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{settings.UMBEL_PORT}{settings.UMBEL_PREFIX}"
