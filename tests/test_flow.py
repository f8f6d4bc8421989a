"""The socket over the wire, on the real server: who is refused, what ends it, who does not read."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.live_site import Site, running

RESET = -1


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

    def message(self) -> dict[str, Any]:
        opcode, payload = self.read()
        assert opcode == 1, (opcode, payload)
        got: dict[str, Any] = json.loads(payload)
        return got

    def snapshot(self) -> int:
        """Reads until every region of the page has come; answers the last message's number."""
        regions: set[str] = set()
        while len(regions) < 3:
            got = self.message()
            regions |= {frame["region"] for frame in got["frames"]}
        return int(got["seq"])

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
    with running() as site:
        yield site


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
    last = wire.snapshot()
    for word in ("numbered", "again"):
        site.set(word=word)
        got = wire.message()
        assert got["after"] == last
        last = got["seq"]
    wire.close()


def test_a_browser_that_does_not_read_gets_the_newest_and_no_pile(site: Site, own: str) -> None:
    wire = Wire(site, own, site.cookie)
    last = wire.snapshot()
    sent, before = 0, site.counts()["sent"]
    while not any(site.counts()["waiting"]):
        sent += 1
        assert sent < 200, "the server kept what nobody read"
        site.set(word=f"{sent} " + "x" * 1_000_000)
        wait_until(lambda n=sent: site.counts()["sent"] >= n + before)
    for n in range(10):
        site.set(word=f"later {n} " + "x" * 1_000_000)
    assert max(site.counts()["waiting"]) == 1, "one frame for one region, however many were drawn"
    site.set(word="the last")
    words: list[str] = []
    while not words or words[-1] != "the":
        got = wire.message()
        assert got["after"] == last, "what was overtaken leaves no gap"
        last = got["seq"]
        (frame,) = got["frames"]
        words.append(frame["content"].split("<h2>")[1].split(" ")[0])
    assert len(words) < sent + 10
    wire.close()
    wait_until(lambda: site.counts()["waiting"] == [])
