"""A whole Umbel for the benches that look at its pages: the server, people who have signed in, their sockets.

``python -m bench.site --people 500`` makes them in the database of the environment and prints their cookies.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import ROOT, python, running, umbel_env, until
from demo.guard import Guarded
from demo.valkey import free_port


@dataclass(frozen=True, slots=True)
class Site:
    """A running Umbel. ``cookies`` are header values, one a person."""

    url: str
    process: Guarded
    cookies: Sequence[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def get(self, path: str) -> str:
        """The page as the first person sees it."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Cookie": self.cookies[0]})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())


@contextmanager
def site(
    folder: Path,
    broker: str,
    *,
    database: str = "",
    people: int = 1,
    server: str = "umbel",
    more: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """``umbel``: engine and pages in one process; ``umbel web`` or ``uvicorn``: pages, beside a monitor."""
    env = umbel_env(folder, broker, database) | dict(more or {})
    apart = server != "umbel"
    if apart:
        env["UMBEL_CHANNELS"] = broker.rpartition("/")[0] + "/5"
    folder.mkdir(parents=True, exist_ok=True)
    cookies = signed_in(env, people)
    port = free_port()
    argv = [*python("-m", *server.split()), "--port", str(port)]
    if server == "uvicorn":
        argv += ["dashboard.asgi:application", "--log-level", "warning"]
    with ExitStack() as processes:
        if apart:
            monitor = running(python("-m", "umbel", "monitor"), folder / "monitor.log", env=env)
            processes.enter_context(monitor)
        process = processes.enter_context(running(argv, folder / "web.log", env=env))
        until(lambda: _serves(process, port), 60, f"the start of {server}")
        yield Site(f"http://127.0.0.1:{port}", process, cookies)


def signed_in(env: dict[str, str], people: int) -> list[str]:
    """Cookies of so many sessions; the tables are made first."""
    made = subprocess.run(
        python("-m", "bench.site", "--people", str(people)),
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"People could not be made: {made.stderr[-800:]}")
    cookies: list[str] = json.loads(made.stdout)
    return cookies


def live_socket(url: str, cookie: str, path: str, query: str = "") -> socket.socket:
    """A live socket whose handshake is done; what follows are frames. Raises RuntimeError when refused.

    It takes compressed messages, as browsers do, from a server that makes them.
    """
    host = url.removeprefix("http://")
    name, _, port = host.partition(":")
    made = socket.create_connection((name, int(port)), timeout=30)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET /live/?path={path}&query={query} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Origin: {url}",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        f"Cookie: {cookie}",
    ]
    made.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # A byte at a time: frames may follow at once.
        if not (byte := made.recv(1)):
            break
        head += byte
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(f"The live socket was refused: {head[:200]!r}")
    return made


def _serves(process: Guarded, port: int) -> bool:
    if not process.running():
        raise RuntimeError(f"A server of the bench has ended: {process.tail(30)}")
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1)
    asked = parser.parse_args()
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command

    from dashboard import access

    call_command("migrate", verbosity=0)
    user: Any = access.create_user(f"bench-{time.time_ns()}", "operator")
    cookies = []
    for _ in range(asked.people):
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        cookies.append(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")
    json.dump(cookies, sys.stdout)


if __name__ == "__main__":
    main()
