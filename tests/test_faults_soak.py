"""The long tests of faults: ``make soak``. What they cover: ``test_faults``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from monitor import models
from tests.conftest import shop, wait_until
from tests.engines import feed
from tests.faults import QUICK, Load, Rig, gaps

pytestmark = [pytest.mark.live, pytest.mark.soak, pytest.mark.django_db(transaction=True)]


@pytest.mark.parametrize("down", [0.1, 1.0, 10.0, 60.0])
def test_restarts_of_redis_leave_no_task_missing_or_wrong(rig: Rig, worker: Any, down: float) -> None:
    """R01. What the backend never learnt (its write was lost with Redis) no row may claim."""
    hosts = [worker(rig.url, name=f"re{n}", queues=("re",), options=QUICK).hostname for n in range(3)]
    rig.online(*hosts)
    with Load(rig.url, ["re"], rate=40) as load:
        time.sleep(2)
        rig.server.restart(down=down)
        wait_until(lambda: rig.engine.feed.connected, 60)
        time.sleep(5)
    app = shop(rig.url)
    wait_until(lambda: app.control.inspect(timeout=2).active() != {}, 30)
    ended = {"SUCCESS", "FAILURE"}
    wait_until(lambda: not {u: w for u, w in rig.wrong(load.uuids).items() if w[1] in ended}, 120, every=0.5)
    assert feed().accounting.balanced
    assert len(gaps()) >= 1


@pytest.mark.parametrize(("kills", "every"), [(10, 2.0), (60, 0.5)])
def test_many_kills_leave_no_task_missing_or_wrong(rig: Rig, worker: Any, kills: int, every: float) -> None:
    """R05, R06."""
    one = worker(rig.url, name="kills", queues=("kills",), options=QUICK).hostname
    rig.online(one)
    with Load(rig.url, ["kills"], rate=60) as load:
        for _ in range(kills):
            rig.cut()
            time.sleep(every)
    rig.all_right(load.uuids, 60)
    rig.missed_is_exact(one, load.uuids)


def test_twenty_seconds_without_redis_are_a_gap_and_no_drift(rig: Rig, worker: Any) -> None:
    """R02, R03."""
    one = worker(rig.url, name="stand", queues=("stand",), options=QUICK).hostname
    rig.online(one)
    with Load(rig.url, ["stand"], rate=30) as load:
        rig.pause(20)
        time.sleep(5)
        with rig.stopped():
            time.sleep(20)
        time.sleep(10)
    rig.all_right(load.uuids, 60)
    drift = models.Worker.objects.get(hostname=one).drift
    assert drift is None or abs(drift) < 1.0


def test_half_an_hour_without_a_loss_counts_none_and_leaks_nothing(rig: Rig, worker: Any) -> None:
    """R19, R46: on three pools; UMBEL_SOAK_MINUTES says how long."""
    minutes = float(os.environ.get("UMBEL_SOAK_MINUTES", "30"))
    pools = ["prefork", "threads", "gevent"]
    hosts = [worker(rig.url, pool=pool, name=pool, queues=("calm",)).hostname for pool in pools]
    rig.online(*hosts)
    with Load(rig.url, ["calm"], rate=60) as load:
        time.sleep(60)
        files = len(list(Path("/proc/self/fd").iterdir()))
        time.sleep(minutes * 60)
    rig.all_right(load.uuids, 120)
    assert feed().accounting.missed == 0
    assert not gaps()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 10
