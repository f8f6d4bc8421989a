"""A running Umbel for tests in a browser: real broker, real workers, one process, and its people."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from playwright.sync_api import Page, expect

from demo import valkey
from demo.guard import guarded
from tests.conftest import ROOT, shop, wait_until

PASSWORD = "correct-horse-battery"
PEOPLE = {"ada": "admin", "otto": "operator", "vera": "viewer"}

ADD_PEOPLE = """
import json, sys
import django; django.setup()
from django.core.management import call_command
from dashboard import access
call_command("migrate", verbosity=0)
for name, role in json.loads(sys.argv[1]).items():
    access.create_user(name, role, sys.argv[2])
"""


@dataclass
class Product:
    """A running ``umbel``: its address, its broker and the workers it watches."""

    url: str
    broker: str
    host: str
    # Of those who have signed in, by name: what their browser keeps.
    sessions: dict[str, Any] = field(default_factory=dict)

    def hostname(self, name: str) -> str:
        return f"{name}@{self.host}"


@contextmanager
def running(folder: Path) -> Iterator[Product]:
    """The product over three workers, ``pre``, ``auto`` and ``thr``, each with a queue of its name."""
    cluster = valkey.start(folder / "broker")
    host = socket.gethostname()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UMBEL_", "DJANGO_"))}
    shopping = environment | {
        "SHOP_BROKER": cluster.url,
        "SHOP_BACKEND": cluster.url,
        "PYTHONPATH": str(ROOT),
    }
    celery = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.shop",
        "worker",
        "-E",
        "--without-gossip",
        "--without-mingle",
    ]
    pools = {
        "pre": ["-P", "prefork", "-c", "2", "-Q", "pre"],
        "auto": ["-P", "prefork", "--autoscale", "3,1", "-Q", "auto"],
        "thr": ["-P", "threads", "-c", "2", "-Q", "thr"],
    }
    started = [
        guarded(
            [*celery, *more, "-n", f"{name}@{host}"], folder / f"{name}.log", env=shopping, cwd=ROOT, grace=2
        )
        for name, more in pools.items()
    ]
    port = valkey.free_port()
    settings = environment | {
        "UMBEL_BROKER": cluster.url,
        "UMBEL_RESULT_BACKEND": cluster.url,
        "UMBEL_DATA": str(folder / "data"),
        "UMBEL_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    # All of them by one process: each ``umbel user add`` would take seconds.
    subprocess.run(
        [sys.executable, "-c", ADD_PEOPLE, json.dumps(PEOPLE), PASSWORD],
        check=True, env=settings | {"DJANGO_SETTINGS_MODULE": "dashboard.settings"}, cwd=ROOT,
    )  # fmt: skip
    umbel = guarded([sys.executable, "-m", "umbel"], folder / "umbel.log", env=settings, cwd=ROOT)
    started.append(umbel)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/sign-in/"), 30, what=f"Umbel's sign-in page ({umbel.tail()})")
        app = shop(cluster.url)
        names = [f"{name}@{host}" for name in pools]
        wait_until(
            lambda: len(app.control.ping(destination=names, timeout=1.0)) == len(names), 40, what="workers"
        )
        yield Product(url, cluster.url, host)
    finally:
        for one in started:
            one.ask_to_stop()
        for one in started:
            one.stop()
        cluster.stop()


def publish(broker: str, event: dict[str, Any]) -> None:
    """One event, as a worker sends it."""
    send(redis.Redis.from_url(broker), event["type"].replace("-", "."), event)


def send(connection: Any, key: str, body: Any) -> None:
    envelope = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "celeryev", "routing_key": key},
        },
    }
    connection.publish(f"/0.celeryev/{key}", json.dumps(envelope))


def sign_in(page: Page, name: str) -> None:
    """By the form, to the overview."""
    page.goto("/sign-in/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
