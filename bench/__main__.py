"""All benches in one run and one table: `make bench`, or `python -m bench --quick --only ingest,memory`.

Each part is a module with ``run(options) -> list[Row]``. Its rows are kept in .umbel/bench, so that parts run
on different evenings still make one docs/performance.md (``--write``); a whole run writes it by itself.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import ROOT, Options, Row, end_cleanly, machine, say, table

# In the order of section 2: what it measures, for the note.
PARTS = {
    "ingest": "events, CPU and the highest rate held, against Flower 2.2, Celery's State and the raw limit",
    "memory": "resident memory of the engine",
    "pages": "every page and its live window over many stored tasks, as whole requests",
    "push": "from a worker's publish to the browser's DOM",
    "fanout": "many live browsers on one web process",
    "start": "from the command to the first page",
}
KEPT = ROOT / ".umbel" / "bench" / "results"
NOTE = ROOT / "docs" / "performance.md"
BY_HAND = "<!-- by hand, kept by `make bench` from here on -->"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--folder", type=Path, help="where data go; a temporary folder else, removed at the end"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md from all that is kept"
    )
    given = parser.parse_args(argv)
    names = [name for name in given.only.split(",") if name]
    if unknown := set(names) - set(PARTS):
        parser.error(f"Not known: {', '.join(sorted(unknown))}. There are: {', '.join(PARTS)}.")
    end_cleanly()
    failed: set[str] = set()
    if not given.write or given.only != parser.get_default("only"):
        failed = _run(names, given.quick, given.folder, given.seed)
    results = _kept(given.quick)
    # What is kept of an earlier run is not this run's.
    rows = [row for name in names if name not in failed for row in results.get(name, {}).get("rows", [])]
    print(_tables(rows))
    for name in sorted(failed):
        print(f"{name} FAILED: there are no figures of it.")
    if given.write or (set(names) == set(PARTS) and not given.quick and not failed):
        NOTE.write_text(note(results, _by_hand()))
        say(f"Written: {NOTE.relative_to(ROOT)}")
    return 1 if failed else 0


def _run(names: Sequence[str], quick: bool, place: Path | None, seed: int) -> set[str]:
    """Each part in turn; one that fails does not take the others with it. Which did."""
    failed = set()
    with tempfile.TemporaryDirectory(prefix="umbel-bench-", dir=place, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o711)  # PostgreSQL's own user passes through
        for name in names:
            say(f"{name}: {PARTS[name]} …")
            began = time.monotonic()
            try:
                rows = importlib.import_module(f"bench.{name}").run(Options(quick, folder, seed))
            except Exception as error:  # noqa: BLE001 - the edge: the other parts still have their say
                failed.add(name)
                say(f"{name} FAILED: {type(error).__name__}: {error}")
                continue
            seconds = time.monotonic() - began
            _keep(name, quick, rows, seconds)
            say(f"{name}: {seconds:.0f} s")
    return failed


def _keep(name: str, quick: bool, rows: Sequence[Row], seconds: float) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    result = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }
    _path(name, quick).write_text(json.dumps(result, indent=1))


def _kept(quick: bool) -> dict[str, dict[str, Any]]:
    results = {}
    for name in PARTS:
        path = _path(name, quick)
        if path.exists():
            results[name] = json.loads(path.read_text())
            results[name]["rows"] = [Row(**row) for row in results[name]["rows"]]
    return results


def _path(name: str, quick: bool) -> Path:
    return KEPT / f"{name}{'-quick' if quick else ''}.json"


def _tables(rows: Sequence[Row]) -> str:
    """What has a bound first, then what has none."""
    bound, other = [row for row in rows if row.must], [row for row in rows if not row.must]
    texts = [table(bound)] if bound else []
    if other:
        texts += ["Measured beside it:", table(other)]
    notes = [f"- {row.name}: {row.note}" for row in rows if row.note]
    return "\n\n".join([*texts, *(["\n".join(notes)] if notes else [])]) or "Nothing is measured yet."


def note(results: dict[str, dict[str, Any]], by_hand: str) -> str:
    """docs/performance.md, from the parts that were run in full."""
    rows = [row for result in results.values() for row in result["rows"]]
    lines = [f"| {name} | {what} | {_when(results.get(name))} |" for name, what in PARTS.items()]
    said = _said(rows, [name for name in PARTS if name not in results])
    return (
        "# Performance\n\n"
        "Written by `make bench` on a fresh clone; `make bench QUICK=1` takes smaller sizes, and\n"
        "`ONLY=ingest,memory` chooses parts. CPU is user and system time of a reader and its children,\n"
        "less what it uses when idle; figures are medians of alternating rounds. Broker, load generator\n"
        "and contender share the machine: times, and rates held, are of all of them together.\n\n"
        f"Machine: {machine()}.\n\n"
        f"{_tables(rows)}\n\n{said}\n\n"
        "| part | measures | run |\n| --- | --- | --- |\n" + "\n".join(lines) + f"\n\n{BY_HAND}\n{by_hand}"
    )


def _said(rows: Sequence[Row], unmeasured: Sequence[str]) -> str:
    """Which bounds are met: never a word for what was not measured."""
    missed = [row.name for row in rows if row.met is False]
    sentences = [f"Not met: {'; '.join(missed)}."] if missed else []
    if rows and not missed:
        sentences.append("Every bound that was measured is met." if unmeasured else "Every bound is met.")
    if unmeasured:
        sentences.append(f"Not measured: {', '.join(unmeasured)}.")
    return " ".join(sentences)


def _when(result: dict[str, Any] | None) -> str:
    return f"{result['at']}, {result['seconds']} s" if result else "not run"


def _by_hand() -> str:
    text = NOTE.read_text() if NOTE.exists() else ""
    return text.partition(BY_HAND)[2].lstrip("\n")


if __name__ == "__main__":
    sys.exit(main())
