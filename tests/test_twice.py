"""Tasks that ran twice, and those that will: by their events and the visibility timeout."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from django.test import Client

from dashboard import access
from dashboard.queries.redelivery import Timeout, forecast, timeout_of
from monitor.cluster.twice import twice
from monitor.models import Feed, Task, Worker
from monitor.records import FeedRecord
from tests.stories import Story, V, W


def test_one_attempt_on_two_workers_at_once_ran_twice() -> None:
    story = Story().received(worker=W).tell("started", W).received(worker=V).tell("started", V)
    pair = twice(story.row())
    assert pair is not None
    assert (pair[0].worker, pair[1].worker, pair[2]) == (W, V, True)
    (told,) = story.cluster.feed(story.now).twice
    assert (told.uuid, told.workers, told.together) == ("u1", [W, V], True)
    # Its ends come, and it is not told again; after an hour it is not told any more.
    story.tell("succeeded", W, result="1").tell("succeeded", V, result="1").row()
    assert len(story.cluster.feed(story.now).twice) == 1
    assert story.cluster.feed(story.now + 3601).twice == []


def test_one_worker_that_starts_it_again_while_it_runs_ran_it_twice() -> None:
    story = Story().received().tell("started").received().tell("started")
    assert twice(story.row()) is not None


def test_one_that_ran_again_after_its_end_ran_twice_but_not_together() -> None:
    story = Story().received().tell("started").tell("succeeded", result="1")
    story.now += 60
    story.received(worker=V).tell("started", V)
    pair = twice(story.row())
    assert pair is not None and pair[2] is False


@pytest.mark.parametrize("how", ["retried", "requeued", "lost", "received only", "restarted"])
def test_what_is_meant_to_run_again_did_not_run_twice(how: str) -> None:
    story = Story().received().tell("started")
    if how == "retried":
        story.tell("retried", exception="E()", traceback="tb").received(retries=1, worker=V).tell(
            "started", V
        )
    elif how == "requeued":
        story.tell("rejected", requeue=True).received(worker=V).tell("started", V)
    elif how == "lost":
        story.row()
        story.cluster.tasks.infer("u1", "lost", {"note": "worker lost"}, story.now)
        story.received(worker=V).tell("started", V)
    elif how == "received only":
        story.received(worker=V)
    else:
        story.tell("received", W, name="shop.pay", pid=8, retries=0).tell("started", W, pid=8)
    assert twice(story.row()) is None
    assert story.cluster.feed(story.now).twice == []


# The forecast

NOW = 1_790_000_000.0


def task(**fields: Any) -> Task:
    given = {"uuid": "u", "name": "shop.nap", "state": "RECEIVED", "worker": "w@h", "received_at": NOW}
    return Task(**(given | fields))


def test_the_timeout_is_the_workers_or_kombus_own() -> None:
    told = {"conf": {"broker_transport_options": {"visibility_timeout": 600}}}
    assert timeout_of(told) == Timeout(600.0, True)
    for details in (
        {},
        None,
        {"conf": {}},
        {"conf": {"broker_transport_options": {"visibility_timeout": "x"}}},
    ):
        assert timeout_of(details) == Timeout(3600.0, False)


def test_an_eta_beyond_the_timeout_is_forecast_before_it_happens() -> None:
    ahead = forecast(task(eta=NOW + 7200), {}, NOW + 10, transport="redis", late=False)
    assert ahead is not None
    assert (ahead.at, ahead.passed, ahead.runs) == (NOW + 3600, False, False)
    passed = forecast(task(eta=NOW + 7200), {}, NOW + 3700, transport="redis", late=False)
    assert passed is not None and passed.passed


@pytest.mark.parametrize(
    ("fields", "transport", "late"),
    [
        ({"eta": NOW + 3000}, "redis", False),
        ({"eta": NOW + 7200}, "amqp", False),
        ({"eta": NOW + 7200, "received_at": None}, "redis", False),
        ({"eta": None}, "redis", False),
        ({"state": "STARTED"}, "redis", False),
        ({"state": "STARTED"}, "redis", None),
        ({"state": "STARTED"}, "redis", True),
    ],
)
def test_nothing_is_forecast_where_nothing_will_be(
    fields: dict[str, Any], transport: str, late: bool | None
) -> None:
    assert forecast(task(**fields), {}, NOW + 60, transport=transport, late=late) is None


def test_a_late_acknowledged_run_is_forecast_when_the_timeout_nears() -> None:
    runs = task(state="STARTED")
    assert forecast(runs, {}, NOW + 2000, transport="redis", late=True) is None
    near = forecast(runs, {}, NOW + 3000, transport="redis", late=True)
    assert near is not None and near.runs and not near.passed


# On the pages


@pytest.fixture
def page(db: None, client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def test_both_are_said_on_the_tasks_page_and_in_what_needs_attention(page: Client) -> None:
    now = time.time()
    Worker.objects.create(hostname="w@h", status="online", first_seen_at=now, heartbeat_at=now)
    Task.objects.create(
        uuid="held", name="shop.report", state="RECEIVED", worker="w@h", received_at=now - 60, eta=now + 9000,
        first_seen_at=now, seen_at=now,
    )  # fmt: skip
    tried = [
        {"number": 0, "worker": "w@h", "state": "STARTED", "started_at": now - 90, "received_at": now - 90},
        {"number": 0, "worker": "v@h", "state": "STARTED", "started_at": now - 30, "received_at": now - 30},
    ]
    Task.objects.create(
        uuid="ran", name="shop.pay", state="STARTED", worker="v@h", first_seen_at=now, seen_at=now,
        attempts=tried,
    )  # fmt: skip
    twice = [{"uuid": "ran", "name": "shop.pay", "at": now - 5, "workers": ["w@h", "v@h"], "together": True}]
    feed = FeedRecord(connected=True, since=now - 900, transport="redis", last_event_at=now)
    Feed.objects.create(pk=1, at=now, data=msgspec.to_builtins(feed) | {"twice": twice})
    held = page.get("/tasks/held/").content.decode()
    assert "will be handed out again" in held and "visibility_timeout" in held and "held for its ETA" in held
    ran = page.get("/tasks/ran/").content.decode()
    assert "It ran twice." in ran and "on w@h and on v@h" in ran
    overview = page.get("/").content.decode()
    assert "A task ran twice" in overview and "A held task may run twice" in overview
    assert "report is held for an ETA beyond the visibility timeout" in overview
    Feed.objects.update(data=msgspec.to_builtins(feed) | {"transport": "amqp"})
    assert "may run twice" not in page.get("/").content.decode()
