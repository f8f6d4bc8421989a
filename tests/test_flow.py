"""The socket over the wire, on the real server: who is refused, what ends it, who does not read."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parent.parent
RESET = -1


class Site:
    """The site of ``tests.live_site``."""

    def __init__(self, port: int, name: str, cookie: str) -> None:
        self.port = port
        self.cookie = f"{name}={cookie}"

    def set(self, **state: Any) -> None:
        url = f"http://127.0.0.1:{self.port}/set/"
        request = urllib.request.Request(url, json.dumps(state).encode(), method="POST")
        urllib.request.urlopen(request, timeout=15).close()

    def counts(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts/", timeout=15) as answer:
            got: dict[str, Any] = json.load(answer)
        return got


class Wire:
    """A WebSocket client of a few lines, which reads only when asked to."""

    def __init__(self, site: Site, origin: str | None, cookie: str = "", path: str = "/live/?path=/") -> None:
        self.socket = socket.create_connection(("127.0.0.1", site.port), timeout=15)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{site.port}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"Origin: {origin}"] * (origin is not None) + [f"Cookie: {cookie}"] * bool(cookie)
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        while self.file.readline().strip():
            pass

    def send(self, payload: bytes, opcode: int = 1) -> None:
        size = len(payload)
        head = bytes([0x80 | opcode]) + (
            bytes([0x80 | size]) if size < 126 else bytes([0x80 | 127]) + struct.pack(">Q", size)
        )
        self.socket.sendall(head + b"\0\0\0\0" + payload)

    def read(self) -> tuple[int, bytes]:
        first, second = self.file.read(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        return first & 0x0F, self.file.read(size)

    def frame(self) -> dict[str, Any]:
        opcode, payload = self.read()
        assert opcode == 1, (opcode, payload)
        got: dict[str, Any] = json.loads(payload)
        return got

    def close_code(self) -> int:
        try:
            while True:
                opcode, payload = self.read()
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big")
        except ConnectionResetError:
            return RESET

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.live_site"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    line = process.stdout.readline()
    assert line, "the site did not start"
    yield Site(**json.loads(line))
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def own(site: Site) -> str:
    return f"http://127.0.0.1:{site.port}"


def test_another_origin_or_none_is_refused_before_the_handshake_ends(site: Site, own: str) -> None:
    bad = [None, "null", "http://127.0.0.1", own.replace("http", "https"), f"{own}.evil.example", f"{own}0"]
    for origin in [*bad, f"http://localhost:{site.port}", f"http://evil.example:{site.port}"]:
        wire = Wire(site, origin, site.cookie)
        assert wire.status in (400, 403), origin
        wire.close()


def test_no_session_another_address_and_no_page_are_refused(site: Site, own: str) -> None:
    for wire in (
        Wire(site, own),
        Wire(site, own, site.cookie, "/elsewhere/"),
        Wire(site, own, site.cookie, "/live/?path=/nowhere/"),
    ):
        assert wire.status == 403
        wire.close()


def test_a_command_or_a_huge_message_ends_it(site: Site, own: str) -> None:
    for sent, codes in ((b'{"revoke": "*"}', (4400,)), (b"x" * 70_000, (1009, RESET))):
        wire = Wire(site, own, site.cookie)
        assert wire.status == 101
        wire.send(sent)
        assert wire.close_code() in codes
        wire.close()


def test_the_numbers_of_a_socket_have_no_gap(site: Site, own: str) -> None:
    wire = Wire(site, own, site.cookie)
    seen = [wire.frame()["seq"] for _ in range(3)]
    site.set(word="numbered")
    seen.append(wire.frame()["seq"])
    assert seen == [1, 2, 3, 4]
    wire.close()


def test_a_browser_that_does_not_read_gets_the_newest_and_no_pile(site: Site, own: str) -> None:
    wire = Wire(site, own, site.cookie)
    for _ in range(3):
        wire.frame()
    sent = 0
    while not any(site.counts()["waiting"]):
        sent += 1
        assert sent < 200, "the server kept what nobody read"
        site.set(word=f"{sent} " + "x" * 1_000_000)
        wait_until(lambda n=sent: site.counts()["sent"] >= n + 3)
    for n in range(10):
        site.set(word=f"later {n} " + "x" * 1_000_000)
    assert max(site.counts()["waiting"]) == 1, "one frame for one region, however many were drawn"
    site.set(word="the last")
    words, numbers = [], []
    while not words or words[-1] != "the":
        got = wire.frame()
        words.append(got["content"].split("<h2>")[1].split(" ")[0])
        numbers.append(got["seq"])
    assert len(words) < sent + 10
    assert numbers == list(range(4, 4 + len(numbers)))
    wire.close()
    wait_until(lambda: site.counts()["waiting"] == [])
