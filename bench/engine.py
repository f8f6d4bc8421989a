"""The engine alone, as a process that says each quarter of a second how far it is: `python -m bench.engine`.

Composed as `umbel` composes it, without pages. A line of JSON on standard output is a ``report.Status``.
At SIGTERM it stops cleanly, and writes what it ended with to ``--final``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.sampling import Sampler

EVERY = 0.25  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--history", choices=("sqlite", "postgresql", "off"), default="sqlite")
    parser.add_argument("--final", type=Path, help="where the ends of tasks are written, with --history off")
    parser.add_argument("--profile", type=Path, help="where a sampled profile is written")
    given = parser.parse_args(argv)

    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from monitor import broker as brokers
    from monitor import redact
    from monitor.engine import Engine, Options
    from monitor.store import Store

    call_command("migrate", verbosity=0, interactive=False)
    broker = brokers.Broker(settings.UMBEL_BROKER)
    brokers.configure(broker)
    nothing = _nothing() if given.history == "off" else None
    store: Store = nothing or Store(settings.UMBEL_RETENTION_DAYS, 100_000_000)
    engine = Engine(Options(broker=broker, store=store, redactor=redact.DEFAULT, publish=lambda topics: None))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    engine.start()
    sampler = Sampler() if given.profile else None
    if sampler is not None:
        sampler.start()
    while not stopping.wait(EVERY):
        print(json.dumps(_status(engine)), flush=True)
        if engine.failed:
            print(f"The engine died: {engine.failed}", file=sys.stderr)
            return 1
    if sampler is not None:
        given.profile.write_text(json.dumps(sampler.finish()))
    engine.stop(60)
    print(json.dumps(_status(engine)), flush=True)
    if nothing is not None and given.final:
        given.final.write_text(json.dumps(nothing.rows()))
    return 1 if engine.failed else 0


def _status(engine: Any) -> dict[str, Any]:
    accounting = engine.cluster.accounting
    queued = engine.cluster.waiting
    return {
        "seen": accounting.received,
        "waiting": queued + engine.unsaved,
        "lost": accounting.dropped,
        "cpu": time.process_time(),
        "at": time.time(),
        "extra": {
            "connected": bool(engine.feed.connected),
            "applied": accounting.applied,
            "duplicate": accounting.duplicate,
            "malformed": accounting.malformed,
            "refused": dict(accounting.refused),
            "limits": dict(engine.feed.limits),
            "missed": accounting.missed,
            "live": engine.feed.tasks_live,
            "unsaved": engine.unsaved,
            "crashes": dict(engine.crashes),
            "objects": gc.get_count()[2],
            "failed": engine.failed,
            "lag": engine.feed.lag,
        },
    }


def _nothing() -> Any:
    """A store that keeps of each task only what the ledger asks: the engine without history."""
    from monitor.records import TaskRecord
    from monitor.store import Store

    class Nothing(Store):
        def __init__(self) -> None:
            super().__init__(14.0, 10**9)
            self._ends: dict[str, tuple[str, str, str, int]] = {}

        def write(self, records: Sequence[Any], now: float) -> None:
            for record in records:
                if type(record) is TaskRecord:
                    self._ends[record.uuid] = (record.state, record.name, record.worker, record.retries)

        def load(self, uuids: Any) -> list[TaskRecord]:
            return []

        def prune(self, now: float) -> int:
            return 0

        def rows(self) -> list[tuple[str, str, str, str, int]]:
            return [(uuid, *end) for uuid, end in self._ends.items()]

    return Nothing()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
