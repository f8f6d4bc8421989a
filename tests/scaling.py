"""All of Umbel in processes of its own, for tests that kill them: monitors, webs, browsers."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from demo.guard import Guarded, guarded
from demo.valkey import free_port
from tests.conftest import ROOT, wait_until

PASSWORD = "correct horse battery"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}")


class Process:
    """One ``umbel …``, which may be killed, frozen and started again under the same name and port."""

    def __init__(self, name: str, argv: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name, self._argv, self._folder, self._environment = name, argv, folder, environment
        self.log = folder / f"{name}.log"
        self.running: Guarded | None = None
        self._frozen = False

    def start(self) -> None:
        if self.log.exists():
            self.log.rename(self.log.with_suffix(f".{time.monotonic_ns()}.log"))
        self.running = guarded(
            [sys.executable, "-P", "-m", *self._argv],
            self.log,
            env=self._environment,
            cwd=self._folder,
            grace=12,
        )

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, text: str, after: str = "", timeout: float = 40.0) -> None:
        """Waits until it has said so, after it had said ``after``."""
        already = len(after)

        def said() -> bool:
            assert self.running is not None
            return text in self.said()[already:] or not self.running.running()

        wait_until(said, timeout, what=f"{text!r} of {self.name}")
        assert text in self.said()[already:], self.said()[-4000:]

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def ask_to_stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        if self.running is not None:
            if self._frozen:
                self.thaw()
            self.running.stop(15)
            self.running = None


def monitor(name: str, folder: Path, environment: dict[str, str]) -> Process:
    return Process(name, ["umbel", "monitor"], folder, environment)


class Web(Process):
    """``umbel web``, or the same application under uvicorn."""

    def __init__(
        self, name: str, folder: Path, environment: dict[str, str], *, uvicorn: bool = False
    ) -> None:
        self.port = free_port()
        argv = ["umbel", "web", "--port", str(self.port)]
        if uvicorn:
            argv = ["uvicorn", "dashboard.asgi:application", "--port", str(self.port)]
            argv += ["--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "3"]
            argv += ["--no-proxy-headers", "--ws-max-size", "65536"]
        super().__init__(name, argv, folder, environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self, timeout: float = 40.0) -> None:
        def there() -> bool:
            with suppress(OSError):
                return Person(self.url).get("/sign-in/").status == 200
            return False

        wait_until(there, timeout, 0.2, what=f"{self.name}'s first page")


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UMBEL_", "DJANGO_"))}
    return kept | {"PYTHONPATH": str(ROOT), "UMBEL_DATA": str(folder / "data")} | more


class Person:
    """Someone with a browser's cookies, which the sites they visit share: the webs behind one proxy."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def get(self, path: str, base: str = "") -> Any:
        return self._open(urllib.request.Request((base or self.base) + path))

    def text(self, path: str, base: str = "") -> str:
        answer = self.get(path, base)
        body: str = answer.read().decode()
        assert answer.status == 200, body[:500]
        return body

    def sign_in(self, name: str) -> None:
        page = self.text("/sign-in/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token
        values = {"csrfmiddlewaretoken": token[1], "username": name, "password": PASSWORD}
        request = urllib.request.Request(
            f"{self.base}/sign-in/", urllib.parse.urlencode(values).encode(), {"Referer": self.base}
        )
        answer = self._open(request)
        assert answer.status == 200, answer.read()[:500]
        assert "umbel_session" in self.cookie

    @property
    def cookie(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            return self._opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            return error


class Browser:
    """A live page: a socket that comes back by itself, to whichever web answers, and what it last showed."""

    def __init__(self, person: Person, webs: list[Web], first: int, path: str = "/tasks/") -> None:
        self.person, self.webs, self.path = person, webs, path
        self.regions: dict[str, str] = {}
        self.connects = 0
        self.compressed: set[int] = set()  # ports of webs that compress
        self.frames = 0
        self._turn = first
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(30)

    def shown(self) -> list[str]:
        """Ids of the tasks in its list, from the top."""
        return list(dict.fromkeys(UUID.findall(self.regions.get("task-list", ""))))

    def _run(self) -> None:
        while not self._stopped.is_set():
            web = self.webs[self._turn % len(self.webs)]
            with suppress(OSError, WebSocketException, EOFError):
                self._listen(web)
            self._turn += 1
            self._stopped.wait(0.2)

    def _listen(self, web: Web) -> None:
        query = urllib.parse.urlencode({"path": self.path})
        with connect(
            f"ws://127.0.0.1:{web.port}/live/?{query}",
            origin=web.url,  # type: ignore[arg-type]
            additional_headers={"Cookie": self.person.cookie},
            open_timeout=10,
            close_timeout=1,
            max_size=None,
            proxy=None,
            ping_interval=3,
            ping_timeout=6,
        ) as socket:
            self.connects += 1
            if socket.protocol.extensions:
                self.compressed.add(web.port)
            last = 0
            while not self._stopped.is_set():
                try:
                    message = json.loads(socket.recv(0.5))
                except TimeoutError:
                    continue
                if message["after"] != last:
                    return  # as the page's script does: a gap asks for everything anew
                last = message["seq"]
                for frame in message["frames"]:
                    self.frames += 1
                    self.regions[frame["region"]] = frame.get("content", "")


def until(true: Any, within: float, what: str) -> float:
    """Seconds until it is true; fails past ``within``, which no patience stretches."""
    began = time.monotonic()
    while not true():
        took = time.monotonic() - began
        assert took < within, f"{what} took over {within} s"
        time.sleep(0.02)
    return time.monotonic() - began
