"""A revoke that holds although the worker that took it was restarted, without a state file."""

from __future__ import annotations

import time

import pytest

from monitor.control import Keeper, perform
from monitor.models import ControlRecord, StandingRevoke, Task
from tests.clusters import ON_EACH_POOL, PREFORK, Cluster, ask, proved, state_of
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL


@pytest.mark.parametrize("kept", [True, False], ids=["with the keeper", "without"])
def test_a_revoke_survives_a_restart_of_its_worker(cluster: Cluster, kept: bool) -> None:
    queue, keeper = f"later.{kept}", Keeper(perform)
    keeper.look()
    with cluster.guest(PREFORK) as guest:
        # It waits in the broker, where no worker that is told can reach it yet.
        uuid = cluster.marking(guest, queue=queue)
        wait_until(lambda: state_of(uuid) == "PENDING", 10)
        assert proved(ask("revoke", uuid), 20).effect == "verified"
        assert keeper.look() == 1
        cluster.restart(guest, PREFORK)
        if kept:
            keeper.look()
            again = ControlRecord.objects.filter(username="Umbel").first()
            assert again is not None and again.destinations == [guest]
        assert proved(ask("add_consumer", guest, queue=queue), 20).effect == "verified"
        # Without a keeper Celery runs it: the worker has forgotten.
        cluster.ended(uuid, "REVOKED" if kept else "SUCCESS")
        assert cluster.ran(uuid) == (not kept)
        assert keeper.look() == 0
        standing = StandingRevoke.objects.get(uuid=uuid)
        assert standing.moot_at is not None
        assert [worker for worker, _ in standing.again] == ([guest] if kept else [])


def test_a_revoked_task_that_starts_all_the_same_is_terminated_if_asked(cluster: Cluster) -> None:
    queue = "later.ended"
    with cluster.guest(PREFORK) as guest:
        uuid = cluster.start("shop.nap", guest, 60, queue=queue)
        wait_until(lambda: state_of(uuid) == "PENDING", 10)
        record = proved(ask("revoke", uuid, if_started="SIGTERM"), 20)
        (sight,) = record.seen
        # Its message waits where nobody takes it from; no worker has it.
        assert sight["places"] | {"answered": ""} == {
            **{"active": "no", "reserved": "no", "scheduled": "no", "answered": ""},
            **{"queue": "yes", "unacknowledged": "no", "name": queue},
        }
        cluster.restart(guest, PREFORK)
        assert proved(ask("add_consumer", guest, queue=queue), 20).effect == "verified"
        cluster.began(uuid)
        # As the engine's row has it: a start well after the revoke.
        Task.objects.filter(uuid=uuid).update(started_at=time.time() + 5)
        keeper = Keeper(perform)
        keeper.look()
        keeper.look()
        ended = ControlRecord.objects.get(username="Umbel", command="terminate")
        assert (ended.targets, ended.arguments) == ([uuid], {"signal": "SIGTERM"})
        assert "started all the same" in ended.reason
        cluster.ended(uuid, "REVOKED")
        places = proved(ended, 20).seen[0]["places"]
        assert (places["process"], places["active"], places["unacknowledged"]) == ("no", "no", "no")
