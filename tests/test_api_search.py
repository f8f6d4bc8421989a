"""``/api/tasks?search=``: Flower's language as far as an index answers it, over the whole history."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from dashboard import access
from dashboard.queries import asked
from dashboard.queries.asked import Search, SearchError
from monitor import models
from monitor.store import search

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("now")]
NOW = time.time()


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def task(uuid: str, at: float = -1.0, **more: Any) -> models.Task:
    fields: dict[str, Any] = {"name": "shop.add", "state": "SUCCESS", "worker": "w@h", "args": "()"}
    fields |= {"kwargs": "{}", "first_seen_at": NOW + at, "seen_at": NOW + at, "received_at": NOW + at}
    return models.Task.objects.create(uuid=uuid, **(fields | {"day": int((NOW + at) // 86_400)} | more))


def index() -> None:
    while search.index_some(100, NOW + 60):
        pass


def found(client: Client, text: str, **more: str) -> list[str]:
    answer = client.get("/api/tasks", {"search": text, **more})
    assert answer.status_code == 200, answer.content
    return list(answer.json())


@pytest.fixture
def shop() -> None:
    models.Worker.objects.create(hostname="imports@prod-1", status="online", first_seen_at=NOW)
    models.Worker.objects.create(hostname="mails@prod-2", status="online", first_seen_at=NOW)
    for name in ("shop.pay", "shop.repay", "mail.send"):
        models.TaskType.objects.create(name=name, first_seen_at=NOW, last_seen_at=NOW)
    task("a", -4, name="shop.pay", worker="imports@prod-1", args="(7, 'blue needle')", result="'done'")
    task("b", -3, name="shop.repay", worker="mails@prod-2", kwargs="{'order': 7, 'who': 'bob'}")
    task("c", -2, name="mail.send", worker="mails@prod-2", state="FAILURE", exception="ValueError('needle')")
    task("d", -1, name="mail.send", worker="imports@prod-1", result="'blue'", args="('needle',)")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("needle", "dca"),
        ("NEEDLE", "dca"),
        ("need*", "dca"),
        ("eedle", ""),
        ("blue needle", "da"),
        ("blue AND needle", "da"),
        ('"blue needle"', "a"),
        ("args:needle", "da"),
        ("args:blue", "a"),
        ("result:blue", "d"),
        ('args:"blue needle"', "a"),
        ("kwargs:order=7", "b"),
        ("kwargs:who=bob", "b"),
        ("kwargs:who=bo", ""),
        ("kwargs:order=8", ""),
        ("kwargs:bob", "b"),
        ("name:pay", "ba"),
        ("name:shop.pay", "a"),
        ("name:nothing", ""),
        ("worker:prod-2", "cb"),
        ("worker:prod-2 needle", "c"),
        ("name:mail worker:imports needle", "d"),
        ("state:failure", "c"),
        ("state:failure needle", "c"),
        ("state:nonsense needle", ""),
        ("ValueError", "c"),
    ],
)
def test_a_search_finds(viewer: Client, shop: None, text: str, ids: str, indexed: bool) -> None:
    if indexed:
        index()
    assert found(viewer, text) == list(ids)


def test_filters_and_a_search_hold_together(viewer: Client, shop: None) -> None:
    index()
    assert found(viewer, "needle", taskname="mail.send") == ["d", "c"]
    assert found(viewer, "needle", workername="imports@prod-1") == ["d", "a"]
    assert found(viewer, "needle name:shop", taskname="mail.send") == []
    assert found(viewer, "needle state:SUCCESS", state="FAILURE") == []
    assert found(viewer, "needle", sort_by="name") == ["d", "c", "a"]
    assert found(viewer, "needle", sort_by="-received") == ["d", "c", "a"]
    assert found(viewer, "needle", sort_by="received") == ["a", "c", "d"]
    assert found(viewer, "needle", received_end="2020-01-01 10:00") == []
    assert found(viewer, "needle", received_start="2020-01-01 10:00") == ["d", "c", "a"]


def test_pages_of_a_search_hold_each_task_once(viewer: Client) -> None:
    for n in range(60):
        task(f"t{n:02}", n - 60, args="('needle',)" if n % 3 else "('hay',)", result=f"'{n % 2}x'")
    index()
    task("late", 0, args="('needle',)", result="'1x'")
    want = ["late", *(f"t{n:02}" for n in reversed(range(60)) if n % 3 and n % 2)]
    pages: list[str] = []
    for offset in range(0, 60, 7):
        pages += found(viewer, "args:needle result:1x", limit="7", offset=str(offset))
    assert pages == want


def test_it_reaches_as_far_as_the_history(viewer: Client) -> None:
    """A text is not looked for among the newest rows alone."""
    task("old", -90 * 86_400, args="('needle',)")
    models.Task.objects.bulk_create(
        models.Task(
            uuid=f"n{n}", name="shop.add", state="SUCCESS", first_seen_at=NOW, seen_at=NOW, day=NOW // 86_400
        )
        for n in range(300)
    )
    index()
    assert found(viewer, "needle") == ["old"]


def test_what_was_not_searched_is_said(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(6):
        task(f"t{n}", n - 10, args="('needle',)", result="'hay'" if n else "'needle'")
    index()
    assert "X-Umbel-Search" not in viewer.get("/api/tasks?search=result:needle")
    monkeypatch.setattr(asked, "SCANNED", 2)
    answer = viewer.get("/api/tasks?search=result:needle")
    assert (answer.json(), answer["X-Umbel-Search"]) == ({}, "partly")


def test_a_search_costs_few_queries_however_many_match(viewer: Client) -> None:
    for n in range(200):
        task(f"t{n:03}", n - 300, args="('needle',)")
    index()
    with CaptureQueriesContext(
        connection,
    ) as few:
        found(viewer, "needle", limit="5")
    with CaptureQueriesContext(connection) as many:
        found(viewer, "needle", limit="150")
    assert len(many) <= len(few) + 2


def test_the_language_is_read() -> None:
    assert asked.parsed('args:needle AND "two words" name:x') == Search(
        ("needle", "two", "words"), ("two words",), (("args", "needle"),), {"name": "x"}
    )
    assert asked.parsed(r'"say \"x\""').phrases == ('say "x"',)
    assert asked.parsed("http://host").words == ("http://host",)
    for text in ("!!!", '"', "a OR b", "(a)", "state:", "x" * 256):
        with pytest.raises(SearchError):
            asked.parsed(text)
