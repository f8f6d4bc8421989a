"""What the processes of Umbel are made of: ``umbel`` is all, ``umbel monitor`` and ``umbel web`` a part each.

``database`` makes it ready, ``watching`` is the engine under its lease, ``serving`` the pages on Daphne.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

import structlog
from django.conf import settings
from django.core import checks
from django.core.management.base import CommandError

from dashboard import logs
from monitor import broker as brokers
from monitor import redact

EXIT_WITHIN = 10.0  # seconds from the signal; then the process ends whatever hangs


def log_to_stderr() -> None:
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


def check_settings() -> None:
    """Raises ``CommandError`` with what the system checks say of Umbel's settings, and the way out."""
    found = [one for one in checks.run_checks(tags=["umbel"]) if one.is_serious()]
    if found:
        raise CommandError(" ".join(f"{one.msg} {one.hint or ''}".strip() for one in found))


def broker() -> brokers.Broker:
    """The broker that the settings name, as the one of this process; raises ``CommandError``."""
    if not settings.UMBEL_BROKER:
        raise CommandError(
            "No broker is given: say umbel --broker redis://host:6379/0, or set UMBEL_BROKER. "
            "To look around without one: umbel demo."
        )
    redact.DEFAULT.hide(settings.UMBEL_REDACT)  # shared by all that shows values
    try:
        found = brokers.Broker(
            settings.UMBEL_BROKER,
            result_backend=settings.UMBEL_RESULT_BACKEND or None,
            transport_options=settings.UMBEL_TRANSPORT_OPTIONS,
            result_key_prefix=settings.UMBEL_RESULT_KEY_PREFIX,
            key_prefix=settings.UMBEL_KEY_PREFIX,
            exchange=settings.UMBEL_EVENT_EXCHANGE,
            control_exchange=settings.UMBEL_CONTROL_EXCHANGE,
            ssl=settings.UMBEL_BROKER_SSL,
        )
    except (ValueError, KeyError) as error:
        raise CommandError(f"The broker's URL cannot be used: {error}") from error
    brokers.configure(found)
    return found


def is_alone() -> bool:
    """Whether this process is all of Umbel: without a channel layer between, no other can hear of changes."""
    return not settings.UMBEL_CHANNELS


def need_channels() -> None:
    """Raises ``CommandError`` when web processes could not hear of what a monitor apart from them sees."""
    if is_alone():
        raise CommandError(
            "umbel web hears of changes through a Redis, and none is given: say --channels "
            "redis://host:6379/0 (UMBEL_CHANNELS) to it and to umbel monitor, or run both in one process, "
            "as umbel alone."
        )


def end_within(seconds: float = EXIT_WITHIN) -> None:
    """From now on the process has so long; then it ends with exit code 3, whatever hangs."""
    timer = threading.Timer(seconds, os._exit, args=(3,))
    timer.daemon = True
    timer.start()
