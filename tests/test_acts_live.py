"""A bulk revoke of thousands of queued tasks, and a real worker that then reaches them: none runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.test import Client

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_room
from monitor.acts import making
from monitor.acts.batches import Acts
from monitor.acts.making import Frozen, List
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Keeper, look_together, perform
from monitor.control.inspecting import Seen, seen_on
from monitor.models import ControlRecord, Task, Worker
from tests.acts import MILA
from tests.conftest import WorkerFactory, shop, wait_until
from tests.engines import Start, engines

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]
MANY = 5_000
COUNTER = "ran"


@pytest.fixture
def start() -> Iterator[Start]:
    with engines() as one:
        yield one


def send(url: str, many: int, queue: str) -> list[str]:
    """Tasks that each leave a mark when they run."""
    app, uuids = shop(url), []
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(many):
            uuids.append(str(app.send_task("shop.mark", (url, COUNTER), queue=queue, producer=producer).id))
    return uuids


def test_thousands_of_queued_tasks_are_revoked_by_filter_and_none_of_them_runs(
    own_valkey: Server, start: Start, worker: WorkerFactory
) -> None:
    url = own_valkey.url
    acts = Acts(perform, rate=MANY / 5)
    engine = start(url, acts=acts.look, keeper=Keeper(perform).look)
    one = worker(url, concurrency=2, queues=("celery",), options=("--prefetch-multiplier=4",))
    wait_until(lambda: Worker.objects.filter(hostname=one.hostname, status="online").exists(), 20)
    uuids = send(url, MANY, "pile")
    waiting = Task.objects.filter(name="shop.mark", state="PENDING")
    wait_until(lambda: waiting.count() == MANY, 60, what="all tasks as rows")

    client = Client()
    client.force_login(access.create_user("mila", "operator", "correct horse 9"))
    answer = client.post("/tasks/revoke/", {"all": "?queue=pile&name=shop.mark"})
    assert f"Revoke {MANY:,} waiting tasks?" in answer.content.decode()
    act = BulkAct.objects.get()
    client.post(f"/acts/{act.pk}/confirm/", {"reason": "wrong prices", "hold": "1"})
    wait_until(lambda: BulkAct.objects.get().state == "settling", 120, every=0.2, what="all sent")
    records = ControlRecord.objects.filter(command="revoke", username="mila")
    assert records.count() == -(-MANY // 500) and max(len(r.targets) for r in records) == 500
    assert Counter(ActTarget.objects.values_list("outcome", flat=True)) == {"sent": MANY}
    assert redis.Redis.from_url(url).get(COUNTER) is None

    # Now the worker reaches them.
    shop(url).control.add_consumer("pile", destination=[one.hostname], reply=True)
    wait_until(lambda: BulkAct.objects.get().state == "done", 240, every=0.5, what="all settled")
    assert Counter(ActTarget.objects.values_list("outcome", flat=True)) == {"confirmed": MANY}
    assert Counter(Task.objects.filter(name="shop.mark").values_list("state", flat=True)) == {"REVOKED": MANY}
    assert set(Task.objects.filter(name="shop.mark").values_list("uuid", flat=True)) == set(uuids)
    page = client.get(f"/acts/{act.pk}/").content.decode()
    assert f"{MANY:,} tasks revoked, confirmed" in page
    wait_until(lambda: not records.filter(completed_at=None).exists(), 20)

    # The mark is one that a task leaves which does run.
    client_of_marks = redis.Redis.from_url(url)
    assert client_of_marks.get(COUNTER) is None
    send(url, 1, "pile")
    wait_until(lambda: client_of_marks.get(COUNTER) == b"1", 20, what="a task that was not revoked")
    assert engine.crashes == {}
    broker_room.current().close()


def test_an_act_goes_on_after_a_restart_of_umbel_and_nothing_is_sent_twice(
    own_valkey: Server, start: Start, worker: WorkerFactory
) -> None:
    url = own_valkey.url
    one = worker(url, concurrency=1, queues=("celery",))
    first = start(url, acts=Acts(perform, rate=500.0).look)
    wait_until(lambda: Worker.objects.filter(hostname=one.hostname, status="online").exists(), 20)
    now = time.time()
    uuids = [f"waits-{n}" for n in range(1_600)]
    Task.objects.bulk_create(
        Task(uuid=u, name="shop.add", state="PENDING", first_seen_at=now, seen_at=now) for u in uuids
    )
    frozen = [Frozen(u, "PENDING", 0.0, "shop.add") for u in uuids]
    act = making.confirm(making.draft("revoke", List(frozen, "all"), MILA).pk, MILA, {}, reason="x", hold=0)
    commands = ControlRecord.objects.filter(command="revoke", answered_at__isnull=False)
    wait_until(lambda: commands.count() >= 1, 20)
    assert first.stop(20)
    sent_before = commands.count()
    assert BulkAct.objects.get(pk=act.pk).state == "sending" and sent_before < 4
    start(url, acts=Acts(perform, rate=5_000.0).look)
    wait_until(lambda: BulkAct.objects.get(pk=act.pk).state == "settling", 60)
    sent = [uuid for record in commands for uuid in record.targets]
    assert len(sent) == len(set(sent)) == 1_600 and commands.count() == 4
    answers = shop(url).control.inspect([one.hostname], timeout=5).revoked() or {}
    assert set(answers[one.hostname]) == set(uuids)
    wait_until(lambda: not ControlRecord.objects.filter(completed_at=None).exists(), 20)


def test_workers_are_asked_once_for_all_batches_and_not_for_each(
    own_valkey: Server, start: Start, worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = own_valkey.url, []

    def counted(*args: Any, **options: Any) -> dict[str, Seen]:
        asked.append(time.monotonic())
        return seen_on(*args, **options)

    monkeypatch.setattr("monitor.control.performing.seen_on", counted)
    ones = [worker(url, name=name, concurrency=1, queues=("celery",)) for name in ("left", "right")]
    start(url, acts=Acts(perform, rate=50_000.0, look_at=look_together).look)
    wait_until(lambda: Worker.objects.filter(status="online").count() == 2, 20)
    now = time.time()
    uuids = [f"waits-{n}" for n in range(MANY)]
    Task.objects.bulk_create(
        Task(uuid=u, name="shop.add", state="PENDING", first_seen_at=now, seen_at=now) for u in uuids
    )
    frozen = [Frozen(u, "PENDING", 0.0, "shop.add") for u in uuids]
    act = making.confirm(making.draft("revoke", List(frozen, "all"), MILA).pk, MILA, {}, reason="x", hold=0)
    wait_until(lambda: BulkAct.objects.get(pk=act.pk).state == "settling", 60)
    commands = ControlRecord.objects.filter(command="revoke")
    wait_until(lambda: not commands.filter(completed_at=None).exists(), 20, what="verification")
    for record in commands:
        # Who was too busy to answer in time has noted it, too, and is said to have heard of it late.
        late = any(reply["outcome"] == "silent" for reply in record.replies)
        assert record.effect == ("partly" if late else "verified"), record.evidence
    assert commands.count() == MANY // 500 and len(asked) <= 2, f"{len(asked)} looks"
    text = "Both workers will skip it; it takes effect when a worker reaches it."
    found = ActTarget.objects.filter(act=act, text__startswith=text)
    wait_until(lambda: found.count() == MANY, 20, what="each target knows it")
    answers = shop(url).control.inspect([one.hostname for one in ones], timeout=5).revoked() or {}
    assert {name: len(set(ids)) for name, ids in answers.items()} == {one.hostname: MANY for one in ones}


def test_all_that_failed_are_retried_once_and_a_worker_is_drained_with_others(
    own_valkey: Server, start: Start, worker: WorkerFactory
) -> None:
    url = own_valkey.url
    one = worker(url, concurrency=1, queues=("celery",))
    start(url, acts=Acts(perform).look, inspect_every=1.0)
    row = wait_until(lambda: Worker.objects.filter(hostname=one.hostname, status="online").first(), 20)
    for n in range(5):
        shop(url).send_task("shop.boom", [f"no order {n}"])
    failed = Task.objects.filter(name="shop.boom", state="FAILURE")
    wait_until(lambda: failed.count() == 5, 20)

    client = Client()
    client.force_login(access.create_user("mila", "operator", "correct horse 9"))
    answer = client.post("/tasks/retry/", {"all": "?name=shop.boom"})
    assert "Retry 5 tasks?" in answer.content.decode()
    act = BulkAct.objects.get()
    for _ in range(2):
        client.post(f"/acts/{act.pk}/confirm/", {"reason": "the shop is open again", "hold": "0"})
    wait_until(lambda: BulkAct.objects.get().state == "done", 40, every=0.2, what="all settled")
    found = ActTarget.objects.filter(act=act)
    assert Counter(found.values_list("outcome", flat=True)) == {"confirmed": 5}, found[0].text
    wait_until(lambda: failed.count() == 10, 20, what="each has failed once more")
    record = ControlRecord.objects.get(command="send_task")
    assert (record.username, record.reason, len(record.targets)) == ("mila", "the shop is open again", 5)
    page = client.get(f"/acts/{act.pk}/").content.decode()
    assert "5 tasks sent again, confirmed" in page and "It was sent again as" in page

    assert wait_until(lambda: Worker.objects.get(pk=row.pk).queues == ["celery"], 20)
    answer = client.post("/workers/drain/many/", {"worker": [row.pk]})
    assert "Drain 1 worker?" in answer.content.decode()
    draft = BulkAct.objects.get(state="draft")
    client.post(f"/acts/{draft.pk}/confirm/", {"reason": "a new release", "hold": "0"})
    wait_until(lambda: BulkAct.objects.get(pk=draft.pk).state == "done", 40, every=0.2)
    assert ActTarget.objects.get(act=draft).outcome == "confirmed"
    assert Worker.objects.get(pk=row.pk).queues == []
    wait_until(lambda: not ControlRecord.objects.filter(completed_at=None).exists(), 20)
