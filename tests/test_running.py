"""A running task against the past of its name, and its time limits: exact where known, "about" where not."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import usual
from dashboard.queries.limits import Limits, limits
from dashboard.queries.odds import Odds, odds
from monitor import rates, registered
from monitor.control import inspecting
from monitor.models import Task, TaskType, Worker

NOW = 1_773_325_924.0


def counted(*runtimes: float) -> dict[int, int]:
    found: dict[int, int] = {}
    for seconds in runtimes:
        rates.add(found, seconds)
    return found


def of(runtimes: list[float], ran: float, p95: float = 1.0) -> Odds:
    found = odds(counted(*runtimes), ran, p95)
    assert found is not None
    return found


# Against its past


def test_a_run_longer_than_all_is_said_to_be_so_and_no_chance_is_made_up() -> None:
    found = of([1.0] * 12_325 + [30.0] * 85, 842.0)
    # A second lies in a bucket that ends at 1.06 s.
    assert found.usually() == "99.3% of 12,410 runs end within about 1.1\u00a0s"
    assert found.usually("export").startswith("99.3% of 12,410 runs of export end")
    assert found.took == "none of 12,410 runs took this long"
    assert found.chance == ""


def test_all_runs_within_a_time_are_called_all_and_a_rest_is_never_rounded_away() -> None:
    assert of([1.0] * 40, 5.0).usually() == "all 40 runs ended within about 1.1\u00a0s"
    nearly = of([1.0] * 99_999 + [50.0], 5.0)
    assert nearly.usually().startswith("99.9% of 100,000 runs end")
    assert nearly.took == "1 of 100,000 runs took this long"


def test_the_chance_is_that_of_runs_that_got_this_far() -> None:
    # Fifty got beyond 10 s: forty of them ended by 12 s, ten took a minute.
    found = of([1.0] * 950 + [11.0] * 40 + [60.0] * 10, 10.0, p95=5.0)
    assert found.took == "50 of 1,000 runs took this long"
    assert found.chance == "of the runs that got this far, about 80% ended within about another 5.0\u00a0s"


def test_of_few_runs_the_number_is_told_and_no_share() -> None:
    found = of([1.0] * 97 + [20.0, 21.5, 300.0], 10.0, p95=15.0)
    assert found.chance == "of the 3 runs that got this far, 2 ended within about another 15\u00a0s"
    lone = of([1.0] * 99 + [300.0], 10.0, p95=1.0)
    assert lone.chance == "the one run that got this far did not end within about another 2.5\u00a0s"


def test_what_shares_the_bucket_may_be_longer_or_not() -> None:
    low = rates.edge(rates.bucket(10.0) - 1)
    counts = {rates.bucket(1.0): 50, rates.bucket(10.0): 7}
    found = odds(counts, low * 1.0001, 1.0)
    assert found is not None
    assert (found.certain, found.most) == (0, 7)
    assert found.took == "at most 7 of 57 runs took this long"
    assert found.chance == ""


def test_too_little_history_has_no_odds() -> None:
    assert odds(counted(*[1.0] * 29), 5.0, 1.0) is None
    assert odds({}, 5.0, 1.0) is None
    assert odds({3: -40}, 5.0, 1.0) is None


def test_survival_from_the_histogram_is_near_that_of_the_runs_themselves() -> None:
    rng = random.Random(7)
    runs = [rng.lognormvariate(1.0, 1.0) for _ in range(20_000)]
    counts = counted(*runs)
    for ran in (0.5, 2.0, 3.3, 10.0, 25.0):
        longer = [seconds for seconds in runs if seconds > ran]
        certain, most = rates.beyond(counts, ran)
        assert certain <= len(longer) <= most
        assert rates.about_beyond(counts, ran) == pytest.approx(len(longer), rel=0.03, abs=15)
        found = odds(counts, ran, 2.0)
        assert found is not None
        ended = sum(seconds <= ran + found.soon for seconds in longer)
        assert found.ended / found.longer == pytest.approx(ended / len(longer), abs=0.03)
        assert found.share == pytest.approx(sum(s < found.within for s in runs) / len(runs))


# Time limits

TOLD = {"registered": ["shop.add [soft_time_limit=30.0 time_limit=60.0 acks_late=False]", "shop.plain"]}


def limits_of(details: dict[str, Any], pool: str = "prefork", **more: Any) -> Limits:
    given = {"name": "shop.add", "held": {}, "started_at": NOW - 40, "now": NOW}
    return limits(details, pool, **(given | more))


def shown(found: Limits) -> list[tuple[str, float, float, str]]:
    return [(one.kind, one.seconds, one.left, one.source.split(",")[0]) for one in found.found]


@pytest.mark.parametrize(
    ("details", "more", "expected"),
    [
        (TOLD, {}, [("soft", 30.0, -10.0, "set on the task"), ("hard", 60.0, 20.0, "set on the task")]),
        (TOLD, {"name": "shop.plain"}, []),
        (TOLD, {"name": "shop.ad"}, []),
        (
            {"stats": {"pool": {"timeouts": [0, 300]}}},
            {},
            [("hard", 300.0, 260.0, "set for every task of its worker")],
        ),
        # What the pool was made with goes before the setting: --time-limit may have replaced it.
        (
            {"stats": {"pool": {"timeouts": [0, 300]}}, "conf": {"task_time_limit": 5}},
            {},
            [("hard", 300.0, 260.0, "set for every task of its worker")],
        ),
        (
            {"conf": {"task_time_limit": 600, "task_soft_time_limit": 45}},
            {},
            [
                ("soft", 45.0, 5.0, "set for every task of its worker"),
                ("hard", 600.0, 560.0, "set for every task of its worker"),
            ],
        ),
        (
            TOLD,
            {"held": {"timelimit": [50, None]}},
            [("soft", 30.0, -10.0, "set on the task"), ("hard", 50.0, 10.0, "given with this call")],
        ),
        (TOLD, {"started_at": None}, []),
        ({"registered": ["shop.add [time_limit=0 soft_time_limit=x]"], "conf": {"task_time_limit": True}}, {},
         [("hard", 1.0, -39.0, "set for every task of its worker")]),
        ({"registered": 3, "stats": {"pool": []}, "conf": ["x"], "active": 7}, {}, []),
    ],
)  # fmt: skip
def test_a_limit_is_found_where_it_is_set(
    details: dict[str, Any], more: dict[str, Any], expected: list[tuple[str, float, float, str]]
) -> None:
    assert shown(limits_of(details, **more)) == expected


def test_what_is_not_known_of_limits_is_said() -> None:
    assert limits_of({}).notes == ["Its time limits are not known: its worker has not told them."]
    (note,) = limits_of(TOLD | {"conf": {}}, name="shop.plain").notes
    assert note.startswith("No hard time limit is set on it or on its worker")
    assert "workers do not tell it" in limits_of(TOLD, started_at=NOW - 5).notes[-1]
    assert limits_of(TOLD, held={"timelimit": [50, 40]}, started_at=NOW - 5).notes == []


def test_a_pool_that_keeps_no_limits_says_so_and_gevent_keeps_the_hard_one() -> None:
    assert limits_of(TOLD, "threads").notes[0].startswith("A threads pool does not enforce time limits")
    assert limits_of(TOLD, "gevent").notes[0].startswith("A gevent pool does not enforce soft time limits")
    assert "does not enforce" not in " ".join(limits_of(TOLD, "shop.pools:Own").notes)


def test_rate_limits_are_read_as_celery_writes_them() -> None:
    assert [registered.rate(text) for text in ("10/m", "5", "0.5/s", "36/h")] == [1 / 6, 5.0, 0.5, 0.01]
    assert [registered.rate(text) for text in ("0", "0/m", "None", "", "x/s", None)] == [None] * 6
    details = {"registered": ["shop.add [rate_limit=10/m]"], "conf": {"worker_disable_rate_limits": True}}
    assert registered.rate_limit(details, "shop.add") == ""
    assert registered.rate_limit({"registered": details["registered"]}, "shop.add") == "10/m"


def test_a_list_of_names_that_may_be_cut_proves_no_name_missing() -> None:
    assert registered.MOST == inspecting.MOST_IDS
    assert registered.names({"registered": ["shop.add [acks_late=True]", 7]}) == {"shop.add"}
    assert registered.names({"registered": ["n"] * registered.MOST}) is None
    assert registered.names({}) is None
    several = ["a [rate_limit=5/s]", "b [rate_limit=0]", "c [max_retries=3]", None]
    assert registered.limited({"registered": several}) == {"a"}


# On the page


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    usual.forget()
    yield
    usual.forget()


def drawn(uuid: str = "long") -> str:
    fragments.load()
    return fragments.named("task-running").draw(Page("task", (("uuid", uuid),)))


def task(uuid: str = "long", state: str = "STARTED", **more: Any) -> Task:
    now = time.time()
    fields = {"name": "shop.add", "worker": "w@h", "first_seen_at": now, "seen_at": now}
    return Task.objects.create(uuid=uuid, state=state, **(fields | {"started_at": now - 600.0} | more))


def worker(**more: Any) -> Worker:
    fields = {"status": "online", "pool": "prefork", "size": 2, "first_seen_at": time.time()}
    return Worker.objects.create(hostname="w@h", **(fields | more))


def past(runs: int = 100) -> None:
    counts = counted(*[1 + n / runs for n in range(runs)])
    TaskType.objects.create(
        name="shop.add", runs=runs, first_seen_at=1, last_seen_at=1, p50=1.5, p95=1.9, p99=2.0,
        histogram={str(k): v for k, v in counts.items()},
    )  # fmt: skip


@pytest.mark.django_db
def test_the_page_of_a_running_task_has_the_evidence_and_the_countdown(client: Client) -> None:
    past()
    worker(details=TOLD | {"stats": {"pool": {"timeouts": [0, 3600]}}})
    task(started_at=time.time() - 45)
    html = drawn()
    assert re.search("Running <b>4[5-9]\u00a0s</b>; all 100 runs ended within about 2.0\u00a0s", html)
    assert "<b>none of 100 runs took this long</b>" in html
    assert "Soft time limit, 30\u00a0s: <b>passed" in html
    assert "Hard time limit, 1\u00a0min\u00a000\u00a0s: passes <b>in 1" in html
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    page = client.get("/tasks/long/").content.decode()
    assert "none of 100 runs took this long" in page


@pytest.mark.django_db
def test_a_new_name_says_that_it_has_too_little_history() -> None:
    task()
    assert "nothing to compare with yet" in drawn()
    past(29)
    html = drawn()
    assert "29 runs of this task name so far: Umbel compares from 30 on." in html
    assert "took this long" not in html


@pytest.mark.django_db
def test_a_clock_that_is_ahead_makes_no_run_longer_or_shorter() -> None:
    past()
    worker(drift=3600.0, details=TOLD)
    task(started_at=time.time() + 3600.0 - 45)
    html = drawn()
    assert re.search("Running <b>4[5-9]\u00a0s</b>", html) and "passed" in html


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["SUCCESS", "PENDING", "LOST"])
def test_a_task_that_does_not_run_has_no_such_panel(state: str) -> None:
    task(state=state)
    assert drawn().strip() == '<section id="task-running" hidden></section>'


@pytest.mark.django_db
def test_without_a_start_nothing_is_reckoned_from_it() -> None:
    past()
    worker(details=TOLD)
    task(started_at=None)
    html = drawn()
    assert "its start was not heard" in html and "took this long" not in html and "passes" not in html
