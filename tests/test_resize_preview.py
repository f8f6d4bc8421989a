"""What the worker's page says that another pool size would do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from dashboard.queries import resizing
from dashboard.queries import workers as worker_queries
from demo.valkey import Server
from monitor import broker as broker_module
from monitor import models, rates
from monitor.broker import Broker
from monitor.control.inspecting import stats_of
from monitor.control.revokes import here
from tests.conftest import WorkerFactory
from tests.test_hostile_pages import harm
from tests.test_workers_page import task, worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none to be asked, whatever ran before."""
    monkeypatch.setattr(resizing, "_depth", lambda _: None)


def preview(row: models.Worker, wanted: int | None) -> resizing.Preview:
    view = worker_queries.one(row.pk)
    assert view is not None
    return resizing.preview(view, wanted)


def history(hostname: str = "a@h", runs: int = 600, seconds: float = 0.5, by: str = "worker") -> None:
    """So many runs in the last minutes, each as long."""
    runtime: rates.Histogram = {}
    rates.add(runtime, seconds, runs)
    models.Rollup.objects.create(
        width=60, by=by, key=hostname, start=int(time.time()) // 60 * 60 - 60, succeeded=runs,
        runtime={} if by == "queue" else runtime,
    )  # fmt: skip


def waiting(count: int, queue: str = "mail", **values: Any) -> None:
    """Tasks that were sent long ago and wait."""
    then = time.time() - 5_000
    times = {"seen_at": then, "first_seen_at": then, "started_at": None}
    for n in range(count):
        task(f"w{n}-{queue}", state="PENDING", queue=queue, **times | values)


def arrived(count: int, queue: str = "mail") -> None:
    """Tasks that came within the last quarter of an hour, and ended."""
    now = time.time()
    for n in range(count):
        task(
            f"a{n}", state="SUCCESS", queue=queue, first_seen_at=now - 60, seen_at=now - 50, sent_at=now - 60
        )


def busy(count: int) -> None:
    for n in range(count):
        task(f"b{n}", worker="a@h")


def text(found: resizing.Preview) -> str:
    rows = " ".join(f"{row.size}: {row.ends}, {row.drains}." for row in found.rows)
    joined = " ".join([found.now, found.flows, rows, found.no_effect, found.memory, found.basis])
    return re.sub(r"</?b>", "", joined).replace("\u00a0", " ")


def test_a_full_pool_with_a_backlog_says_when_it_drains_at_each_size() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history()
    waiting(80)
    arrived(9)
    busy(4)
    said = text(preview(row, 8))
    for part in (
        "4 of 4 slots busy (100%). 80 tasks wait in its queue, by events.",
        "About 0.01 /s arrive", "A busy slot ends about 2.0 /s",
            "4: 7.9 /s, drains in about 10 s (10 s to 10 s)",
            "8: 15.7 /s, drains in about 5.1 s", "from 600 tasks that ended well here in 15 min",
            "9 arrivals in 15 min.",
        "19 times of 20",
    ):  # fmt: skip
        assert part in said, f"{part}: {said}"
    assert [(one.size, one.is_now, one.is_wanted) for one in preview(row, 8).rows] == [
        (1, False, False), (4, True, False), (8, False, True),
    ]  # fmt: skip


def test_without_a_wanted_size_one_more_and_one_fewer_are_shown() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history()
    assert [one.size for one in preview(row, None).rows] == [3, 4, 5]
    assert preview(row, None).no_effect == ""


def test_too_little_history_is_said_and_nothing_is_computed_from_it() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history(runs=12)
    waiting(5)
    found = preview(row, 8)
    assert (found.rows, found.flows) == ([], "")
    assert (
        "Too little history to estimate: 12 tasks ended well here" in found.basis and "30 are" in found.basis
    )


def test_a_pool_that_rests_gains_nothing_by_growing() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history()
    assert preview(row, 8).no_effect == "No effect now: nothing waits in its queues."


