"""The REST API: Flower 2.2's shapes (key sets recorded from it) and its mistakes' words."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from dashboard.api import callers
from dashboard.queries import api as queries
from monitor import control, models
from monitor.control import Unreachable
from monitor.records import Inspection
from tests.viewers import nothing_known as nothing_known
from tests.viewers import vera as vera
from tests.viewers import viewer as viewer

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("now")]

# Recorded from Flower 2.2.0 with Celery 5.7.0, in its order.
TASK = [
    "uuid",
    "name",
    "state",
    "received",
    "sent",
    "started",
    "rejected",
    "succeeded",
    "failed",
    "retried",
    "revoked",
    "args",
    "kwargs",
    "eta",
    "expires",
    "retries",
    "worker",
    "result",
    "exception",
    "timestamp",
    "runtime",
    "traceback",
    "exchange",
    "routing_key",
    "clock",
    "client",
    "root",
    "root_id",
    "parent",
    "parent_id",
    "children",
]
LISTED = [name for name in TASK if name != "worker"] + ["worker"]
WORKER = {"stats", "timestamp", "registered", "active_queues", "conf"}
LISTS = {"reserved", "active", "revoked", "scheduled"}

NOW = time.time()


def task(uuid: str, **more: Any) -> models.Task:
    fields: dict[str, Any] = {"name": "shop.add", "state": "SUCCESS", "worker": "w@h", "received_at": NOW - 3}
    fields |= {"sent_at": NOW - 4, "started_at": NOW - 2, "ended_at": NOW - 1, "runtime": 1.0}
    fields |= {"first_seen_at": NOW - 4, "seen_at": NOW - 1, "args": "[1, 2]", "kwargs": "{}", "result": "3"}
    fields["marks"] = [
        ["received", "w@h", 7, 11, NOW - 3, NOW - 3],
        ["succeeded", "w@h", 7, 13, NOW - 1, NOW - 1, None],
    ]
    return models.Task.objects.create(uuid=uuid, **(fields | more))


def worker(hostname: str = "w@h", **more: Any) -> models.Worker:
    details = {
        "stats": {"pid": 7}, "conf": {"broker_url": "redis://[hidden]@h"}, "active": [{"id": "t"}],
        "registered": ["shop.add [rate_limit=10/m]", "shop.nap"], "active_queues": [{"name": "celery"}],
        "reserved": [], "scheduled": [], "revoked": ["r"],
    }  # fmt: skip
    fields = {"status": "online", "first_seen_at": NOW, "inspected_at": NOW, "details": details}
    return models.Worker.objects.create(hostname=hostname, **(fields | more))


# Tasks


def test_a_task_has_flowers_fields(viewer: Client) -> None:
    task("a", root_id="r", parent_id="p", sender="gen1@h", eta=1795384444.5)
    task("child", parent_id="a")
    answer = viewer.get("/api/task/info/a")
    assert answer["Content-Type"] == "application/json; charset=UTF-8"
    found = answer.json()
    assert list(found) == TASK
    assert found["succeeded"] == found["timestamp"] == NOW - 1
    assert (found["clock"], found["worker"], found["client"]) == (13, "w@h", "gen1@h")
    assert (found["root"], found["root_id"], found["parent"], found["parent_id"]) == ("r", "r", "p", "p")
    assert found["children"] == ["child"]
    assert found["eta"] == "2026-11-22T21:54:04.500000+00:00"


def test_a_retry_is_not_its_own_parent_and_child(viewer: Client) -> None:
    task("a", parent_id="a", root_id="a", retries=1)
    found = viewer.get("/api/task/info/a").json()
    assert (found["parent"], found["parent_id"], found["children"], found["root_id"]) == (None, None, [], "a")


def test_an_end_that_no_event_told_has_its_time(viewer: Client) -> None:
    task("a", state="FAILURE", marks=[], known="inferred")
    found = viewer.get("/api/task/info/a").json()
    assert (found["failed"], found["succeeded"], found["clock"]) == (NOW - 1, None, None)


@pytest.mark.parametrize("uuid", ["nope", "", "a/b", "%00", "é" * 400])
def test_an_unknown_task_is_told_in_flowers_words(viewer: Client, uuid: str) -> None:
    answer = viewer.get(f"/api/task/info/{uuid}")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "text/plain; charset=UTF-8"
    assert answer.content.decode().startswith("Unknown task '")


def test_tasks_are_listed_newest_first_with_the_worker_last(viewer: Client) -> None:
    task("old", seen_at=NOW - 9)
    task("new", worker="")
    found = viewer.get("/api/tasks").json()
    assert list(found) == ["new", "old"]
    assert list(found["old"]) == LISTED
    assert list(found["new"]) == [name for name in LISTED if name != "worker"]


@pytest.mark.parametrize(
    ("query", "uuids"),
    [
        ("limit=1", ["c"]),
        ("limit=0", []),
        ("limit=-1", []),
        ("limit=1&offset=1", ["b"]),
        ("offset=-4&limit=1", ["c"]),
        ("offset=99999999999999999999", []),
        ("sort_by=name", ["a", "b", "c"]),
        ("sort_by=-name&limit=2", ["c", "b"]),
        ("sort_by=received", ["c", "b", "a"]),
        ("sort_by=-started", ["a", "b", "c"]),
        ("state=FAILURE", ["b"]),
        ("state=All&workername=All&taskname=All", ["c", "b", "a"]),
        ("state=bogus", []),
        ("taskname=n.a", ["a"]),
        ("workername=w2@h", ["c"]),
        ("workername=nobody", []),
        ("received_start=2020-01-01+10:00", ["c", "b", "a"]),
        ("received_end=2020-01-01+10:00", []),
        ("search=state:failure", ["b"]),
        ("search=name:n.c+worker:w2@h", ["c"]),
        ("taskname=%00", []),
    ],
)
def test_filters_and_order(viewer: Client, query: str, uuids: list[str]) -> None:
    for i, name in enumerate("abc"):
        task(
            name, name=f"n.{name}", seen_at=NOW - 5 + i, received_at=NOW - i, started_at=NOW - i,
            state="FAILURE" if name == "b" else "SUCCESS", worker="w2@h" if name == "c" else "w@h",
        )  # fmt: skip
    assert list(viewer.get(f"/api/tasks?{query}").json()) == uuids


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=x", "Invalid argument 'x' of type 'int'"),
        ("offset=1.5", "Invalid argument '1.5' of type 'int'"),
        ("limit=<b>", "Invalid argument '&lt;b&gt;' of type 'int'"),
        ("sort_by=zzz", "Invalid sort_by 'zzz', expected one of name, received, started, state"),
        (
            "sort_by=_connector",
            "Invalid sort_by '_connector', expected one of name, received, started, state",
        ),
        (
            "received_start=x",
            "Invalid received_start or received_end, expected format 'YYYY-MM-DD HH:MM'",
        ),
    ],
)
def test_mistakes_are_told_as_flower_tells_them(viewer: Client, query: str, words: str) -> None:
    answer = viewer.get(f"/api/tasks?{query}")
    assert (answer.status_code, answer.content.decode()) == (400, words)
    assert answer["Content-Type"] == "text/plain; charset=UTF-8"


@pytest.mark.parametrize("search", ["state:", "a OR b", "(a)", "x" * 300, '"'])
def test_a_search_that_is_not_read_says_so_as_json(viewer: Client, search: str) -> None:
    answer = viewer.get("/api/tasks", {"search": search})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_a_search_finds_text(viewer: Client) -> None:
    task("a", args="['needle']")
    task("b")
    assert list(viewer.get("/api/tasks?search=needle").json()) == ["a"]


def test_a_list_without_a_limit_is_bounded_and_says_what_follows(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST", 2)
    for i in range(5):
        task(str(i), seen_at=NOW - i)
    answer = viewer.get("/api/tasks?taskname=shop.add")
    assert list(answer.json()) == ["0", "1"]
    assert answer["X-Umbel-Limit"] == "2"
    assert answer["Link"] == '</api/tasks?taskname=shop.add&offset=2>; rel="next"'
    following = viewer.get("/api/tasks?taskname=shop.add&offset=4")
    assert list(following.json()) == ["4"] and not following.has_header("Link")
    assert not viewer.get("/api/tasks?limit=1").has_header("Link")


def test_reading_many_tasks_takes_few_queries(viewer: Client, django_assert_max_num_queries: Any) -> None:
    for i in range(30):
        task(str(i), parent_id="0")
    with django_assert_max_num_queries(6):
        assert len(viewer.get("/api/tasks").json()["0"]["children"]) == 29


def test_types_are_listed_in_order(viewer: Client) -> None:
    assert viewer.get("/api/task/types").json() == {"task-types": []}
    for name in ("z.z", "a.a"):
        models.TaskType.objects.create(name=name, first_seen_at=NOW, last_seen_at=NOW)
    assert viewer.get("/api/task/types").json() == {"task-types": ["a.a", "z.z"]}


# Workers


def test_workers_have_flowers_fields(viewer: Client) -> None:
    worker()
    worker("never-asked@h", inspected_at=None)
    worker("beat@h", is_beat=True)
    found = viewer.get("/api/workers").json()
    assert set(found) == {"w@h"}
    assert set(found["w@h"]) == WORKER
    assert found["w@h"]["registered"] == ["shop.add", "shop.nap"]
    assert found["w@h"]["timestamp"] == NOW
    one = viewer.get("/api/workers?workername=w@h").json()
    assert set(one["w@h"]) == WORKER | LISTS
    assert one["w@h"]["revoked"] == ["r"]


def test_statuses_never_tell_silence_as_offline(viewer: Client) -> None:
    worker()
    worker("gone@h", status="offline")
    worker("who-knows@h", status="unknown")
    expected = {"w@h": True, "gone@h": False, "who-knows@h": None}
    assert viewer.get("/api/workers?status=1").json() == expected
    assert viewer.get("/api/workers?status=yes&workername=w@h").json() == expected


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("status=maybe", 400, "Invalid argument 'maybe' of type 'bool'"),
        ("workername=nope", 404, "Unknown worker 'nope'"),
        ("workername=<i>", 404, "Unknown worker '&lt;i&gt;'"),
        ("refresh=1&workername=nope", 404, "Unknown worker 'nope'"),
    ],
)
def test_mistakes_about_workers(viewer: Client, query: str, code: int, words: str) -> None:
    worker()
    answer = viewer.get(f"/api/workers?{query}")
    assert (answer.status_code, answer.content.decode()) == (code, words)


def test_refresh_asks_the_workers_and_hides_their_secrets(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker()
    worker("gone@h", status="offline")
    worker("busy@h")
    asked = []

    def inspect(hostname: str, timeout: float = 2.0, full: bool = False) -> Inspection | None:
        asked.append(hostname)
        if hostname == "busy@h":
            return None
        return Inspection(hostname, NOW + 5, stats={"pid": 8}, conf={"password": "hunter2-secret"})

    monkeypatch.setattr(control, "inspect_worker", inspect)
    answer = viewer.get("/api/workers?refresh=true")
    found = answer.json()
    assert sorted(asked) == ["busy@h", "w@h"]
    assert (found["w@h"]["stats"], found["w@h"]["timestamp"]) == ({"pid": 8}, NOW + 5)
    assert (found["busy@h"]["stats"], found["busy@h"]["timestamp"]) == ({"pid": 7}, NOW)
    assert set(found["w@h"]) == WORKER
    assert "hunter2" not in answer.content.decode()


def test_a_broker_that_is_away_is_503_as_in_flower(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    worker()

    def inspect(*args: Any) -> None:
        raise Unreachable("away", sent=False)

    monkeypatch.setattr(control, "inspect_worker", inspect)
    answer = viewer.get("/api/workers?refresh=1")
    assert (answer.status_code, answer.content) == (503, b"Broker or result backend unavailable")


def test_a_database_that_is_away_is_one_line_of_text(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked() -> list[str]:
        raise OperationalError("database is locked")

    monkeypatch.setattr(queries, "task_types", locked)
    answer = viewer.get("/api/task/types")
    assert (answer.status_code, answer.content.decode()) == (503, callers.AWAY)
