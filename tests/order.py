"""In which order tests run, and which at the same time when several processes share them (``-n 2``)."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Files that share a costly server, or workers of every pool, are run by one process.
_SHARED = {
    "rabbitmq": ("source", "queues", "losses_live", "control_transports"),
    "pools": ("control_live", "control_pools_live", "ladders_live", "abort_live"),
    "more pools": ("control_workers_live", "revokes_live", "stamps_live", "keeping_live", "parting_live"),
}
TOGETHER = {f"tests/test_{name}.py": shared for shared, names in _SHARED.items() for name in names}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Live tests come first, so that no long file is left over at the end; those on each pool in a row.

    Browsers come last: once Playwright runs, its loop stays in this thread, and no other can run there.
    """
    if os.environ.get("UMBEL_SOAK") != "1" and (long := [i for i in items if i.get_closest_marker("soak")]):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("browser"):
            return 3
        if not item.get_closest_marker("live"):
            return 2
        return 0 if "watched" in getattr(item, "fixturenames", ()) else 1

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
    """With several processes a test marked ``alone`` waits for the others' tests, and they for it."""
    worker: dict[str, Any] | None = getattr(item.config, "workerinput", None)
    if worker is None:
        return (yield)
    with _turn(Path(worker["turns"]), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(place: Path, alone: bool) -> Iterator[None]:
    """One holds the room alone, or many share it. Who waits for it holds the gate: no one else begins."""
    with (place / "gate").open("w") as gate, (place / "room").open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
