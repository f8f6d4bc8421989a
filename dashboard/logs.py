"""What a line of the log may hold: nothing secret, and nothing that could pass for another line."""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping
from typing import Any

from monitor.redact import DEFAULT

# C0 and C1 (terminals obey them), line separators, and marks that turn text round.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Django logs the path of a request that was refused, and that of a one-time link is a secret.
_LINK = re.compile(r"(/sign-in/)[^/\s'\"]{8,}")
_LINES = frozenset({"exception", "traceback"})


def safe(text: str, *, lines: bool = False) -> str:
    """The text as it may be logged: redacted, on one line unless it is a traceback."""
    shown = DEFAULT.text(_LINK.sub(r"\1[hidden]", text))
    return (_CONTROLS_IN_LINES if lines else _CONTROLS).sub(_escaped, shown)


class Line(logging.Formatter):
    """The formatter of Python's own log, Django's among it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = safe(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return safe(super().formatException(ei), lines=True)


def clean(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The same as a processor of structlog."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = safe(value, lines=key in _LINES)
    return event


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
