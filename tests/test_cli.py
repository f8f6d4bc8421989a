"""The command line: a manual for help, one sentence for a mistake, and no surprise for a celery project."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dashboard.options import OPTIONS
from demo import valkey
from demo.guard import Guarded, guarded
from tests.conftest import ROOT, wait_until

UMBEL = [sys.executable, "-P", "-m", "umbel"]


def environment(data: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UMBEL_", "DJANGO_"))}
    return kept | {"PYTHONPATH": str(ROOT), "UMBEL_DATA": str(data)} | more


def umbel(
    data: Path, *arguments: str, given: str = "", more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UMBEL, *arguments],
        env=environment(data, **(more or {})),
        cwd=data.parent,
        capture_output=True,
        text=True,
        input=given,
        timeout=120,
        check=False,
    )


def one_sentence(answer: subprocess.CompletedProcess[str]) -> str:
    """A mistake is answered on standard error in one line, with exit code 2 and no traceback."""
    assert answer.returncode == 2, answer.stderr
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("umbel: ")
    return lines[0]


# Help and mistakes


def test_help_is_a_manual(tmp_path: Path) -> None:
    data = tmp_path / "data"
    text = umbel(data, "--help").stdout
    for option in OPTIONS:
        assert option.flag in text
        assert option.variable in text
    assert "umbel demo" in text
    assert "celery -A proj umbel" in text
    assert not data.exists(), "asking for help leaves nothing behind"


def test_the_module_alone_loads_no_package_that_a_project_may_have() -> None:
    code = (
        "import sys, umbel\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('dashboard', 'monitor', 'demo')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=90
    )
    assert found.stdout.strip() == "[]"


def test_without_a_broker_it_says_how_to_give_one(tmp_path: Path) -> None:
    assert "--broker redis://host:6379/0" in one_sentence(umbel(tmp_path / "data"))


def test_a_bad_option_is_one_sentence(tmp_path: Path) -> None:
    text = one_sentence(umbel(tmp_path / "data", "--broker", "redis://localhost", "--port", "80a"))
    assert "UMBEL_PORT (--port) is '80a'" in text


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        text = one_sentence(umbel(tmp_path / "data", "--broker", "redis://localhost", "--port", port))
    assert f"127.0.0.1 port {port}" in text
    assert "--port" in text


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_it_listens_beyond_this_machine_only_with_a_user(tmp_path: Path, address: str) -> None:
    text = one_sentence(
        umbel(tmp_path / "data", "--broker", "redis://localhost", "--port", "0", "--address", address)
    )
    assert "has no user" in text
    assert "umbel user add" in text


# People


def test_a_user_gets_a_password_and_a_role(tmp_path: Path) -> None:
    data = tmp_path / "data"
    added = umbel(data, "user", "add", "ada", "--role", "operator")
    assert added.returncode == 0, added.stderr
    password = re.search(r"Password: (\S+)", added.stdout)
    assert password and len(password[1]) >= 16
    stored = sqlite3.connect(data / "umbel.sqlite3").execute("select password from auth_user").fetchall()
    assert password[1] not in str(stored)
    assert re.search(r"ada +operator", umbel(data, "user", "list").stdout)
    assert "already" in one_sentence(umbel(data, "user", "add", "ADA"))


def test_a_weak_password_is_refused(tmp_path: Path) -> None:
    text = one_sentence(umbel(tmp_path / "data", "user", "add", "ada", "--password-stdin", given="12345\n"))
    assert "too short" in text


def test_a_role_that_is_none_is_refused(tmp_path: Path) -> None:
    answer = umbel(tmp_path / "data", "user", "add", "ada", "--role", "king")
    assert answer.returncode == 2
    assert "'king' is not one of" in answer.stderr


# Watching, live


class Running:
    def __init__(self, process: Guarded, address: str) -> None:
        self.process, self.address = process, address


@pytest.fixture
def watching(tmp_path: Path, valkey: valkey.Server) -> Iterator[Running]:
    process = guarded(
        [*UMBEL, "--port", "0"],
        tmp_path / "umbel.log",
        env=environment(tmp_path / "data", UMBEL_BROKER=valkey.url),
        cwd=tmp_path,
        grace=12,
    )
    found = wait_until(
        lambda: re.search(r"Umbel is on (\S+)", process.tail(40)), 30, what=f"the address in {process.log}"
    )
    wait_until(lambda: "Ctrl-C stops it" in process.tail(40), 5)
    yield Running(process, found[1])
    process.stop(15)


def answer(address: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(address, timeout=30)
    except urllib.error.HTTPError as error:
        return error


@pytest.mark.live
def test_the_first_start_prints_a_link_that_works_and_stops_cleanly(watching: Running) -> None:
    link = re.search(rf"{re.escape(watching.address)}sign-in/\S+/", watching.process.tail(40))
    assert link
    page = answer(link[0])
    assert page.status == 200
    assert "Server" not in page.headers
    assert answer(watching.address + "static/css/base.css").status == 200
    os.kill(watching.process.pid, signal.SIGTERM)
    assert watching.process.wait(40) == 0
    assert "engine ends" in watching.process.tail()
    assert "Traceback" not in watching.process.tail(200)


@pytest.mark.live
def test_the_password_of_the_broker_is_never_printed(watching: Running, valkey: valkey.Server) -> None:
    assert valkey.password not in watching.process.log.read_text()


@pytest.mark.live
def test_a_port_that_is_taken_leaves_the_first_one_alone(watching: Running, tmp_path: Path) -> None:
    port = watching.address.rstrip("/").rpartition(":")[2]
    assert f"port {port}" in one_sentence(umbel(tmp_path / "data2", "--broker", "redis://x", "--port", port))
    assert watching.process.running()


# celery -A proj umbel


def test_a_project_with_packages_of_the_same_names_is_no_trouble(tmp_path: Path) -> None:
    """The project has a ``dashboard``, a ``monitor`` and Django settings of its own."""
    for package in ("dashboard", "monitor"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('the project\\'s own')")
    (tmp_path / "proj.py").write_text(
        "from celery import Celery\n"
        "app = Celery('proj', broker='redis://:geheim@127.0.0.1:1/3')\n"
        "app.conf.broker_transport_options = {'global_keyprefix': 'shop:', 'visibility_timeout': 60}\n"
        "app.conf.event_exchange = 'ev'\n"
    )
    code = (
        "import os, sys, json, umbel\n"
        "os.execve = lambda path, argv, env: print(json.dumps([argv, env]))\n"
        "from celery.bin.celery import celery, main\n"
        "celery.add_command(umbel.celery)\n"
        "sys.argv = ['celery', '-A', 'proj', 'umbel', '--port', '9000']\n"
        "main()\n"
    )
    env = environment(tmp_path / "data", DJANGO_SETTINGS_MODULE="", PYTHONPATH=f"{tmp_path}:{ROOT}")
    env.pop("DJANGO_SETTINGS_MODULE")
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    argv, handed = json.loads(found.stdout.strip().splitlines()[-1])
    assert argv[1:] == ["-P", "-m", "umbel", "--port", "9000"]
    assert handed["UMBEL_BROKER"] == "redis://:geheim@127.0.0.1:1/3"
    assert handed["UMBEL_KEY_PREFIX"] == "shop:"
    assert handed["UMBEL_EVENT_EXCHANGE"] == "ev"
    assert str(tmp_path) not in handed.get("PYTHONPATH", "")
    handed["UMBEL_PORT"] = "bad"
    started = subprocess.run(
        [*argv[:4]], cwd=tmp_path, env=handed, capture_output=True, text=True, timeout=90, check=False
    )
    assert "UMBEL_PORT" in one_sentence(started)


def test_the_entry_point_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["celery.commands"] == {"umbel": "umbel:celery"}
    assert project["scripts"] == {"umbel": "umbel:main"}
