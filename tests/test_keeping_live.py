"""A revoke that holds although the worker that took it was restarted, without a state file."""

from __future__ import annotations

import time

import pytest

from monitor.control import Keeper, perform
from monitor.models import ControlRecord, StandingRevoke, Task, Worker
from tests.clusters import HOST, PREFORK, Cluster, ask, proved, row_of, state_of
from tests.conftest import wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("watched"),
]


@pytest.mark.parametrize("kept", [True, False], ids=["with the keeper", "without"])
def test_a_revoke_survives_a_restart_of_its_worker(cluster: Cluster, kept: bool) -> None:
    guest, queue = f"guest@{HOST}", f"later.{kept}"
    cluster.launch(guest, like=PREFORK)
    row_of(guest, like=PREFORK)
    keeper = Keeper(perform)
    keeper.look()
    try:
        cluster.answers(guest)
        # It waits in the broker, where no worker that is told can reach it yet.
        uuid = str(cluster.app.send_task("shop.add", (1, 2), queue=queue).id)
        wait_until(lambda: state_of(uuid) == "PENDING", 10)
        assert proved(ask("revoke", uuid), 20).effect == "verified"
        assert keeper.look() == 1

        cluster.processes[guest].ask_to_stop()
        wait_until(lambda: not cluster.processes[guest].running(), 20)
        cluster.launch(guest, like=PREFORK)
        cluster.answers(guest)
        Worker.objects.filter(hostname=guest).update(
            status="online", pid=cluster.processes[guest].pid, online_at=time.time()
        )
        if kept:
            keeper.look()
            again = ControlRecord.objects.filter(username="Umbel").first()
            assert again is not None and again.destinations == [guest]
        assert proved(ask("add_consumer", guest, queue=queue), 20).effect == "verified"
        wait_until(lambda: state_of(uuid) in ("REVOKED", "SUCCESS"), 30)
        # Without a keeper Celery runs it: the worker has forgotten.
        assert state_of(uuid) == ("REVOKED" if kept else "SUCCESS")
        assert keeper.look() == 0
        standing = StandingRevoke.objects.get(uuid=uuid)
        assert standing.moot_at is not None
        assert [worker for worker, _ in standing.again] == ([guest] if kept else [])
    finally:
        cluster.processes.pop(guest).stop()


def test_a_revoked_task_that_starts_all_the_same_is_terminated_if_asked(cluster: Cluster) -> None:
    guest, queue = f"guest@{HOST}", "later.ended"
    cluster.launch(guest, like=PREFORK)
    row_of(guest, like=PREFORK)
    try:
        cluster.answers(guest)
        uuid = str(cluster.app.send_task("shop.nap", (60,), queue=queue).id)
        wait_until(lambda: state_of(uuid) == "PENDING", 10)
        record = proved(ask("revoke", uuid, if_started="SIGTERM"), 20)
        (sight,) = record.seen
        # Its message waits where nobody takes it from; no worker has it.
        assert sight["places"] | {"answered": ""} == {
            **{"active": "no", "reserved": "no", "scheduled": "no", "answered": ""},
            **{"queue": "yes", "unacknowledged": "no", "name": queue},
        }
        cluster.processes[guest].ask_to_stop()
        wait_until(lambda: not cluster.processes[guest].running(), 20)
        cluster.launch(guest, like=PREFORK)
        cluster.answers(guest)
        Worker.objects.filter(hostname=guest).update(status="online", online_at=time.time())
        assert proved(ask("add_consumer", guest, queue=queue), 20).effect == "verified"
        wait_until(lambda: state_of(uuid) == "STARTED", 20)
        # As the engine's row has it: a start well after the revoke.
        Task.objects.filter(uuid=uuid).update(started_at=time.time() + 5)
        keeper = Keeper(perform)
        keeper.look()
        keeper.look()
        ended = ControlRecord.objects.get(username="Umbel", command="terminate")
        assert (ended.targets, ended.arguments) == ([uuid], {"signal": "SIGTERM"})
        assert "started all the same" in ended.reason
        wait_until(lambda: state_of(uuid) == "REVOKED", 10)
        places = proved(ended, 20).seen[0]["places"]
        assert (places["process"], places["active"], places["unacknowledged"]) == ("no", "no", "no")
    finally:
        cluster.processes.pop(guest).stop()
