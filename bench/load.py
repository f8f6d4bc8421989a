"""Publishes a plan straight to Redis, from a process of its own: `python -m bench.load --broker URL`.

Three ways to pace it: by the clock, generated on the way (any length); by the clock from memory (``--ahead``,
for rates that leave no time to generate); by credit (``--credit``: as fast as its reader says it keeps up).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import hiredis

from bench.generator import BIN, Plan, Stream, disordered
from bench.ledger import Ledger
from bench.report import ROOT, python

STEP = 0.005  # seconds between two helpings
HELPING = 256 * 1024  # bytes in one write
LEAD = 12e-6  # seconds to encode an event ahead, about: when the paced part begins


class Publisher:
    """Writes prepared commands to one socket and adds up what PUBLISH answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self.sent = self.answered = self.delivered = self.reached = 0
        if parts.password:
            words = [unquote(parts.username)] if parts.username else []
            self._socket.sendall(_command("AUTH", *words, unquote(parts.password)))
            if (answer := self._answer()) != b"OK":
                raise RuntimeError(f"The broker refused the password: {answer!r}")

    def publish(self, commands: Sequence[bytes]) -> None:
        """All of them; reads answers on the way, so that neither side waits for the other."""
        self.sent += len(commands)
        data = memoryview(b"".join(commands))
        self._socket.setblocking(False)
        while data:
            readable, writable, _ = select.select([self._socket], [self._socket], [], 30)
            if readable:
                self._read()
            if writable:
                with suppress(BlockingIOError):
                    data = data[self._socket.send(data[:HELPING]) :]
            if not readable and not writable:
                raise TimeoutError("The broker has not taken a byte for 30 s.")

    def settle(self, timeout: float = 30.0) -> None:
        """Waits for the answers that are still out."""
        end = time.monotonic() + timeout
        while self.answered < self.sent and time.monotonic() < end:
            if select.select([self._socket], [], [], 0.5)[0]:
                self._read()

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("The broker closed the publisher's connection.")
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                if isinstance(answer, Exception):
                    raise answer
                self.answered += 1
                self.delivered += answer
                self.reached = max(self.reached, answer)

    def _answer(self) -> Any:
        while (answer := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(4096))
        return answer


