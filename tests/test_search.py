"""Free text: what the index of words finds, and what it cannot have yet."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.http import QueryDict
from django.test import Client

from dashboard import access
from dashboard.forms.tasks import task_filter
from dashboard.queries import newest, tasks, text
from dashboard.queries.matches import matches
from monitor.models import Task
from monitor.store import search

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("now")]
NOW = time.time()
WORDS = ("Aarhus", "bergen", "order", "ORDER-77", "bob@shop.example", "café", "3.25", "sku_9", "x", "größe")
QUERIES = (
    *(
        "aarhus",
        "BERGEN",
        "order",
        "order-77",
        "bob@shop.example",
        "café",
        "CAFÉ",
        "3.25",
        "sku_9",
        "order 7",
    ),
    *("berg*", "aarhus bergen", "x", "GRÖSSE", "größe", "shop.add", "shop"),
)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a search would end a page early, and say so."""
    monkeypatch.setattr(text, "PATIENCE", 60.0)


def task(uuid: str, at: float, **more: Any) -> Task:
    fields = {"name": "shop.add", "state": "SUCCESS", "worker": "w@h", "queue": "q", "day": int(at // 86_400)}
    return Task.objects.create(uuid=uuid, **(fields | {"first_seen_at": at, "seen_at": at} | more))


def index(until: float | None = None) -> int:
    total = 0
    while some := search.index_some(7, NOW + 60 if until is None else until):
        total += some
    return total


def found(query: str) -> list[str]:
    """Ids on all pages, from the newest on."""
    ids: list[str] = []
    for _ in range(100):
        window = tasks.window(task_filter(QueryDict(query)), NOW)
        ids += [row.task.uuid for row in window.rows]
        if not window.older:
            return ids
        query = window.older
    raise AssertionError("the pages have no end")


@pytest.fixture
def corpus() -> list[Task]:
    """A hundred and fifty tasks with some of the words in some of the columns."""
    dice = random.Random(3)
    made = []
    for n in range(150):
        columns = {
            column: f"({', '.join(dice.sample(WORDS, 3))}, {dice.randrange(40)})"
            for column in ("args", "kwargs", "result", "exception")
            if dice.random() < 0.4
        }
        state = dice.choice(("SUCCESS", "FAILURE", "STARTED"))
        made.append(task(f"t{n:03}", NOW - 200 + n // 2, state=state, **columns))
    return made


def scanned(corpus: list[Task], query: str, **filters: str) -> list[str]:
    """What a look at every row finds, newest first."""
    asked = text.sought(query)
    assert asked is not None
    rows = [
        task
        for task in corpus
        if all(getattr(task, column) == value for column, value in filters.items())
        and asked.holds(" ".join(getattr(task, column) or "" for column in search.TEXTS))
    ]
    return [task.uuid for task in sorted(rows, key=lambda t: (-t.seen_at, -t.pk))]


@pytest.mark.parametrize("upto", [0, 75, 150], ids=["nothing indexed", "half of it", "all of it"])
def test_it_finds_what_a_look_at_every_row_finds(corpus: list[Task], upto: int) -> None:
    index(corpus[upto - 1].seen_at if upto else 0.0)
    some = 0
    for query in QUERIES:
        expected = scanned(corpus, query)
        assert found(f"q={query.replace('+', '%2B')}") == expected, query
        some += len(expected)
    assert some > 500
    assert found("q=order&state=FAILURE") == scanned(corpus, "order", state="FAILURE")


def test_words_are_whole_and_a_like_finds_each_of_them(corpus: list[Task]) -> None:
    index()
    assert found("q=berge") == []
    like = Task.objects.filter(args__icontains="bergen") | Task.objects.filter(kwargs__icontains="bergen")
    like |= Task.objects.filter(result__icontains="bergen") | Task.objects.filter(
        exception__icontains="bergen"
    )
    assert set(found("q=bergen")) == set(like.values_list("uuid", flat=True))


def test_a_row_that_changes_is_found_by_what_it_is_now(corpus: list[Task]) -> None:
    index()
    changed = corpus[10]
    Task.objects.filter(pk=changed.pk).update(args="('quixotic',)", kwargs=None, result=None, exception=None,
                                              seen_at=NOW - 1)  # fmt: skip
    for _ in range(2):
        assert found("q=quixotic") == [changed.uuid]
        assert changed.uuid not in [*found("q=aarhus"), *found("q=order"), *found("q=bergen")]
        index()
    assert index() == 0


def test_a_row_that_is_gone_is_not_found_and_leaves_no_words(corpus: list[Task]) -> None:
    index()
    before = len(found("q=shop"))
    Task.objects.filter(uuid__in=[t.uuid for t in corpus[:100]]).delete()
    assert len(found("q=shop")) == before - 100
    # PostgreSQL drops whole days, so there the index is swept in passing.
    for _ in range(3):  # a round begins where the last look ended
        assert search.index_some(1_000, NOW + 60) == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM monitor_search")
        assert cursor.fetchone()[0] == 50


def test_a_database_that_is_emptied_forgets_its_words_too(corpus: list[Task]) -> None:
    index()
    call_command("flush", interactive=False, verbosity=0)
    assert search.mark() == search.Mark(-1, 0, 0)
    # Older than all that was indexed before.
    task("old", NOW - 9_000, args="(needle)")
    assert found("q=needle") == ["old"]
    assert index() == 1 and found("q=needle") == ["old"]


def test_an_id_is_found_by_its_beginning() -> None:
    task("df07ee6c-1", NOW - 5)
    task("df07ee6c-2", NOW - 4)
    task("other", NOW - 3, args="('df07ee6c-1 was here',)")
    index()
    assert found("q=df07") == ["df07ee6c-2", "df07ee6c-1"]
    assert found("q=DF07ee6c-1") == ["other", "df07ee6c-1"]


@pytest.mark.parametrize(
    "query", ["%", "***", "'", '"', "a\"b'c", "NEAR(", "AND", "-", "x*", "( OR", "é" * 255, "\\"]
)
def test_it_takes_anything(client: Client, query: str) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    task("one", NOW - 5, args="AND NEAR a\"b'c")
    for _ in range(2):
        answer = client.get("/tasks/", {"q": query})
        assert answer.status_code == 200
        if text.sought(query) is None:
            assert "no letter and no digit" in answer.content.decode()
        index()


def test_being_behind_is_said(client: Client, corpus: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "UNINDEXED", 20)
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert "still being indexed" in client.get("/tasks/?q=shop").content.decode()
    index()
    assert "still being indexed" not in client.get("/tasks/?q=shop").content.decode()


def test_a_search_that_gives_up_goes_on_where_it_was(
    corpus: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    index()
    monkeypatch.setattr(text, "PATIENCE", 0.0)
    window = tasks.window(task_filter(QueryDict("q=order")), NOW)
    assert window.older and "Older" in window.limits
    assert found("q=order") == scanned(corpus, "order")


@pytest.mark.parametrize("patience", [0.0, 10.0])
@pytest.mark.parametrize(
    "query", ["state=FAILURE", "name=shop.add", "worker=w%40h", "queue=q", "error=ValueError", "state=RETRY"]
)
@pytest.mark.parametrize("words", ["order", "bob@shop.example", "berg*"])
def test_a_filter_that_leads_finds_what_the_words_find(
    corpus: list[Task], monkeypatch: pytest.MonkeyPatch, query: str, words: str, patience: float
) -> None:
    Task.objects.filter(uuid__endswith="3").update(exception_type="ValueError")
    index(corpus[120].seen_at)
    expected = found(f"q={words}&{query}")
    assert expected or query == "state=RETRY"
    monkeypatch.setattr(text, "COMMON", -1)
    monkeypatch.setattr(text, "PATIENCE", patience)
    assert found(f"q={words}&{query}") == expected


def test_totals_and_bars_hold_what_matches(corpus: list[Task]) -> None:
    index(corpus[75].seen_at)
    got = matches(task_filter(QueryDict("q=order&in=15m")), NOW)
    expected = scanned(corpus, "order")
    assert got.total == len(expected) and not got.more
    assert sum(sum(values) for _, values in got.series) == len(expected)


def test_what_was_found_among_many_new_rows_serves_for_a_moment(
    corpus: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text.shared, "kept", True)
    monkeypatch.setattr(text, "MANY", 50)
    monkeypatch.setattr(text, "_last", None)
    looked: list[str] = []

    def look(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        looked.extend(["look"] * (" LIKE " in sql or " ILIKE " in sql))
        return execute(sql, *rest)

    with connection.execute_wrapper(look):
        window = tasks.window(task_filter(QueryDict("q=order")), NOW)
        assert [row.task.uuid for row in window.rows] == scanned(corpus, "order")[:50]
        assert matches(task_filter(QueryDict("q=order")), NOW).total == len(scanned(corpus, "order"))
        assert len(looked) == 1
        # Neither for another text, nor with another filter, nor when the moment is over.
        looked.clear()
        tasks.window(task_filter(QueryDict("q=shop")), NOW)
        tasks.window(task_filter(QueryDict("q=shop&state=FAILURE")), NOW)
        monkeypatch.setattr(text, "FRESH", -1.0)
        tasks.window(task_filter(QueryDict("q=shop&state=FAILURE")), NOW)
        assert len(looked) == 3


# Plans

FILTERS = ("", "state=SUCCESS", "state=FAILURE&state=RETRY", "name=shop.add", "name=shop.*", "worker=w%40h",
           "queue=q", "error=ValueError", "in=15m", "from=2026-01-01T00:00", "state=FAILURE&name=shop.add",
           "q=order", "q=order&state=FAILURE", "q=df07ee")  # fmt: skip


@pytest.mark.parametrize("query", FILTERS)
@pytest.mark.parametrize("place", ["", "before", "after"])
def test_every_read_goes_by_an_index(corpus: list[Task], query: str, place: str) -> None:
    index()
    asked = task_filter(QueryDict(f"{query}&{place}={NOW - 100!r}_50" if place else query))
    plans: list[str] = []

    def planned(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("SELECT", "WITH")) and "monitor_task" in sql:
            raw = connection.connection
            if connection.vendor == "postgresql":
                # So few rows would be read without an index.
                raw.execute("SET LOCAL enable_seqscan = off")
                plans.extend(row[0] for row in raw.execute("EXPLAIN " + sql, params))
            else:
                plan = raw.execute("EXPLAIN QUERY PLAN " + sql.replace("%s", "?"), params or ())
                plans.extend(row[3] for row in plan)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(planned):
        tasks.window(asked, NOW)
        matches(asked, NOW)
    assert plans
    bad = [line for line in plans if re.fullmatch(r"SCAN (monitor_task|t)( AS \w+)?", line)]
    bad += [line for line in plans if re.search(r"Seq Scan on monitor_task(_|\b)", line)]
    assert not bad, "\n".join(plans)


@pytest.mark.parametrize("query", ["", "state=SUCCESS", "state=SUCCESS&state=FAILURE", "queue=q", "q=shop",
                                   "name=*add", "in=24h", "state=FAILURE&worker=w%40h"])  # fmt: skip
def test_pages_by_place_are_those_of_an_offset(corpus: list[Task], query: str) -> None:
    index(corpus[80].seen_at)
    asked = task_filter(QueryDict(query))
    rows = Task.objects.order_by("-seen_at", "-id")
    rows = rows.filter(state__in=asked.states) if asked.states else rows
    expected = list(rows.values_list("uuid", flat=True))
    assert found(query) == expected
    back, query = [], f"{query}&before={NOW - 1000!r}_1"
    last = Task.objects.order_by("seen_at", "id").first()
    assert last is not None
    query = task_filter(QueryDict(query)).query(after=f"{last.seen_at - 1!r}_0")
    while query:
        window = tasks.window(task_filter(QueryDict(query)), NOW)
        back = [row.task.uuid for row in window.rows] + back
        query = window.newer
    assert back == expected


def test_a_filter_beyond_the_stretch_is_reached_by_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "STRETCH", 10)
    for n in range(60):
        task(f"t{n:02}", NOW - n, worker="rare@h" if n in (3, 41, 58) else "w@h")
        task(f"u{n:02}", NOW - n, worker="rare@h", queue="other")
    window = tasks.window(task_filter(QueryDict("worker=rare%40h&queue=q")), NOW)
    assert [row.task.uuid for row in window.rows] == ["t03"] and "Older" in window.limits
    assert found("worker=rare%40h&queue=q") == ["t03", "t41", "t58"]
