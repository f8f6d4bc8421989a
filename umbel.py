"""The command line: ``umbel`` and its commands, and ``celery -A proj umbel``.

Celery loads this module on every call of ``celery``, in other people's projects, which may have packages
called ``dashboard`` or ``monitor`` too: so it imports neither here, and ``celery -A proj umbel`` starts a new
interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent

ABOUT = """Watch a Celery cluster live in the browser, revoke stuck tasks and resize worker pools.

    umbel --broker redis://host:6379/0

watches that cluster: one process, history in SQLite, pages on http://127.0.0.1:8000/. It needs nothing from
the workers but their events: start them with -E, or press "Enable events" on their page.
"""
EXAMPLES = """\b
Examples:
  umbel demo                                         a small shop with real workers, to look around
  umbel --broker redis://host:6379/0                 watch a cluster
  UMBEL_BROKER_FILE=/run/secrets/broker umbel        the same, with the URL out of sight of ps
  umbel --broker amqp://host// --port 9000 --read-only
  umbel --database postgres://umbel@db/umbel --broker redis://host
  umbel monitor --database … --channels redis://…    the engine apart: one leads, the others stand by
  umbel web --database … --channels redis://…        the pages apart: any number of them
  umbel user add ada --role admin                    prints a password for her
  celery -A proj umbel                               watch the broker of that project

Every option is also an environment variable, and a secret (*) may be read from the file that the variable
with _FILE at its end names. The first start with no user prints a link that signs in the first one, once.
"""


def main() -> None:
    """The ``umbel`` script."""
    _command_line()(prog_name="umbel")


@click.command(
    "umbel",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Watch this project's workers live in the browser (see umbel --help).",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def celery(context: click.Context, arguments: tuple[str, ...]) -> None:
    """``celery -A proj umbel``: hands the project's broker settings to an Umbel in a fresh interpreter."""
    environment = _without(os.environ, "PYTHONPATH", "DJANGO_SETTINGS_MODULE") | _project(context.obj.app)
    if HERE.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = str(HERE)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", "umbel", *arguments], environment)


def _project(app: Any) -> dict[str, str]:
    """What an app says of its broker, as Umbel's variables; what the user has set himself wins."""
    conf = app.conf
    options = dict(conf.broker_transport_options or {})
    found = {
        "UMBEL_BROKER": app.connection_for_read().as_uri(include_password=True),
        "UMBEL_RESULT_BACKEND": str(conf.result_backend or ""),
        "UMBEL_EVENT_EXCHANGE": str(conf.event_exchange or "celeryev"),
        "UMBEL_CONTROL_EXCHANGE": str(conf.control_exchange or "celery"),
        "UMBEL_RESULT_KEY_PREFIX": str(
            (conf.result_backend_transport_options or {}).get("global_keyprefix", "")
        ),
        "UMBEL_KEY_PREFIX": str(options.get("global_keyprefix", "")),
        "UMBEL_TRANSPORT_OPTIONS": json.dumps(options, default=str) if options else "",
        "UMBEL_BROKER_SSL": json.dumps(conf.broker_use_ssl, default=str) if conf.broker_use_ssl else "",
    }
    given = {name.removesuffix("_FILE") for name in os.environ if os.environ[name]}
    if "://" not in found["UMBEL_RESULT_BACKEND"]:
        del found["UMBEL_RESULT_BACKEND"]
    return {name: value for name, value in found.items() if value and name not in given}