def test_where_slots_are_idle_though_tasks_wait_the_limit_is_elsewhere() -> None:
    details = {"registered": ["shop.mail [rate_limit=10/m]"]}
    row = worker("a@h", size=4, queues=["mail"], details=details)
    waiting(9, name="shop.mail")
    busy(1)
    said = preview(row, 8).no_effect
    assert "3 slots are idle though 9 wait." in said and "shop.mail (10/m)" in said


def test_an_autoscaler_would_undo_it() -> None:
    row = worker("a@h", size=4, queues=["mail"], autoscale_max=8, autoscale_min=2)
    said = preview(row, 6).no_effect
    assert "scales itself" in said and "would undo" in said
    history()
    assert preview(row, 6).rows == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"autoscale_max": 8, "autoscale_min": 2}, "Its autoscaler would undo any other size."),
        ({"pool": "solo"}, "A solo pool is always one"),
    ],
)
def test_why_a_pool_keeps_its_size_stands_beside_the_size_and_nowhere_else(
    client: Client, values: dict[str, Any], reason: str
) -> None:
    row = worker("a@h", queues=["mail"], **values)
    history()
    for role in ("operator", "viewer"):
        client.force_login(access.create_user(role, role, "correct horse 9"))
        for address in (
            reverse("worker", args=[row.pk]),
            reverse("worker-resize", args=[row.pk]) + "?size=3",
        ):
            html = client.get(address).content.decode()
            assert re.sub(r"<[^>]*>", "", html).count(reason) == 1, (role, address)
            # A viewer may resize nothing, and is told that there; the pool's own reason is news to them.
            beside = html[html.index('id="size-no"') : html.index('id="resize-preview"')]
            assert (reason in beside) == (role == "operator")


def test_limits_of_tasks_that_wait_elsewhere_are_not_blamed() -> None:
    details = {"registered": ["shop.other [rate_limit=10/m]"]}
    row = worker("a@h", size=4, queues=["mail"], details=details)
    waiting(9, name="shop.mail")
    busy(1)
    assert "shop.other" not in preview(row, 8).no_effect
    assert "no queue" in text(preview(worker("b@h", queues=[]), 8))


def test_a_size_that_is_still_too_small_says_from_which_on_it_helps() -> None:
    row = worker("a@h", size=1, queues=["mail"])
    history(seconds=100.0)
    waiting(50)
    arrived(90)
    busy(1)
    assert "below about 11 slots it keeps growing" in preview(row, 2).no_effect
    assert "never drains, grows by" in text(preview(row, 2))


def test_a_shrink_below_what_is_busy_is_pointed_to_when_free() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    busy(3)
    assert "Only idle slots go at once: 1 slot too many" in preview(row, 2).no_effect
    assert preview(row, 3).no_effect == ""


def test_tasks_held_for_their_eta_wait_for_no_slot() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    waiting(3, eta=time.time() + 900)
    waiting(2, queue="other")
    assert "0 tasks wait" in text(preview(row, None))


def test_what_other_workers_end_of_the_same_queue_is_counted() -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history()
    history("mail", runs=1_500, by="queue")
    waiting(90)
    busy(4)
    assert "other workers end about 1.0 /s" in text(preview(row, 8))