def _command(*words: str) -> bytes:
    return bytes(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub allows one word only


class Load:
    """The generator in a process of its own. ``go`` starts the publishing, ``stop`` ends it early.

    ``with Load(url, folder, Plan(rate=5_000)) as load: load.go(); …`` publishes until the block ends;
    with ``tasks`` in the plan, ``load.wait()`` answers the ledger when all is published.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        plan: Plan,
        *,
        ahead: bool = False,
        credit: bool = False,
        disorder: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "ledger.msgpack"
        self.path.unlink(missing_ok=True)
        argv = python("-m", "bench.load", "--broker", url, "--ledger", str(self.path), "--waits")
        for name in Plan.__dataclass_fields__:
            if name != "keep":
                argv += [f"--{name}", str(getattr(plan, name))]
        argv += [
            f"--{name}" for name, on in (("ahead", ahead), ("credit", credit), ("disorder", disorder)) if on
        ]
        argv += [] if plan.keep else ["--counts-only"]
        self._process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> None:
        """Waits until all that is prepared ahead is prepared."""
        if not self._ready:
            assert self._process.stdout is not None
            if self._process.stdout.readline().strip() != b"ready":
                raise RuntimeError("The load generator ended before it began.")
            self._ready = True

    def go(self) -> None:
        self.ready()
        self._say("go")

    def allow(self, events: int) -> None:
        """With ``credit``: it may publish up to so many events in all."""
        self._say(str(events))

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> Ledger:
        self._process.wait(timeout)
        if self._process.returncode not in (0, -signal.SIGTERM) or not self.path.exists():
            raise RuntimeError(f"The load generator failed with {self._process.returncode}.")
        return Ledger.read(self.path)

    def stop(self) -> Ledger:
        """Ends it between two messages; what was published is in the ledger."""
        self._process.terminate()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        return self.wait(60)

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()


def publish(
    stream: Stream, publisher: Publisher, *, ahead: bool, credit: bool, disorder: bool, waits: bool
) -> None:
    """Runs it to its end, or to a SIGTERM."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    ledger = stream.ledger
    prepared: list[list[bytes]] = []
    if ahead:
        stream.start = time.time() + stream.plan.tasks * 3.5 * LEAD
        prepared = _prepare(stream, disorder)
    if waits:
        print("ready", flush=True)
        if not _line():
            return
    if ahead:
        _sleep_until(stream.start)
    else:
        stream.start = time.time()
    began = ledger.began = time.time()
    if ahead:
        for place, commands in enumerate(prepared):
            if stopping:
                break
            ledger.late = max(ledger.late, time.time() - began - place * BIN)
            _sleep_until(began + place * BIN)
            publisher.publish(commands)
    elif credit:
        _by_credit(stream, publisher, stopping)
    else:
        while not stream.done and not stopping:
            now = time.time()
            ledger.late = max(ledger.late, now - stream.simulated - STEP)
            publisher.publish(stream.upto(now))
            time.sleep(STEP)  # the pace
    publisher.settle()
    ledger.ended = time.time()
    ledger.delivered, ledger.reached = publisher.delivered, publisher.reached


def _prepare(stream: Stream, disorder: bool) -> list[list[bytes]]:
    """Commands by the bin they are due in."""
    bins: list[list[bytes]] = []
    while not stream.done:
        bins.append(stream.upto(stream.simulated + BIN / 2))
    if not disorder:
        return bins
    flat = list(
        disordered([command for commands in bins for command in commands], random.Random(stream.plan.seed))
    )
    size = -(-len(flat) // len(bins))
    return [flat[place : place + size] for place in range(0, len(flat), size)]


def _line() -> bytes:
    """A line of standard input and no byte more: what follows it may be credit. Empty at the end."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _by_credit(stream: Stream, publisher: Publisher, stopping: list[int]) -> None:
    """Events of a bin are stamped with the time they go out at, however the bins come."""
    os.set_blocking(0, False)
    credit, text = 0, b""
    while not stream.done and not stopping:
        with suppress(BlockingIOError):
            given = os.read(0, 4096)
            if not given:
                break  # who gave the credit is gone
            text += given
        *whole, text = text.split(b"\n")
        credit = max([credit, *(int(line) for line in whole if line.isdigit())])
        if stream.events >= credit:
            select.select([0], [], [], 0.05)
            continue
        stream.catch_up(time.time())
        publisher.publish(stream.upto(stream.simulated + BIN * 4))


def _sleep_until(at: float) -> None:
    if (pause := at - time.time()) > 0:
        time.sleep(pause)  # the pace


def arguments() -> Iterator[tuple[str, Any]]:
    for name, field in Plan.__dataclass_fields__.items():
        if name != "keep":
            yield name, field.default


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--broker", required=True, help="redis://… where the events are published")
    parser.add_argument("--ledger", type=Path, help="where the ledger is written at the end (msgpack)")
    for name, default in arguments():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--ahead", action="store_true", help="encode all before the first is published")
    parser.add_argument(
        "--credit", action="store_true", help="publish up to as many events as standard input says"
    )
    parser.add_argument(
        "--disorder", action="store_true", help="with --ahead: shuffled, and some messages twice"
    )
    parser.add_argument("--counts-only", action="store_true", help="a ledger without a line for each task")
    parser.add_argument(
        "--waits", action="store_true", help="say 'ready', and begin at a line from standard input"
    )
    given = parser.parse_args(argv)
    if given.ahead and not given.tasks:
        parser.error("--ahead needs --tasks: it prepares them all.")
    plan = Plan(**{name: getattr(given, name) for name, _ in arguments()}, keep=not given.counts_only)
    stream, publisher = Stream(plan, time.time()), Publisher(given.broker)
    publish(
        stream, publisher, ahead=given.ahead, credit=given.credit, disorder=given.disorder, waits=given.waits
    )
    ledger = stream.close()
    if given.ledger:
        ledger.write(given.ledger)
    said = {"events": ledger.events, "messages": ledger.messages, "delivered": ledger.delivered}
    print(json.dumps(said | {"rate": round(ledger.rate), "late": round(ledger.late, 3)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