def _without(environment: Any, *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def _command_line() -> click.Group:
    @click.group(
        "umbel", help=ABOUT, epilog=EXAMPLES, invoke_without_command=True,
        context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    @click.version_option(_version(), prog_name="umbel")
    @click.pass_context
    def umbel(context: click.Context, /, **options: Any) -> None:
        _set(options)
        if context.invoked_subcommand is None:
            _run("serve")

    for option in _options():
        umbel = option(umbel)

    @umbel.command()
    @click.option(
        "--port", default=8000, show_default=True, help="The port of the dashboard; 0 takes a free one."
    )
    @click.option("--rate", default=5.0, show_default=True, help="Tasks a second, all in all.")
    @click.option("--seed", default=7, show_default=True, help="The same seed sends the same tasks.")
    @click.option("--data", default="", help="Where the demo keeps its files while it runs.")
    @click.option("--broker", default="", help="A Redis of yours in place of the demo's own Valkey.")
    @click.option("--no-browser", is_flag=True, help="Do not open a browser.")
    def demo(*, port: int, rate: float, seed: int, data: str, broker: str, no_browser: bool) -> None:
        """Run a small shop with real workers, its own broker and this dashboard, until Ctrl-C."""
        from demo.run import run

        sys.exit(run(port=port, rate=rate, seed=seed, data=data, broker=broker, browser=not no_browser))

    @umbel.command(context_settings={"max_content_width": 110})
    def monitor(**options: Any) -> None:
        """Watch the broker without pages: the leader of several, or a standby that takes over in seconds.

        Takes every option of umbel. The pages are served by umbel web, on this machine or on others, over
        the same --database; --channels names a Redis between them (not the broker's).
        """
        _set(options)
        _run("monitor")

    @umbel.command(context_settings={"max_content_width": 110})
    def web(**options: Any) -> None:
        """Serve the pages of what umbel monitor watches: any number of these, behind any proxy.

        Takes every option of umbel. All of them need the same --database, --channels and UMBEL_SECRET_KEY.
        """
        _set(options)
        _run("web")

    for option in _options():
        monitor, web = option(monitor), option(web)

    @umbel.group()
    def user() -> None:
        """Add and list the people who may sign in."""

    @user.command("add")
    @click.argument("name")
    @click.option(
        "--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer", show_default=True,
        help="A viewer looks, an operator controls workers, an admin manages users as well.",
    )  # fmt: skip
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
    @click.option("--link", is_flag=True, help="Print a link that signs in once, in place of a password.")
    def add(name: str, role: str, password_stdin: bool, link: bool) -> None:
        """Add a person; prints a password made for them."""
        if password_stdin and link:
            raise click.UsageError("--password-stdin and --link exclude each other.")
        how = "stdin" if password_stdin else "link" if link else "password"
        _run("user", "add", name, "--role", role, "--how", how)

    @user.command("list")
    def show() -> None:
        """List everyone with their role."""
        _run("user", "list")

    return umbel


def _options() -> list[Callable[[Any], Any]]:
    from dashboard.options import OPTIONS

    made = []
    for option in OPTIONS:
        default = f" [default: {option.default}]" if option.default and option.kind != "switch" else ""
        text = f"{option.help}{default} ({option.variable}{'*' if option.secret else ''})"
        if option.kind == "switch":
            made.append(click.option(option.flag, is_flag=True, default=None, help=text))
        else:
            made.append(click.option(option.flag, metavar=option.kind.upper(), help=text))
    return made


def _set(options: dict[str, Any]) -> None:
    """The settings read the environment only: what is given on the command line goes there, and wins."""
    from dashboard.options import BY_NAME

    given = []
    for name, value in options.items():
        if value is not None:
            variable = BY_NAME[name.replace("_", "-")].variable
            os.environ[variable] = "yes" if value is True else str(value)
            os.environ.pop(f"{variable}_FILE", None)
            given.append(name.replace("_", "-"))
    os.environ["UMBEL_ARGUMENTS"] = ",".join(given)  # the settings page says where values came from


def _run(*arguments: str) -> None:
    """A management command; a mistake of the user's is one sentence and exit code 2."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "dashboard.settings"
    import django
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import call_command
    from django.core.management.base import CommandError

    try:
        django.setup()
        call_command(*arguments)
    except (ImproperlyConfigured, CommandError) as error:
        click.echo(f"umbel: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("umbel")
    except PackageNotFoundError:
        return "0 (not installed)"


if __name__ == "__main__":
    main()
