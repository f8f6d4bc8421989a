"""Limits, queues, events, pools and shutdown against a real worker of each pool, success and refusal."""

from __future__ import annotations

import pytest

from monitor.control.inspecting import limits_on, queues_of, stats_of
from monitor.models import Worker
from tests.clusters import (
    BEAT,
    HOST,
    POOLS,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    ask,
    proved,
    refused,
    row_of,
    state_of,
)
from tests.conftest import wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("watched"),
]

every_pool = pytest.mark.parametrize("worker", POOLS, ids=lambda name: name.partition("@")[0])


def limits(worker: str, task: str = "shop.add") -> dict[str, str]:
    return (limits_on(worker) or {})[task]


@every_pool
def test_a_rate_limit_is_set_seen_and_taken_off(worker: str) -> None:
    record = proved(ask("rate_limit", worker, task="shop.add", rate="7/m"))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "rate limit none → 7/m"), record.evidence
    assert limits(worker)["rate_limit"] == "7/m"
    record = proved(ask("rate_limit", worker, task="shop.add", rate="0/s"))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "rate limit 7/m → none"), record.evidence


@every_pool
def test_time_limits_keep_the_one_that_was_not_named_and_claim_no_more_than_is_true(worker: str) -> None:
    record = proved(ask("time_limit", worker, task="shop.nap", soft="30", hard="60"))
    assert record.effect == "partly", record.evidence
    assert (
        "It says soft 30 s, hard 60 s, and enforces that once it has connected to the broker anew"
        in record.evidence
    )
    record = proved(ask("time_limit", worker, task="shop.nap", soft="20"))
    told = limits(worker, "shop.nap")
    assert (float(told["soft_time_limit"]), float(told["time_limit"])) == (20.0, 60.0)
    assert record.arguments["before"] == "soft 30, hard 60"
    assert "must be under the hard one (60 s)" in refused("time_limit", worker, task="shop.nap", soft="61")
    proved(ask("time_limit", worker, task="shop.nap", soft="", hard=""))
    assert not {"soft_time_limit", "time_limit"} & limits(worker, "shop.nap").keys()


@every_pool
def test_a_queue_is_consumed_and_no_longer_and_the_last_one_is_asked_about(
    cluster: Cluster, worker: str
) -> None:
    own = worker.partition("@")[0]
    record = proved(ask("add_consumer", worker, queue=f"{own}.more"))
    assert record.effect == "verified", record.evidence
    uuid = str(cluster.app.send_task("shop.add", (1, 2), queue=f"{own}.more").id)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 10)
    assert "consumes" in refused("add_consumer", worker, queue=f"{own}.more")
    record = proved(ask("cancel_consumer", worker, queue=f"{own}.more"))
    assert (record.effect, record.seen[0]["text"]) == ("verified", f"It consumes {own}."), record.evidence
    assert f"does not consume 'nothing'; it consumes {own}." in refused(
        "cancel_consumer", worker, queue="nothing"
    )
    assert "uses for itself" in refused("add_consumer", worker, queue="unacked")
    assert "is the last queue" in refused("cancel_consumer", worker, queue=own)
    assert queues_of(worker) == {own}


def test_the_last_queue_goes_when_it_is_meant(cluster: Cluster) -> None:
    record = proved(ask("cancel_consumer", THREADS, queue="wire-t", last=True))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "It consumes no queue."), record.evidence
    assert proved(ask("add_consumer", THREADS, queue="wire-t")).effect == "verified"


@every_pool
def test_a_pool_is_restarted_and_tasks_run_afterwards(cluster: Cluster, worker: str) -> None:
    record = proved(ask("pool_restart", worker), 30)
    if worker in (PREFORK, SCALED):
        # Measured: Celery says "reload started", replaces one idle process, and the rest as they take tasks.
        assert record.effect in ("verified", "partly"), record.evidence
        assert "old pool process" in record.evidence
    else:
        assert record.effect == "partly", record.evidence
        assert "no processes of its own" in record.evidence
    uuid = cluster.start("shop.add", worker, 1, 2)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 15)


def test_a_pool_that_may_not_restart_says_which_setting_is_missing() -> None:
    Worker.objects.filter(hostname=PREFORK).update(details={"conf": {}})
    assert "without worker_pool_restarts" in refused("pool_restart", PREFORK)
    Worker.objects.filter(hostname=PREFORK).update(details={})
    assert "not known yet" in refused("pool_restart", PREFORK)


