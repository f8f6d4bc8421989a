"""Where the engine's CPU goes, by looking at it 200 times a second: `python -m bench.sampling`.

Each look takes the stack of every thread and lays on it the CPU that the thread has used since the last look.
``self`` is the share of a function itself (C code counts for its caller), ``with`` also of what it called.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

EVERY = 0.005  # seconds
OURS = ("monitor", "django", "redis", "msgspec", "asyncio", "psycopg", "sqlite3", "json", "structlog")


class Sampler(threading.Thread):
    """Looks at all threads of its process until ``finish``."""

    def __init__(self) -> None:
        super().__init__(name="bench-sampler", daemon=True)
        self._ended = threading.Event()
        self._own: Counter[str] = Counter()  # nanoseconds
        self._with: Counter[str] = Counter()
        self._threads: Counter[str] = Counter()
        self._used: dict[int, int] = {}  # CPU of each thread at the last look
        self.looks = 0

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            for thread in threading.enumerate():
                if thread is not self and thread is not threading.main_thread() and thread.ident:
                    self._look_at(thread, thread.ident)
            self.looks += 1

    def _look_at(self, thread: threading.Thread, ident: int) -> None:
        frame = sys._current_frames().get(ident)
        with suppress(OSError):
            used = time.clock_gettime_ns(time.pthread_getcpuclockid(ident))
            spent = used - self._used.get(ident, used)
            self._used[ident] = used
            if frame is not None and spent:
                self._threads[thread.name.rstrip("0123456789_-")] += spent
                self._count(frame, spent)

    def finish(self) -> dict[str, Any]:
        self._ended.set()
        return {
            "looks": self.looks,
            "threads": dict(self._threads),
            "self": dict(self._own.most_common(200)),
            "with": dict(self._with.most_common(200)),
        }

    def _count(self, frame: FrameType | None, spent: int) -> None:
        self._own[_place(frame)] += spent
        seen = set()
        while frame is not None:
            place = _place(frame)
            if place not in seen:
                seen.add(place)
                self._with[place] += spent
            frame = frame.f_back


def _place(frame: FrameType | None) -> str:
    assert frame is not None
    parts = Path(frame.f_code.co_filename).parts
    for top in OURS:
        if top in parts:
            return f"{'/'.join(parts[len(parts) - 1 - parts[::-1].index(top) :])}:{frame.f_code.co_qualname}"
    return f"{parts[-1]}:{frame.f_code.co_qualname}"


def shown(found: dict[str, Any], most: int = 30) -> str:
    busy = max(1, sum(found["threads"].values()))
    lines = [f"{100 * count / busy:5.1f} %  thread {name}" for name, count in found["threads"].items()]
    lines += ["", " self   with"]
    for place, count in list(found["self"].items())[:most]:
        lines.append(f"{100 * count / busy:5.1f}  {100 * found['with'].get(place, 0) / busy:5.1f}  {place}")
    lines += ["", "with all it called, Umbel's own:"]
    ours = [(place, count) for place, count in found["with"].items() if place.startswith("monitor/")]
    lines += [f"{100 * count / busy:5.1f}  {place}" for place, count in ours[:most]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    from bench.contenders import CONTENDERS, Umbel
    from bench.generator import EVENTS_A_TASK, Plan
    from bench.ingest import benches
    from bench.load import Load
    from bench.report import say

    parser = argparse.ArgumentParser(prog="python -m bench.sampling", description=__doc__)
    parser.add_argument(
        "--of", default="umbel-sqlite", choices=[n for n in CONTENDERS if n.startswith("umbel")]
    )
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=20_000)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as place:
        folder = Path(place)
        folder.chmod(0o711)
        with benches(folder, [given.of], 1) as bench:
            umbel = bench.contender(given.of, folder / "engine")
            assert isinstance(umbel, Umbel)
            umbel.engine.profile = folder / "profile.json"
            plan = Plan(tasks=int(given.events / EVENTS_A_TASK), rate=given.rate)
            with Load(bench.broker, folder / "load", plan, ahead=True) as load:
                load.ready()
                umbel.start()
                time.sleep(1)  # the start is not what is sampled
                used = umbel.cpu()
                load.go()
                ledger = load.wait(600)
                _, used_then, _ = umbel.caught_up(ledger.events, 120)
            umbel.stop()
            say(f"{(used_then - used) / ledger.events * 1e6:.1f} µs of CPU an event, the looking included")
            print(shown(json.loads((folder / "profile.json").read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
