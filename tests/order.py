"""In which order tests run, and which at the same time when several processes share them (``-n 2``)."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Files that share one costly server or workers of every pool, or run alone, are run by one process.
TOGETHER = {
    "rabbitmq": "source queues losses_live control_transports purge runs_rabbitmq_live",
    "pools": "control_live control_pools_live ladders_live abort_live",
    "more pools": "control_workers_live revokes_live stamps_live keeping_live parting_live",
    "product": "hub_pace hub product product_load product_pages product_acts product_people product_tended "
    "product_runs",
}
SCOPES = {f"tests/test_{name}.py": scope for scope, names in TOGETHER.items() for name in names.split()}
# The longest first, so that none is left over at the end.
LONGEST = (
    "product", "postgresql", "more pools", "pools", "rabbitmq", "scaling_control", "acts_live", "runs_live",
    "faults", "faults_rabbitmq", "harmless", "stalled", "scaling_live", "crash", "scaling", "siblings",
    "live_page",
)  # fmt: skip
# Seconds that all which run alone may take.
ALONE = 300.0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What must run alone comes first, then the longest files, then other live tests, then all others.

    Of files that are run together those on workers of each pool are in a row.
    """
    if os.environ.get("UMBEL_SOAK") != "1" and (long := [i for i in items if i.get_closest_marker("soak")]):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]

    def place(item: pytest.Item) -> tuple[int, int, bool]:
        if item.get_closest_marker("alone"):
            return 0, 0, False
        name = item.path.stem.removeprefix("test_")
        name = SCOPES.get(f"tests/test_{name}.py", name)
        unwatched = "watched" not in getattr(item, "fixturenames", ())
        if name in LONGEST:
            return 1, LONGEST.index(name), unwatched
        return (2 if item.get_closest_marker("live") else 3), 0, unwatched

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Each process of ``-n 2`` learns where they take turns."""
    node.workerinput["turns"] = str(_turns())


@cache
def _turns() -> Path:
    place = Path(tempfile.mkdtemp(prefix="umbel-turns-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """With several processes a test marked ``alone`` comes first, and the others wait for its end."""
    worker: dict[str, Any] | None = getattr(item.config, "workerinput", None)
    if worker is None:
        return (yield)
    over = Path(worker["turns"]) / "over"
    if item.get_closest_marker("alone") is None:
        _wait_for(over, sum(one.get_closest_marker("alone") is not None for one in item.session.items))
        return (yield)
    try:
        return (yield)
    finally:
        with over.open("a") as marks:
            marks.write(".")


def _wait_for(over: Path, many: int) -> None:
    """Until so many tests are over, each a mark in this file; their process may have died, though."""
    until = time.monotonic() + ALONE
    while many and time.monotonic() < until:
        if over.exists() and over.stat().st_size >= many:
            return
        time.sleep(0.1)  # between two looks, under a deadline


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return SCOPES.get(file, file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