def test_memory_is_not_claimed_to_be_known() -> None:
    row = worker("a@h", size=4, details={"stats": {"rusage": {"maxrss": 184 * 1024}}})
    said = text(preview(row, 6))
    assert "is not known" in said and "184 MB at its peak" in said and "2 more would be +368 MB" in said
    assert "it runs on another machine" in said
    for pool in ("gevent", "threads", "solo", "celery.concurrency.thread:TaskPool"):
        assert "A slot costs no process" in text(preview(worker(f"{pool[:9]}@h", pool=pool), 6)), pool
    assert "is not known" in text(preview(worker("b@h"), 6))


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ((48, 30, 4, 6_000), 6, "48 MB (proportional set, the mean of the 4 here), 30 MB of it its own."
         " 2 more would cost about 60 MB. 5.9 GB are available on this machine now."),
        ((48, 30, 4, 6_000), 2, "2 fewer would free about 60 MB"),
        ((48, 30, 1, 20), 5, "the mean of the one here), 30 MB of it its own."
         " 1 more would cost about 30 MB, more than there is. 20 MB are available"),
        ((48, None, 4, None), 5, "48 MB (resident, the mean of the 4 here; what they share is in each)."
         " 1 more would cost about 48 MB. Umbel cannot see free memory on the host."),
    ],
)  # fmt: skip
def test_memory_is_told_where_the_worker_is_on_umbels_own_machine(
    monkeypatch: pytest.MonkeyPatch, found: tuple[Any, ...], wanted: int, words: str
) -> None:
    each, own, processes, available = (None if n is None else n * 2**20 for n in found)
    memory = here.Memory(each or 0.0, own, (processes or 0) // 2**20, available)
    monkeypatch.setattr(here, "memory_of", lambda hostname, stats: memory)
    row = worker("a@h", size=4, details={"stats": {"pid": 1}})
    assert words in text(preview(row, wanted)).replace("\u00a0", " ")
    assert "would" not in resizing._memory(worker_queries.one(row.pk), None)  # type: ignore[arg-type]
    # Of one that is away nothing is read: its pids may be others' by now.
    row.status = "offline"
    row.save()
    assert "would" not in text(preview(row, wanted))


@pytest.mark.live
def test_the_pool_processes_of_a_real_worker_are_weighed(
    valkey: Server, request: pytest.FixtureRequest
) -> None:
    start: WorkerFactory = request.getfixturevalue("worker")
    one = start(valkey.url, concurrency=2)
    broker_module.configure(Broker(valkey.url))
    stats = stats_of(one.hostname) or {}
    pids = stats["pool"]["processes"]
    found = here.memory_of(one.hostname, stats)
    assert found is not None and found.processes == len(pids) == 2
    assert found.own is not None and found.available
    assert 2**20 < found.own <= found.each < 2**30
    resident = [
        int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) for pid in pids
    ]
    assert found.each <= max(resident) * 1024
    row = models.Worker.objects.create(
        hostname=one.hostname,
        status="online",
        pool="prefork",
        size=2,
        first_seen_at=1,
        details={"stats": stats},
    )  # fmt: skip
    said = text(preview(row, 4))
    assert "proportional set, the mean of the 2 here" in said and "2 more would cost about" in said
    # The same pids elsewhere are other processes.
    assert here.memory_of("w@elsewhere", stats) is None
    assert here.memory_of(one.hostname, {**stats, "pid": 1}) is None
    broker_module.current().close()


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def test_the_page_and_the_field_get_the_same_and_a_viewer_may_look(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = worker("a@h", size=4, queues=["mail"])
    history()
    monkeypatch.setattr(resizing, "_depth", lambda _: 80)
    busy(4)
    path = reverse("worker-resize", args=[row.pk])
    beside = viewer.get(path, {"size": "8"}, headers={"HX-Request": "true"}).content.decode()
    assert beside.lstrip().startswith("<ul") and "drains in about" in beside and "<b>With 8:" in beside
    assert "<b>80 tasks wait</b> in its queue, as the broker counts" in beside
    page = viewer.get(path, {"size": "8"}).content.decode()
    assert "<h1" in page or "crumbs" in page
    assert 'value="8"' in page and "in about" in page and not harm(page)
    assert viewer.post(path).status_code == 405
    assert "Expected effect" in viewer.get(reverse("worker", args=[row.pk])).content.decode()


@pytest.mark.parametrize("size", ["", "0", "-3", "abc", "501", "<b>", "9" * 30])
def test_what_is_no_size_is_named(viewer: Client, size: str) -> None:
    row = worker("a@h", size=4)
    answer = viewer.get(
        reverse("worker-resize", args=[row.pk]), {"size": size}, headers={"HX-Request": "true"}
    )
    html = answer.content.decode()
    assert answer.status_code == 200 and "pool size" in html and "<b>," not in html and not harm(html)


def test_a_pool_whose_size_is_not_known_says_so(viewer: Client) -> None:
    row = worker("a@h", size=None)
    html = viewer.get(reverse("worker-resize", args=[row.pk]), {"size": "8"}).content.decode()
    assert "Its pool size is not known yet." in html
