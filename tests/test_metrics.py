"""What Prometheus reads: Flower's six families, Umbel's own, all bounded; and whether Umbel is ready."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from django.db import OperationalError
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from dashboard import access
from dashboard.api import metrics as module
from dashboard.api.exposition import Exposition
from dashboard.queries import feed as feed_queries
from dashboard.queries import metrics as queries
from monitor import models, rates
from monitor.records import Accounting, FeedRecord

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("now")]

NOW = time.time()
# Name, type and labels of Flower 2.2's families.
FLOWER = {
    "flower_events": ("counter", {"worker", "type", "task"}),
    "flower_task_runtime_seconds": ("histogram", {"worker", "task", "le"}),
    "flower_task_prefetch_time_seconds": ("gauge", {"worker", "task"}),
    "flower_worker_prefetched_tasks": ("gauge", {"worker", "task"}),
    "flower_worker_online": ("gauge", {"worker"}),
    "flower_worker_number_of_currently_executing_tasks": ("gauge", {"worker"}),
}


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def families(client: Client) -> dict[str, Any]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = list(text_string_to_metric_families(answer.content.decode()))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def samples(family: Any, suffix: str = "") -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for sample in family.samples
        if not suffix or sample.name.endswith(suffix)
    }


def worker(hostname: str, status: str = "online", **more: Any) -> None:
    models.Worker.objects.create(hostname=hostname, status=status, first_seen_at=NOW, **more)


def pair(worker: str, name: str, runtimes: tuple[float, ...] = (), **counts: int) -> None:
    histogram: dict[int, int] = {}
    for seconds in runtimes:
        rates.add(histogram, seconds)
    models.Rollup.objects.create(
        width=0, by="pair", start=0, key=f"{worker}\n{name}", runtime=histogram, **counts
    )


def task(uuid: str, state: str, **more: Any) -> None:
    fields = {"name": "shop.add", "worker": "w@h", "first_seen_at": NOW, "seen_at": NOW}
    models.Task.objects.create(uuid=uuid, state=state, **(fields | more))


def feed(**more: Any) -> None:
    record = FeedRecord(connected=True, started_at=NOW - 60, **more)
    models.Feed.objects.update_or_create(
        pk=1, defaults={"at": time.time(), "data": msgspec.to_builtins(record)}
    )


def test_flowers_six_families_have_their_names_types_and_labels(viewer: Client) -> None:
    worker("w@h", busy=2)
    pair("w@h", "shop.add", (0.02, 0.3), received=3, succeeded=2)
    found = families(viewer)
    for name, (kind, labels) in FLOWER.items():
        assert found[name].type == kind, name
        assert {label for sample in found[name].samples for label in sample.labels} == labels, name


def test_events_are_counted_by_worker_type_and_task(viewer: Client) -> None:
    worker("w@h")
    pair("w@h", "shop.add", received=3, started=3, succeeded=2, failed=1, retried=4, revoked=5, rejected=6)
    found = samples(families(viewer)["flower_events"])
    assert found == {
        ("w@h", "task-received", "shop.add"): 3, ("w@h", "task-started", "shop.add"): 3,
        ("w@h", "task-succeeded", "shop.add"): 2, ("w@h", "task-failed", "shop.add"): 1,
        ("w@h", "task-retried", "shop.add"): 4, ("w@h", "task-revoked", "shop.add"): 5,
        ("w@h", "task-rejected", "shop.add"): 6,
    }  # fmt: skip


def test_no_client_and_no_forgotten_worker_is_a_label(viewer: Client) -> None:
    worker("w@h")
    pair("gen123@h", "shop.add", received=3)
    pair("other", "other", received=9)
    assert set(samples(families(viewer)["flower_events"])) == {("other", "task-received", "other")}


def test_runtimes_are_cumulative_with_flowers_bounds(viewer: Client) -> None:
    worker("w@h")
    pair("w@h", "shop.add", (0.02, 0.3, 0.3, 60.0), succeeded=4)
    family = families(viewer)["flower_task_runtime_seconds"]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert list(buckets) == [
        "0.005",
        "0.01",
        "0.025",
        "0.05",
        "0.075",
        "0.1",
        "0.25",
        "0.5",
        "0.75",
        "1.0",
        "2.5",
        "5.0",
        "7.5",
        "10.0",
        "+Inf",
    ]
    assert (buckets["0.01"], buckets["0.025"], buckets["0.5"], buckets["10.0"]) == (0, 1, 3, 3)
    assert buckets["+Inf"] == 4 == samples(family, "_count")["w@h", "shop.add"]
    assert samples(family, "_sum")["w@h", "shop.add"] == pytest.approx(60.62, rel=rates.RELATIVE_ERROR)


def test_the_dead_are_not_online_and_run_nothing_and_silence_is_not_told_as_either(viewer: Client) -> None:
    worker("a@h", busy=3)
    worker("dead@h", "offline", busy=2)
    worker("unknown@h", "unknown", busy=2)
    worker("beat@h", is_beat=True)
    found = families(viewer)
    assert samples(found["flower_worker_online"]) == {("a@h",): 1, ("dead@h",): 0}
    executing = samples(found["flower_worker_number_of_currently_executing_tasks"])
    assert executing == {("a@h",): 3, ("dead@h",): 0}
    assert samples(found["umbel_workers"]) == {("online",): 1, ("offline",): 1, ("unknown",): 1}


def test_prefetched_counts_what_waits_in_a_worker_without_what_has_an_eta(viewer: Client) -> None:
    worker("w@h")
    pair("w@h", "shop.idle", failed=1)
    task("1", "RECEIVED", received_at=NOW - 5)
    task("2", "RECEIVED", received_at=NOW - 5)
    task("3", "RECEIVED", received_at=NOW - 5, eta=NOW + 60)
    task("4", "RECEIVED", received_at=NOW - 5, worker="")
    task("5", "STARTED", received_at=NOW - 5, started_at=NOW - 3)
    task("6", "STARTED", received_at=NOW - 9, started_at=NOW - 8, seen_at=NOW - 8)
    found = families(viewer)
    waiting = samples(found["flower_worker_prefetched_tasks"])
    assert waiting == {("w@h", "shop.add"): 2, ("w@h", "shop.idle"): 0}
    waits = samples(found["flower_task_prefetch_time_seconds"])
    assert waits == {("w@h", "shop.add"): pytest.approx(2.0), ("w@h", "shop.idle"): 0}


def test_umbels_own_accounting_is_there_and_adds_up(viewer: Client) -> None:
    counts = Accounting(received=10, applied=5, duplicate=2, malformed=1, ignored=1, dropped=1, missed=7)
    counts.refused["too large"] = 1
    feed(accounting=counts, lag=0.25, store_pending=3, store_failures=2, limits={"tasks": 4})
    worker("w@h", missed=7)
    found = families(viewer)
    fates = samples(found["umbel_events"])
    assert sum(fates.values()) == 10 == samples(found["umbel_events_received"])[()]
    assert fates["duplicate",] == 2
    assert samples(found["umbel_events_missed"])[()] == 7
    assert samples(found["umbel_events_balanced"])[()] == 1
    assert samples(found["umbel_events_refused"]) == {("too large",): 1}
    assert samples(found["umbel_let_go"]) == {("tasks",): 4}
    assert samples(found["umbel_worker_events_missed"]) == {("w@h",): 7}
    assert samples(found["umbel_event_lag_seconds"])[()] == 0.25
    assert samples(found["umbel_store_pending"])[()] == 3
    assert samples(found["umbel_store_failures"])[()] == 2


def test_the_whole_feed_is_told_and_the_whole_accounting(viewer: Client) -> None:
    feed(lag=0.0, worst_drift=0.0, last_event_at=NOW)
    text = viewer.get("/metrics").content.decode()
    for name in queries.numbers(FeedRecord()):
        assert f"umbel_feed_{name} " in text
    for name, value in msgspec.structs.asdict(Accounting()).items():
        if isinstance(value, int):
            assert f"umbel_events_{name}_total " in text or f'fate="{name}"' in text


def test_overload_is_told(viewer: Client) -> None:
    feed(
        shed_level=4, shed_highest=5, shed={"arguments": 7}, waiting=9, silent=3,
        output_waiting=1024, output_limit=33_554_432, output_cuts=2,
    )  # fmt: skip
    task("1", "RECEIVED", queue="mail", received_at=NOW - 60)
    found = families(viewer)
    assert samples(found["umbel_shed_level"])[()] == 4
    assert samples(found["umbel_shed_level_highest"])[()] == 5
    assert samples(found["umbel_shed"]) == {("arguments",): 7}
    assert samples(found["umbel_events_waiting"])[()] == 9
    assert samples(found["umbel_events_silent"])[()] == 3
    assert samples(found["umbel_redis_output_waiting_bytes"])[()] == 1024
    assert samples(found["umbel_redis_output_cuts"])[()] == 2
    assert samples(found["umbel_queue_waiting"]) == {("mail",): 1}
    assert samples(found["umbel_queue_oldest_seconds"])["mail",] == pytest.approx(60, abs=30)


def test_the_feed_page_says_what_gives_way_and_what_never_came(viewer: Client) -> None:
    assert "Nothing gives way" in viewer.get("/feed/").content.decode()
    feed(shed_level=4, shedding="arguments are let go", shed={"<i>": 7}, silent=31, output_limit=33_554_432)
    html = viewer.get("/feed/").content.decode()
    assert "4 of 5" in html and "arguments are let go" in html and "&lt;i&gt;" in html
    assert "31" in html and "not known" in html and "32.0" in html


def test_blind_time_is_told(viewer: Client) -> None:
    models.Gap.objects.create(started_at=NOW - 100, ended_at=NOW - 90)
    models.Gap.objects.create(started_at=NOW - 3 * 86_400, ended_at=NOW - 2 * 86_400)
    found = families(viewer)
    assert samples(found["umbel_blind_seconds"])[()] == pytest.approx(10, abs=0.1)
    assert (samples(found["umbel_gaps"])[()], samples(found["umbel_blind"])[()]) == (1, 0)
    models.Gap.objects.create(started_at=NOW - 5)
    found = families(viewer)
    assert (samples(found["umbel_gaps"])[()], samples(found["umbel_blind"])[()]) == (2, 1)


def test_nothing_known_yet_is_not_told_as_zero(viewer: Client) -> None:
    found = families(viewer)
    assert "umbel_event_lag_seconds" not in found
    assert "umbel_feed_told_timestamp_seconds" not in found
    assert "process_resident_memory_bytes" in found


@pytest.mark.parametrize(
    "name", ['a"b\\c\nd', "ключ@хост", "\ud800@h".encode("utf-8", "replace").decode(), "\u202ex@h", "x" * 250]
)
def test_hostile_names_are_still_one_label(viewer: Client, name: str) -> None:
    worker(name)
    (labels,) = samples(families(viewer)["flower_worker_online"])
    assert labels == (name[:200],)


def test_past_the_bound_labels_are_summed_under_other() -> None:
    out = Exposition()
    out.add("a", "gauge", "A.", {(str(n),): 1.0 for n in range(10)}, ("worker",), most=3)
    out.add("b_total", "counter", "B.", {("other",): 5.0, ("x",): 1.0, ("y",): 2.0}, ("worker",), most=2)
    ten = {(str(n),): ([("1.0", n), ("+Inf", 10)], 0.5) for n in range(10)}
    out.histogram("c", "C.", ten, ("worker",), most=8)
    found = {family.name: family for family in text_string_to_metric_families(out.text())}
    assert samples(found["a"]) == {("0",): 1, ("1",): 1, ("2",): 1, ("other",): 7}
    assert samples(found["b"]) == {("other",): 7, ("x",): 1}
    assert samples(found["c"], "_count")["other",] == 20
    assert samples(found["c"], "_sum")["other",] == 1.0
    assert [s.value for s in found["c"].samples if s.labels == {"worker": "other", "le": "1.0"}] == [17]
    assert out.let_go == {"a": 7, "b_total": 1, "c": 2}


def test_a_scrape_of_a_large_cluster_is_small_and_quick(viewer: Client) -> None:
    models.Worker.objects.bulk_create(
        models.Worker(hostname=f"worker-{n}@host-{n % 50}.example", status="online" if n % 3 else "offline",
                      busy=n % 5, missed=n % 2, first_seen_at=NOW)
        for n in range(6_000)
    )  # fmt: skip
    models.Rollup.objects.bulk_create(
        models.Rollup(width=0, by="pair", start=0, received=n + 1, started=n + 1, succeeded=n + 1,
                      key=f"worker-{n % 5000}@host-{n % 50}.example\nproject.module.task_{n % 1000}",
                      runtime={"-40": 3, "0": 4, "50": 1})
        for n in range(1_000)
    )  # fmt: skip
    feed()
    took, text = 9.9, b""
    for _ in range(3):  # a collection of garbage, or another's interrupt, is not its own
        began = time.process_time()
        text = module.exposed()
        took = min(took, time.process_time() - began)
    assert len(text) < 2_000_000
    assert took < 0.25, f"{took:.3f} s of CPU"  # about 0.07 on a quiet machine
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    folded = samples(found["umbel_metrics_label_sets_folded"])
    assert folded["flower_worker_online",] == 1_000
    online = samples(found["flower_worker_online"])
    assert len(online) == 5_001
    assert sum(online.values()) == 4_000
    events = samples(found["flower_events"])
    assert len(events) == 3_000
    assert sum(events.values()) == 3 * sum(range(1, 1_001))
    assert samples(found["flower_task_runtime_seconds"], "_count")["other", "other"] == 8 * (1_000 - 150)


# Ready


def test_the_healthcheck_says_ok_to_anyone_and_nothing_else(client: Client) -> None:
    for path in ("/healthcheck", "/healthz"):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (200, b"OK")


HEALTHY = {"lag": 0.2, "accounting": Accounting(received=3, applied=3)}


@pytest.mark.parametrize(
    ("more", "reasons"),
    [
        ({}, []),
        ({"connected": False}, ["broker"]),
        ({"lag": 10.5}, ["lag"]),
        ({"store_error": "disk full"}, ["store"]),
        ({"accounting": Accounting(received=4, applied=3)}, ["imbalance"]),
        ({"connected": False, "lag": 11.0}, ["broker", "lag"]),
    ],
)
def test_ready_is_said_with_reasons(client: Client, more: dict[str, Any], reasons: list[str]) -> None:
    record = FeedRecord(**({"connected": True} | HEALTHY | more))
    models.Feed.objects.create(pk=1, at=time.time(), data=msgspec.to_builtins(record))
    answer = client.get("/readyz")
    assert answer.status_code == (503 if reasons else 200)
    assert answer.json() == {"ready": not reasons, "reasons": reasons}


def test_an_engine_that_never_spoke_or_fell_silent_is_not_ready(client: Client) -> None:
    assert client.get("/readyz").json()["reasons"] == ["engine"]
    feed()
    models.Feed.objects.update(at=time.time() - 60)
    assert client.get("/readyz").json()["reasons"] == ["engine"]


def test_a_database_that_is_away_is_not_ready_but_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(now: float | None = None) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(feed_queries, "freshness", locked)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["database"])
    assert client.get("/healthcheck").status_code == 200
