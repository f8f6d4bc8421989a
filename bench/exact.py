"""Whether history ends as the ledger says: with events shuffled and twice, and over a restart."""

from __future__ import annotations

import time
from pathlib import Path

from bench.contenders import Umbel, UmbelPostgres
from bench.generator import EVENTS_A_TASK, Plan
from bench.ledger import Verdict, check
from bench.load import Load
from bench.report import Row, say, share, until

EVENTS = 40_000


def run(folder: Path, broker: str, database: str, seed: int) -> list[Row]:
    """Rows for SQLite, and for PostgreSQL when there is one."""
    plan = Plan(tasks=int(EVENTS / EVENTS_A_TASK), rate=8_000, seed=seed)
    rows = []
    for what, trial in (("shuffled and duplicated", shuffled), ("split over a restart", split)):
        verdicts = []
        for kind, url in ((Umbel, ""), (UmbelPostgres, database)):
            if kind is Umbel or url:
                place = folder / f"{what.split()[0]}-{kind.name}"
                verdicts.append(trial(kind(place, broker, url), plan))
                say(f"  {what}, {kind.name}: {verdicts[-1]}")
                for example in verdicts[-1].examples:
                    say(f"    {example}")
        exact = all(verdict.exact for verdict in verdicts)
        right = sum(verdict.right for verdict in verdicts)
        total = right + sum(verdict.wrong + verdict.missing for verdict in verdicts)
        note = "" if exact else "; ".join(map(str, verdicts))
        rows.append(
            Row(f"final states equal to the ledger, {what}", "100 %", share(right, total), "", exact, note)
        )
    return rows


def shuffled(umbel: Umbel, plan: Plan) -> Verdict:
    """Each message up to 200 places from its own, one in twenty twice."""
    try:
        with Load(umbel.broker, umbel.folder, plan, ahead=True, disorder=True) as load:
            load.ready()
            umbel.start()
            load.go()
            ledger = load.wait(600)
        umbel.caught_up(ledger.events, 60)
        return check(ledger, umbel.rows())
    finally:
        umbel.stop()


def split(umbel: Umbel, plan: Plan) -> Verdict:
    """The engine stops with thousands of tasks half told, starts again, and hears the rest."""
    events = int(plan.tasks * EVENTS_A_TASK)
    try:
        with Load(umbel.broker, umbel.folder, plan, credit=True) as load:
            umbel.start()
            load.go()
            load.allow(events // 2)
            umbel.caught_up(events // 2, 60)
            umbel.stop()
            umbel.again()
            load.allow(10 * events)
            ledger = load.wait(600)
        until(lambda: umbel.status().seen > 0, 30, "events after the restart")
        umbel.caught_up(10 * events, 60)
        return check(ledger, umbel.rows())
    finally:
        umbel.stop()
        time.sleep(0.1)
