"""What an event costs and how many a second are held, side by side: `python -m bench.ingest --only …`.

CPU: each contender in turn reads the same events, paced; its CPU (user and system, all threads and children)
from the first event until all is applied and written, less what it uses when idle, divided by the events.
Rate: bursts, faster until it begins to miss: a task wrong or missing, the broker cuts it off, or it is more
than a second behind at the end of a burst.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import exact
from bench.contenders import CONTENDERS, CeleryState, Contender, Flower, needs_postgresql
from bench.generator import EVENTS_A_TASK, Plan
from bench.ledger import Verdict
from bench.load import Load
from bench.report import Options, Row, median, postgresql, say, share, shown, table, valkey

ALL = ("umbel-sqlite", "umbel-postgresql", "umbel-off", "flower", "celery-state", "raw")
BOUND = ("umbel-sqlite", "umbel-postgresql", "flower")  # whose rates the bounds are about
BEHIND = 1.0  # seconds at the end of a burst that are no miss
STEP = 1.4  # from one rate to the next


@dataclass(frozen=True, slots=True)
class Measured:
    """One load on one contender."""

    events: int
    micros: float  # CPU per event
    behind: float  # seconds from the last publish until all was applied and written
    cut: bool
    late: float  # of the generator itself
    verdict: Verdict
    subscribers: int = 0

    @property
    def missed(self) -> str:
        """Why this counts as missed; empty when it does not."""
        if self.cut:
            return "cut off by the broker"
        if self.verdict.missing:
            return f"{self.verdict.missing:,} missing"
        if self.behind > BEHIND:
            return f"{self.behind:.1f} s behind"
        return ""


@dataclass(slots=True)
class Result:
    """All rounds of one contender."""

    name: str
    rounds: list[Measured] = field(default_factory=list)
    held: float = 0.0  # events a second
    broke: str = ""  # why not more

    @property
    def micros(self) -> float:
        return median([round_.micros for round_ in self.rounds]) if self.rounds else 0.0

    @property
    def wrong(self) -> str:
        """What the last round with a fault got wrong."""
        faults = [
            str(round_.verdict).partition("; such as")[0]
            for round_ in self.rounds
            if not round_.verdict.exact
        ]
        return faults[-1] if faults else ""


class Bench:
    """The servers of one run; ``once`` puts one load on one fresh contender."""

    def __init__(self, folder: Path, broker: str, database: str, seed: int) -> None:
        self.folder, self.broker, self.database, self.seed = folder, broker, database, seed
        self._turn = 0

    def once(self, name: str, plan: Plan, *, idle: float = 1.5, keep: bool = False) -> Measured:
        self._turn += 1
        folder = self.folder / f"{self._turn:03}-{name}"
        folder.mkdir(parents=True)
        contender = self.contender(name, folder)
        try:
            with Load(self.broker, folder, replace(plan, seed=self.seed), ahead=True) as load:
                load.ready()
                contender.start()
                return self._measure(contender, load, idle)
        finally:
            contender.stop()
            if not keep:
                _forget(folder)

    def contender(self, name: str, folder: Path) -> Contender:
        if name == "umbel-postgresql":
            return CONTENDERS[name](folder, self.broker, self.database)
        return CONTENDERS[name](folder, self.broker)

    def _measure(self, contender: Contender, load: Load, idle: float) -> Measured:
        # What it does at its start is not what it does when idle: a second passes, then idleness is measured.
        time.sleep(1.0)
        used, at = contender.cpu(), time.time()
        time.sleep(idle)
        idles = (contender.cpu() - used) / (time.time() - at)
        used, at = contender.cpu(), time.time()
        load.go()
        ledger = load.wait(600)
        done, used_then, read_at = contender.caught_up(ledger.events, 120)
        micros = (used_then - used - idles * (read_at - at)) / ledger.events * 1e6
        behind = max(0.0, done - ledger.ended)
        return Measured(ledger.events, micros, behind, ledger.cut, ledger.late, contender.verdict(ledger))


def measure(
    bench: Bench, names: Sequence[str], events: int, rounds: int, rate: float = 0.0
) -> dict[str, Result]:
    """CPU per event: A B C, A B C, … so that a noisy minute falls on all."""
    results = {name: Result(name) for name in names}
    for turn in range(rounds):
        for name in names:
            kind = CONTENDERS[name]
            pace = kind.rate
            if rate and name.startswith(("umbel", "raw")):
                pace = rate
            found = _held(bench, name, int(min(events, kind.most) / EVENTS_A_TASK), pace)
            results[name].rounds.append(found)
            say(
                f"  round {turn + 1}  {name:<17} {found.micros:6.1f} µs/event, "
                f"{found.behind:.1f} s behind; {found.verdict}"
            )
    return results


def _held(bench: Bench, name: str, tasks: int, pace: float) -> Measured:
    """One round; slower when the machine was too busy for that pace: what is not read costs nothing."""
    for _ in range(3):
        found = bench.once(name, Plan(tasks=tasks, rate=pace))
        if not found.cut and not found.verdict.missing:
            break
        say(f"  {name:<17} did not hold {pace:,.0f}/s ({found.missed}): again at half of it")
        pace /= 2
    return found


def find_rate(bench: Bench, result: Result, seconds: float, tries: int) -> None:
    """The highest of a row of rates, factors of 1.4, 1.18, then 1.09 apart, that is held."""
    kind = CONTENDERS[result.name]
    rate = kind.guess
    if result.micros:
        rate = min(max(rate, 0.5e6 / result.micros), 0.9e6 / result.micros)
    held, broken = 0.0, 0.0
    for _ in range(tries):
        found = bench.once(result.name, Plan(tasks=int(rate * seconds / EVENTS_A_TASK), rate=rate), idle=0.3)
        missed = found.missed
        say(
            f"  {result.name:<17} {rate:9,.0f}/s: {missed or 'held'}; "
            f"{found.behind:.1f} s behind, generator {found.late:.2f} s late"
        )
        if found.late > BEHIND and not missed:
            result.broke = "the generator's own limit"
            break
        if missed:
            broken, result.broke = rate, missed
        else:
            held = rate
        rate = (held * broken) ** 0.5 if held and broken else held * STEP if held else broken / STEP
    result.held = held


@contextmanager
def benches(folder: Path, names: Sequence[str], seed: int) -> Iterator[Bench]:
    with ExitStack() as stack:
        server = stack.enter_context(valkey(folder))
        database = ""
        if any(needs_postgresql(name) for name in names):
            database = stack.enter_context(postgresql(folder))
        yield Bench(folder, server.url, database, seed)


def run(options: Options) -> list[Row]:
    folder = options.part("ingest")
    with benches(folder, ALL, options.seed) as bench:
        events, rounds = (40_000, 1) if options.quick else (120_000, 3)
        results = measure(bench, ALL, events, rounds)
        for result in results.values():
            tries = 5 if result.name in BOUND else 3
            find_rate(bench, result, 4 if options.quick else 6, 2 if options.quick else tries)
        told = exact.run(folder, bench.broker, bench.database, options.seed)
    return [*rows(results), *told]


def rows(results: dict[str, Result]) -> list[Row]:
    """The table's lines; bounds are of section 2 of the issue that asked for the bench."""
    flower, state, raw = (results.get(name, Result(name)) for name in ("flower", "celery-state", "raw"))
    found: list[Row] = []
    for name, times in (("umbel-sqlite", 15), ("umbel-postgresql", 12), ("umbel-off", 0)):
        if not (one := results.get(name, Result(name))).rounds:
            continue
        ratio = flower.micros / one.micros if flower.micros else None
        found.append(
            Row(
                f"events per CPU-second, {LABELS[name]}",
                f"{times} × Flower" if times else "",
                _a_second(one),
                "/s",
                ratio >= times if ratio is not None and times else None,
                one.wrong,
                flower=_a_second(flower),
                raw=_a_second(raw),
                ratio=ratio,
                state=_a_second(state),
            )
        )
    for name, times in (("umbel-sqlite", 8), ("umbel-postgresql", 0), ("umbel-off", 0)):
        if not (one := results.get(name, Result(name))).held:
            continue
        ratio = one.held / flower.held if flower.held else None
        found.append(
            Row(
                f"events a second with nothing missed, {LABELS[name]}",
                f"{times} × Flower" if times else "",
                one.held,
                "/s",
                ratio >= times if ratio is not None and times else None,
                f"at the next rate: {one.broke}" if one.broke else "",
                flower=flower.held or None,
                raw=raw.held or None,
                ratio=ratio,
                state=state.held or None,
            )
        )
    ours = [round_ for name in LABELS if name in results for round_ in results[name].rounds]
    if ours:
        name = "final states equal to the ledger"
        whole = all(round_.verdict.exact for round_ in ours)
        note = "; ".join(f"{one.name}: {one.wrong}" for one in results.values() if one.wrong)
        theirs = _share(flower.rounds), _share(state.rounds)
        found.append(Row(name, "100 %", _share(ours), "", whole, note, flower=theirs[0], state=theirs[1]))
    return found


