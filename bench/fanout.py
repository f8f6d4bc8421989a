"""What many browsers cost one web process: `python -m bench.fanout`.

A cluster at a modest rate changes the pages all the time; the sockets of as many people, held by a process
of its own, half of them on the overview and half on the list of tasks, take all they are sent. CPU is that of
the serving process, drawing included: `umbel web` alone, the same under uvicorn (which compresses), and
`umbel`, which holds the engine as well. What it takes with no socket open is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.generator import Plan
from bench.load import Load
from bench.report import ROOT, Options, Row, cpu, percentile, python, say, table, valkey
from bench.site import Site, live_socket, site

SERVERS = ("umbel web", "uvicorn", "umbel")
COUNTS = (1, 100, 500)
RATE = 400.0  # events a second: every page changes in every quarter of a second
PAGES = ("/", "/tasks/")
SETTLE = 8.0  # seconds until all have their first frames and the engine its stride
TEXT, PING, PONG = 1, 9, 10  # kinds of WebSocket frames
MUST_BROWSERS, MUST_CPU = 500, 30.0  # per cent of a core


@dataclass(frozen=True, slots=True)
class Taken:
    """What the clients of one round got."""

    seconds: float
    messages: int
    octets: int
    slowest: float  # messages a second that the worst served socket got
    delays: Sequence[float]  # seconds from the server's stamp to the last byte, a sample


def run(options: Options) -> list[Row]:
    seconds = 6.0 if options.quick else 20.0
    servers = SERVERS[:1] if options.quick else SERVERS
    return [row for server in servers for row in _server(options, server, seconds)]


def _server(options: Options, server: str, seconds: float) -> list[Row]:
    folder = options.part(f"fanout-{server.replace(' ', '-')}")
    rows = []
    with (
        valkey(folder) as broker,
        site(folder, broker.url, people=max(COUNTS), server=server) as umbel,
        Load(broker.url, folder, Plan(rate=RATE, seed=options.seed, keep=False)) as load,
    ):
        load.go()
        time.sleep(SETTLE / 2)  # the start is not what is measured
        idle = _cpu(umbel, seconds)
        for count in COUNTS:
            with _Clients(umbel, count) as clients:
                time.sleep(SETTLE)  # nor are the first frames of all that connect at once
                clients.begin()
                busy = _cpu(umbel, seconds)
                taken = clients.end()
            say(f"{server}, {count} sockets: {busy:.1f} % of a core, {idle:.1f} % with none; {_told(taken)}")
            rows.append(_row(server, count, busy, idle, taken))
    return rows


def _row(server: str, count: int, busy: float, idle: float, taken: Taken) -> Row:
    bound = count == MUST_BROWSERS and server == SERVERS[0]
    return Row(
        name=f"{count} browsers, {server}",
        must=f"under {MUST_CPU:g} % of a core" if bound else "",
        measured=busy,
        unit="% of a core",
        met=busy < MUST_CPU if bound else None,
        note=f"{idle:.1f} % with none; {_told(taken)}",
    )


def _told(taken: Taken) -> str:
    rate = taken.messages / taken.seconds
    delays = [percentile(taken.delays, share) * 1000 for share in (0.5, 0.99)] if taken.delays else [0, 0]
    return (
        f"{rate:,.0f} messages/s, the worst served socket {taken.slowest:.1f}/s, "
        f"{taken.octets / max(taken.messages, 1) / 1024:.0f} KiB each, "
        f"delivered in {delays[0]:.0f} ms (p50), {delays[1]:.0f} ms (p99)"
    )


def _cpu(umbel: Site, seconds: float) -> float:
    """Per cent of a core over that time."""
    began, used = time.monotonic(), cpu(umbel.pid)
    time.sleep(seconds)  # the span that is measured
    return (cpu(umbel.pid) - used) / (time.monotonic() - began) * 100


class _Clients:
    """The process that holds the sockets."""

    def __init__(self, umbel: Site, count: int) -> None:
        self._process = subprocess.Popen(
            python("-m", "bench.fanout", "--clients"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._say({"url": umbel.url, "cookies": list(umbel.cookies[:count]), "pages": PAGES})
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "open":
            raise RuntimeError("The clients could not open their sockets.")

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(30)

    def begin(self) -> None:
        self._say("begin")

    def end(self) -> Taken:
        self._say("end")
        assert self._process.stdout is not None
        return Taken(**json.loads(self._process.stdout.readline()))

    def _say(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()


class _Reader:
    """One socket: counts its messages, without looking into them but for the first bytes."""

    def __init__(self, made: socket.socket) -> None:
        made.setblocking(False)
        self.socket = made
        self.messages = self.octets = 0
        self._buffer = bytearray()

    def read(self, delays: list[float]) -> bool:
        """All that is there; False when the server has closed."""
        with suppress(BlockingIOError):
            while True:
                data = self.socket.recv(1 << 20)
                if not data:
                    return False
                self._buffer += data
                self.octets += len(data)
        while (size := self._whole()) is not None:
            start, length = size
            kind = self._buffer[0] & 0x0F
            if kind == PING:
                self.socket.send(
                    bytes([0x80 | PONG, 0x80 | length]) + b"\0\0\0\0" + self._buffer[start : start + length]
                )
            if kind == TEXT:
                self.messages += 1
                # {"seq":12,"after":11,"now":1790000000.123,… unless it is compressed
                stamp = bytes(self._buffer[start : start + 80]).partition(b'"now":')[2].partition(b",")[0]
                if stamp:
                    delays.append(time.time() - float(stamp))
            del self._buffer[: start + length]
        return True

    def _whole(self) -> tuple[int, int] | None:
        """Where the payload of the first frame begins and how long it is, when all of it is there."""
        have = self._buffer
        if len(have) < 2:
            return None
        length, start = have[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(have) < start:
                return None
            length = int.from_bytes(have[2:start], "big")
        return (start, length) if len(have) >= start + length else None


def clients() -> None:
    """Opens the sockets it is told to, then counts between "begin" and "end"; ends with its input."""
    asked = json.loads(sys.stdin.readline())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    poll, readers = select.epoll(), {}
    delays: list[float] = []
    for number, cookie in enumerate(asked["cookies"]):
        made = live_socket(asked["url"], cookie, asked["pages"][number % len(asked["pages"])])
        readers[made.fileno()] = _Reader(made)
        poll.register(made.fileno(), select.EPOLLIN)
        for ready, _ in poll.poll(0):
            readers[ready].read(delays)
    print("open", flush=True)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    began = 0.0
    while True:
        for number, _ in poll.poll():
            if number != sys.stdin.fileno():
                if not readers[number].read(delays):
                    raise SystemExit("The server closed a socket.")
                continue
            order = sys.stdin.readline().strip()
            if not order:
                return
            if order == '"begin"':
                began = time.monotonic()
                for reader in readers.values():
                    reader.messages = reader.octets = 0
                delays.clear()
                continue
            seconds = time.monotonic() - began
            counts = [reader.messages for reader in readers.values()]
            taken = {
                "seconds": seconds,
                "messages": sum(counts),
                "octets": sum(reader.octets for reader in readers.values()),
                "slowest": min(counts) / seconds,
                "delays": delays[:: max(1, len(delays) // 5_000)],
            }
            print(json.dumps(taken), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clients", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.clients:
        clients()
        return
    with tempfile.TemporaryDirectory() as folder:
        print(table(run(Options(quick=asked.quick, folder=Path(folder)))))


if __name__ == "__main__":
    main()
