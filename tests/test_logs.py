"""The log: secrets stay out of it, whatever was logged, and no text can forge a line or move a terminal."""

from __future__ import annotations

import io
import logging
import logging.config
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from django.conf import settings
from django.test import Client

from dashboard import access, logs, process


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the product's own configuration writes."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    before = structlog.get_config()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.Line("{levelname} {name}: {message}", style="{"))
    root = logging.getLogger()
    root.addHandler(handler)
    process.log_to_stderr()
    yield out
    root.removeHandler(handler)
    structlog.configure(**before)


def test_pythons_log_is_redacted_and_one_line_a_thing(written: io.StringIO) -> None:
    logging.getLogger("any").warning("cannot reach %s\nERROR root: forged \x1b[2J", "redis://:hunter2@host/0")
    assert (
        written.getvalue()
        == "WARNING any: cannot reach redis://[hidden]@host/0\\nERROR root: forged \\x1b[2J\n"
    )


def test_a_traceback_keeps_its_lines_and_loses_its_secrets(written: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter2 \x1b[31m")
    except ValueError:
        logging.getLogger("any").exception("It failed.")
        structlog.get_logger().exception("It failed too.")
    text = written.getvalue()
    assert "hunter2" not in text
    assert "\x1b[31m" not in text
    assert text.count("\nTraceback (most recent call last)") == 2
    assert text.count("ValueError: password=[hidden]") == 2


def test_locals_are_never_logged(written: io.StringIO) -> None:
    innocent = "-".join(["a", "local", "value"])
    try:
        raise ValueError(len(innocent))
    except ValueError:
        structlog.get_logger().exception("It failed.")
    assert "ValueError: 13" in written.getvalue()
    assert innocent not in written.getvalue()


def test_what_a_stranger_sends_cannot_forge_a_line(written: io.StringIO) -> None:
    structlog.get_logger().warning(
        "A socket was refused.", origin="http://x\x1b[2J\n2026-01-01 root signed in"
    )
    (line,) = written.getvalue().splitlines()
    assert "\x1b[2J" not in line
    assert "x1b[2J" in line


@pytest.mark.django_db
def test_a_one_time_link_is_not_logged_when_its_form_is_refused(written: io.StringIO) -> None:
    token = access.first_link()
    answer = Client().post(f"/sign-in/{token}/", {"username": "ada", "password": "short", "again": "short"})
    assert answer.status_code == 400
    assert "Bad Request" in written.getvalue()
    assert str(token) not in written.getvalue()


def test_changes_of_users_reach_the_log() -> None:
    configured: Any = settings.LOGGING
    assert configured["loggers"]["dashboard"]["level"] == "INFO"
    assert configured["formatters"]["line"]["()"] == "dashboard.logs.Line"
