"""Limits, queues, events and ping against a real worker of each pool, success and refusal."""

from __future__ import annotations

import pytest

from monitor.control.inspecting import limits_on, queues_of, seen_on
from monitor.models import Task, Worker
from tests.clusters import (
    BEAT,
    GEVENT,
    HOST,
    ON_EACH_POOL,
    POOLS,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    ask,
    every_pool,
    proved,
    refused,
    row_of,
)
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL


def limits(worker: str, task: str = "shop.add") -> dict[str, str]:
    return (limits_on(worker) or {})[task]


@every_pool
def test_a_rate_limit_is_set_seen_and_taken_off(worker: str) -> None:
    record = proved(ask("rate_limit", worker, task="shop.add", rate="7/m"))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "rate limit none → 7/m"), record.evidence
    assert limits(worker)["rate_limit"] == "7/m"
    record = proved(ask("rate_limit", worker, task="shop.add", rate="0/s"))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "rate limit 7/m → none"), record.evidence
    assert refused("rate_limit", worker, task="shop.ad", rate="1/s").startswith(
        f"{worker} has no task 'shop.ad'. It has shop.add"
    )
    assert limits(worker)["rate_limit"] == "0"


def test_a_rate_limit_holds_on_every_pool(cluster: Cluster) -> None:
    for worker in POOLS:
        assert proved(ask("rate_limit", worker, task="shop.mark", rate="4/s")).effect == "verified"
    sent = {worker: [cluster.marking(worker) for _ in range(5)] for worker in POOLS}
    for worker, uuids in sent.items():
        for uuid in uuids:
            cluster.ended(uuid, "SUCCESS")
        rows = Task.objects.filter(uuid__in=uuids).values_list("marks", flat=True)
        began = sorted(mark[4] for marks in rows for mark in marks if mark[0] == "started")
        # Five at four a second: one at once, and each of the others a quarter later.
        assert began[-1] - began[0] > 0.9, (worker, began)
        assert proved(ask("rate_limit", worker, task="shop.mark", rate="0")).effect == "verified"


LATER = "once it has connected to the broker anew or restarted its pool; a restart of the worker forgets it."
ENFORCED = {
    PREFORK: f"enforces that {LATER}",
    SCALED: f"enforces that {LATER}",
    GEVENT: f"enforces the hard one alone (a gevent pool knows no soft limit), {LATER}",
    THREADS: "never enforces them: a threads pool cannot end a task that runs too long.",
    SOLO: "never enforces them: a solo pool cannot end a task that runs too long.",
}


@every_pool
def test_time_limits_keep_the_one_that_was_not_named_and_claim_no_more_than_is_true(worker: str) -> None:
    record = proved(ask("time_limit", worker, task="shop.nap", soft="30", hard="60"))
    assert (record.effect, record.evidence) == (
        "partly",
        f"{worker} answered. It says soft 30 s, hard 60 s, and {ENFORCED[worker]}",
    )
    record = proved(ask("time_limit", worker, task="shop.nap", soft="20"))
    told = limits(worker, "shop.nap")
    assert (float(told["soft_time_limit"]), float(told["time_limit"])) == (20.0, 60.0)
    assert record.arguments["before"] == "soft 30, hard 60"
    assert "must be under the hard one (60 s)" in refused("time_limit", worker, task="shop.nap", soft="61")
    proved(ask("time_limit", worker, task="shop.nap", soft="", hard=""))
    assert not {"soft_time_limit", "time_limit"} & limits(worker, "shop.nap").keys()


def test_time_limits_are_enforced_where_the_receipt_says_so(cluster: Cluster) -> None:
    for worker in POOLS:
        proved(ask("time_limit", worker, task="shop.nap", soft="0.5", hard="1"))
    # Not yet: as the receipt says.
    naps = [cluster.start("shop.nap", worker, 1.3) for worker in POOLS]
    for uuid in naps:
        cluster.ended(uuid, "SUCCESS")
    restart = {"destination": list(POOLS), "reply": True, "limit": len(POOLS)}
    cluster.app.control.broadcast("pool_restart", {"reload": False}, **restart)
    naps = [cluster.start("shop.nap", worker, 1.6) for worker in POOLS]
    why = dict.fromkeys((PREFORK, SCALED), "SoftTimeLimitExceeded") | {GEVENT: "TimeLimitExceeded"}
    for worker, uuid in zip(POOLS, naps, strict=True):
        cluster.ended(uuid, "FAILURE" if worker in why else "SUCCESS")
        result = cluster.app.AsyncResult(uuid).result
        assert type(result).__name__ == why.get(worker, "float"), (worker, result)
        proved(ask("time_limit", worker, task="shop.nap", soft="", hard=""))
    before = {worker: seen_on([worker])[worker].processes for worker in why if worker != GEVENT}
    cluster.app.control.broadcast("pool_restart", {"reload": False}, **restart)
    for worker in POOLS:
        cluster.works(worker)
    for worker, processes in before.items():
        cluster.renewed(worker, processes)


@every_pool
def test_a_queue_is_consumed_and_no_longer_and_the_last_one_is_asked_about(
    cluster: Cluster, worker: str
) -> None:
    own = worker.partition("@")[0]
    record = proved(ask("add_consumer", worker, queue=f"{own}.more"))
    assert record.effect == "verified", record.evidence
    uuid = str(cluster.app.send_task("shop.add", (1, 2), queue=f"{own}.more").id)
    cluster.ended(uuid, "SUCCESS")
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


def test_events_that_e_turned_on_cannot_be_turned_off_on_any_pool_and_it_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 3.0)
    record = ask("disable_events", *POOLS)
    assert {one["text"] for one in record.replies} == {"task events already disabled"}

    def still_told() -> bool:
        for worker in POOLS:
            cluster.start("shop.add", worker, 1, 2)
        record.refresh_from_db()
        return record.completed_at is not None

    wait_until(still_told, 15, every=0.5)
    assert record.effect == "none", record.evidence
    assert {(one["target"], one["seen"], one["text"]) for one in record.seen} == {
        (worker, False, "Task events still come: it was started with -E, which this cannot undo.")
        for worker in POOLS
    }


@every_pool
def test_events_are_switched_on_and_the_first_one_is_waited_for(cluster: Cluster, worker: str) -> None:
    record = ask("enable_events", worker)
    cluster.works(worker)
    record = proved(record)
    assert (record.effect, record.evidence) == ("verified", f"{worker} answered. It sends task events.")


@every_pool
def test_a_ping_is_answered(worker: str) -> None:
    record = proved(ask("ping", worker))
    assert (record.effect, record.evidence) == ("verified", f"{worker} answered. It answered."), (
        record.evidence
    )
    Worker.objects.filter(hostname=worker).update(status="offline", reason="said goodbye")
    assert refused("ping", worker) == f"{worker} is offline (said goodbye): it cannot be asked."


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


def test_a_solo_worker_at_work_hears_nothing_until_it_is_done(cluster: Cluster) -> None:
    with cluster.busy(SOLO):
        assert "did not answer within 2 s" in refused("rate_limit", SOLO, task="shop.add", rate="1/s")
        record = proved(ask("ping", SOLO))
        assert (record.effect, record.evidence) == (
            "none",
            f"{SOLO} did not answer. It did not answer: it may be gone, or a solo worker at work.",
        )
    assert proved(ask("rate_limit", SOLO, task="shop.add", rate="0")).effect == "verified"
