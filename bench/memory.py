"""Resident memory of the engine after 100,000, 1 million and 5 million tasks, fed as fast as it holds."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.generator import Plan
from bench.ledger import Ledger, check_counts, counts_of
from bench.load import Load
from bench.report import Engine, Options, Row, median, rss, say, table, valkey

EVENTS_A_TASK = 3.17  # without task-sent
AHEAD = 35_000  # events on their way at most: the engine sets the pace
MOST_GROWTH, MOST = 20.0, 250.0  # MiB, of the second step to the last; in all
SIZES = (100_000, 1_000_000, 5_000_000)
QUICK = (20_000, 60_000, 120_000)


def run(options: Options, sizes: Sequence[int] = ()) -> list[Row]:
    folder = options.part("memory")
    steps = tuple(sizes) or (QUICK if options.quick else SIZES)
    with valkey(folder) as server, Engine(folder, server.url) as engine:
        resident, ledger, seconds = _fed(engine, server.url, folder, steps, options.seed)
        wrong = check_counts(ledger, *counts_of(folder))
    shown = ", ".join(f"{size:,}: {resident[size]:.0f}" for size in steps)
    growth, most = resident[steps[-1]] - resident[steps[1]], max(resident.values())
    rate = f"{ledger.events:,} events in {seconds:.0f} s ({ledger.events / seconds:,.0f}/s)"
    note = f"{rate}; {wrong:,} of {ledger.total:,} tasks counted wrong by name or worker"
    between = f"memory growth, {steps[1]:,} to {steps[-1]:,} tasks"
    return [
        Row(
            "resident memory of the engine",
            f"{MOST:.0f} MiB",
            most,
            "MiB",
            most < MOST,
            f"{shown} MiB; {note}",
        ),
        Row(between, f"{MOST_GROWTH:.0f} MiB", growth, "MiB", growth < MOST_GROWTH and not wrong),
    ]


def _fed(
    engine: Engine, url: str, folder: Path, steps: Sequence[int], seed: int
) -> tuple[dict[int, float], Ledger, float]:
    """MiB after each step (the median of the seconds before it), the ledger, and how long it took."""
    plan = Plan(tasks=steps[-1], rate=50_000, seed=seed, sent=0.0, keep=False)
    resident: dict[int, float] = {}
    samples: list[float] = []
    waiting = list(steps)
    began = told = time.monotonic()
    with Load(url, folder, plan, credit=True) as load:
        load.go()
        while load.running() or not _idle(engine):
            status = engine.status()
            if status.extra.get("failed") or status.lost:
                raise RuntimeError(f"The engine lost events that it was not hurried to take: {status}")
            load.allow(status.seen - status.waiting + AHEAD)
            samples = [*samples[-39:], rss(engine.pid)]
            tasks = status.seen / EVENTS_A_TASK
            while len(waiting) > 1 and tasks >= waiting[0]:
                resident[waiting.pop(0)] = median(samples)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                pace = f"{status.seen / (told - began):,.0f} events/s, {status.waiting:,} waiting"
                say(f"  {tasks:11,.0f} tasks, {samples[-1]:4.0f} MiB, {pace}")
            time.sleep(0.1)  # a sample each tenth of a second
        ledger = load.wait(60)
        seconds = time.monotonic() - began
        _until_written(engine, ledger)
    resident[waiting[0]] = median(samples)
    return resident, ledger, seconds


def _idle(engine: Engine) -> bool:
    return engine.status().waiting == 0


def _until_written(engine: Engine, ledger: Ledger) -> None:
    end = time.monotonic() + 120
    same = 0
    while same < 10:
        status = engine.status()
        same = same + 1 if status.seen >= ledger.events and status.waiting == 0 else 0
        if time.monotonic() > end:
            raise TimeoutError(
                f"The engine did not write all it read: {status}, of {ledger.events:,} events."
            )
        time.sleep(0.1)  # quiet for ten looks in a row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--tasks", default="", help="sizes, such as 100000,1000000,5000000")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(argv)
    sizes = [int(size) for size in given.tasks.split(",") if size]
    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as place:
        rows = run(Options(given.quick, Path(place)), sizes)
    print(table(rows))
    for row in rows:
        say(row.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