LABELS = {
    "umbel-sqlite": "history on SQLite",
    "umbel-postgresql": "history on PostgreSQL",
    "umbel-off": "history off",
}


def _a_second(result: Result) -> float | None:
    return 1e6 / result.micros if result.micros else None


def _share(rounds: Sequence[Measured]) -> str | None:
    """Per cent of tasks that ended right; never rounded up to all of them."""
    right = sum(round_.verdict.right for round_ in rounds)
    total = right + sum(round_.verdict.wrong + round_.verdict.missing for round_ in rounds)
    return share(right, total) if total else None


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--only", default=",".join(ALL), help=f"of {','.join(ALL)}")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="events a second for umbel and raw (CPU)")
    parser.add_argument("--rates", action="store_true", help="also the highest rate held")
    parser.add_argument(
        "--exact", action="store_true", help="also shuffled, duplicated and split over a restart"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    names = [name for name in given.only.split(",") if name]
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"Not known: {', '.join(sorted(unknown))}. There are: {', '.join(ALL)}.")
    with tempfile.TemporaryDirectory(prefix="umbel-bench-") as place:
        folder = Path(place)
        folder.chmod(0o711)
        with benches(folder, names, given.seed) as bench:
            results = measure(bench, names, given.events, given.rounds, given.rate)
            if given.rates:
                for result in results.values():
                    find_rate(bench, result, 6, 4)
            told = exact.run(folder, bench.broker, bench.database, given.seed) if given.exact else []
    for result in results.values():
        say(f"{result.name:<17} {result.micros:6.1f} µs/event = {shown(_a_second(result))}/s a core")
    print(table([*rows(results), *told]))
    return 0


__all__ = ["CeleryState", "Flower", "rows", "run"]

if __name__ == "__main__":
    sys.exit(main())