@every_pool
def test_events_that_e_turned_on_cannot_be_turned_off_and_it_is_said(
    cluster: Cluster, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 4.0)
    record = ask("disable_events", worker)
    assert record.replies[0]["text"]
    uuids: list[str] = []

    def still_told() -> bool:
        uuids.append(cluster.start("shop.add", worker, 1, 2))
        record.refresh_from_db()
        return record.completed_at is not None

    wait_until(still_told, 15, every=0.5)
    assert record.effect == "none", record.evidence
    assert "started with -E" in record.evidence


@every_pool
def test_a_ping_is_answered(worker: str) -> None:
    record = proved(ask("ping", worker))
    assert (record.effect, record.evidence) == ("verified", f"{worker} answered. It answered."), (
        record.evidence
    )


def test_a_ping_of_several_names_the_one_that_is_silent(cluster: Cluster) -> None:
    row_of(f"mute@{HOST}", PREFORK)
    record = proved(ask("ping", PREFORK, BEAT, f"mute@{HOST}"), 20)
    assert record.effect == "partly", record.evidence
    assert f"2 of 3 workers answered; mute@{HOST} did not." in record.evidence


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("rate_limit", {"task": "shop.add", "rate": "NaN"}, "'NaN' is not a rate"),
        ("rate_limit", {"task": "shop.add", "rate": "10/x"}, "'10/x' is not a rate"),
        ("rate_limit", {"task": "shop.add", "rate": "-1/s"}, "'-1/s' is not a rate"),
        ("rate_limit", {"task": "shop.ad", "rate": "1/s"}, "has no task 'shop.ad'. It has shop.add"),
        ("time_limit", {"task": "shop.add", "soft": "nan"}, "'nan' is not a soft time limit"),
        ("time_limit", {"task": "shop.add", "hard": "-5"}, "'-5' is not a hard time limit"),
        ("time_limit", {"task": "shop.add"}, "Neither the soft nor the hard"),
        ("add_consumer", {"queue": ""}, "'' is not the name of a queue"),
        ("add_consumer", {"queue": "a\nb"}, "is not the name of a queue"),
    ],
)
def test_what_celery_takes_and_should_not_is_refused_here(
    name: str, given: dict[str, str], words: str
) -> None:
    assert words in refused(name, PREFORK, **given)


@every_pool
def test_a_worker_is_shut_down_when_its_work_is_done(cluster: Cluster, worker: str) -> None:
    guest = f"guest-{worker}"
    cluster.launch(guest, like=worker)
    row_of(guest, like=worker)
    try:
        cluster.answers(guest)
        record = proved(ask("shutdown", guest), 30)
        assert record.effect == "verified", record.evidence
        assert record.evidence.startswith(f"Sent to {guest}; a shutdown is never answered.")
        wait_until(lambda: not cluster.processes[guest].running(), 20)
        assert "is offline" in refused("shutdown", guest)
    finally:
        cluster.processes.pop(guest).stop()


def test_a_shutdown_waits_for_what_runs_and_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 3.0)
    guest = f"guest@{HOST}"
    cluster.launch(guest, like=PREFORK)
    row_of(guest, like=PREFORK)
    try:
        cluster.answers(guest)
        uuid = cluster.running(guest, 8)
        record = proved(ask("shutdown", guest), 30)
        assert record.effect == "partly", record.evidence
        assert "It is stopping: 1 task was still running there" in record.evidence
        wait_until(lambda: not cluster.processes[guest].running(), 30)
        assert state_of(uuid) in ("SUCCESS", "STARTED"), (
            "the end may have been said after the goodbye, or not"
        )
    finally:
        cluster.processes.pop(guest).stop()


def test_a_solo_worker_at_work_hears_nothing_until_it_is_done(cluster: Cluster) -> None:
    cluster.start("shop.nap", SOLO, 5)
    wait_until(lambda: stats_of(SOLO, 0.3) is None, 10, what="the task's start")
    assert "did not answer within 2 s" in refused("rate_limit", SOLO, task="shop.add", rate="1/s")
    wait_until(lambda: stats_of(SOLO, 1.0), 10)
    assert proved(ask("rate_limit", SOLO, task="shop.add", rate="0")).effect == "verified"
