"""Tasks sent from Umbel on real brokers with real workers: they run once, and what came of them is told."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import pytest
import redis
from django.db import connections
from django.test import Client

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Command, Message, Refused, perform
from monitor.control.runs.originals import original
from monitor.models import ControlRecord, SentTask, Task
from tests import test_control_transports as transports
from tests.clusters import proved
from tests.conftest import Worker, WorkerFactory, shop
from tests.engines import Start, engines
from tests.runs import OPERATOR, QUICK, RETRY, RUN, body, ended, filled, known, messages, wished

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]
LONG = "a long story, " * 200


@pytest.fixture(scope="module")
def here(valkey: Server, resident: WorkerFactory) -> Worker:
    """Takes from a queue of each test."""
    queues = ("hand", "again", "bulk-again", "short", "right", "later", "flow")
    return resident(valkey.url, name="here", queues=queues, options=QUICK)


@pytest.fixture
def start() -> Iterator[Start]:
    with engines() as one:
        yield one


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


def test_a_task_run_by_hand_runs_once_and_its_page_says_so(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here, names=True)
    html = operator.get(RUN).content.decode()
    assert '<option value="shop.add">' in html and '<option value="hand">1 worker' in html
    form = filled(operator) | {"name": "shop.add", "args": "[1,\n 2]", "queue": "hand", "priority": "6"}
    answer = operator.post(RUN, form)
    assert answer.status_code == 302, answer.content.decode()
    page = answer["Location"]
    uuid = page.split("/")[2]
    html = operator.get(page).content.decode()
    assert "shop.</span>" in html or "shop." in html
    assert "Sent from Umbel" in html and "olga" in html
    row = ended(uuid, "SUCCESS")
    assert (row.result, row.name, row.queue, row.args) == ("3", "shop.add", "hand", "[1, 2]")
    assert row.sender.startswith("umbel")
    record = proved(ControlRecord.objects.get(command="send_task"))
    assert (record.effect, record.targets) == ("verified", [uuid]), record.evidence
    assert record.arguments == {"task": "shop.add", "queue": "hand", "arguments": "form", "priority": 6}
    # The second click is the same task.
    assert operator.post(RUN, form)["Location"] == page
    assert ControlRecord.objects.count() == 1 and Task.objects.filter(name="shop.add").count() == 1


def test_a_failed_task_is_retried_as_it_was_and_both_pages_say_so(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here)
    old = str(shop(valkey.url).send_task("shop.boom", kwargs={"text": "it's gone"}, queue="again").id)
    ended(old, "FAILURE")
    answer = operator.post(RETRY, {"uuid": old, "reason": "the shop is back"}, headers={"HX-Request": "true"})
    assert answer.status_code == 200
    sent = SentTask.objects.get()
    assert (sent.of, sent.source, sent.queue) == (old, "events", "again")
    assert f"/tasks/{sent.uuid}/" in answer.content.decode()
    row = ended(sent.uuid, "FAILURE")
    assert row.exception == 'ValueError("it\'s gone")'
    assert proved(sent.record).effect == "verified"
    # A second click, from anybody, moments later is the same wish; so is one from a page of before.
    operator.post(RETRY, {"uuid": old})
    SentTask.objects.update(at=time.time() - 60)
    ControlRecord.objects.update(answered_at=time.time() - 60)
    operator.post(f"{RETRY}?times=0", {"uuid": old})
    assert SentTask.objects.count() == 1
    assert f"/tasks/{sent.uuid}/" in operator.get(f"/tasks/{old}/").content.decode()
    new = operator.get(f"/tasks/{sent.uuid}/").content.decode()
    assert f"/tasks/{old}/" in new and "the task’s events" in new
    # From a page that knows, it is another wish.
    assert operator.post(f"{RETRY}?times=1", {"uuid": old}).status_code == 302
    assert SentTask.objects.filter(of=old).count() == 2


def test_one_wish_of_a_bulk_act_is_one_task_however_often_it_is_asked_for(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here)
    old = str(shop(valkey.url).send_task("shop.boom", ["x"], queue="bulk-again").id)
    answer = operator.post(RETRY, {"uuid": "00000000-0000-0000-0000-000000000000"})
    assert answer.status_code == 409 and "is in Umbel&#x27;s history" in answer.content.decode()
    ended(old, "FAILURE")
    first = wished(old, "bulk 1")
    with pytest.raises(Refused, match=r"There is a task .* already"):
        wished(old, "bulk 1")
    third = wished(old, "bulk 2")
    assert SentTask.objects.count() == 2
    for record in (first, third):
        ended(record.targets[0], "FAILURE")


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no worker is there that could tell: it need not be waited for as long."""
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 3.0)


@pytest.mark.usefixtures("_soon")
def test_the_same_wish_at_the_same_moment_is_one_task(valkey: Server) -> None:
    from monitor import models

    broker_module.configure(Broker(valkey.url))
    models.Worker.objects.create(hostname="w@h", status="online", queues=["once"], first_seen_at=1.0)
    Task.objects.create(
        uuid="wished", name="shop.add", state="FAILURE", queue="once", args="(1, 2)", kwargs="{}",
        first_seen_at=1.0, seen_at=1.0,
    )  # fmt: skip

    def wish(_: int) -> str:
        try:
            return str(wished("wished", "now").pk)
        except Refused:
            return ""
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        records = set(threads.map(wish, range(4))) - {""}
    assert len(records) == 1 and SentTask.objects.count() == 1
    assert len(messages(valkey.url, "once")) == 1
    assert "no worker has told of it yet" not in proved(ControlRecord.objects.get(pk=records.pop())).evidence


def test_what_events_cut_is_asked_for(valkey: Server, here: Worker, start: Start, operator: Client) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here)
    cut = str(shop(valkey.url).send_task("shop.boom", [LONG], queue="short").id)
    ended(cut, "FAILURE")
    answer = operator.post(RETRY, {"uuid": cut}, headers={"HX-Request": "true"})
    assert answer["HX-Redirect"] == f"{RUN}?again={cut}"
    html = operator.get(RUN, {"again": cut}).content.decode()
    assert "were cut by Celery (&quot;...&quot;)" in html and "nothing is guessed" in html
    answer = operator.post(RUN, filled(operator, again=cut))
    assert answer.status_code == 422 and "type them" in answer.content.decode()
    assert not SentTask.objects.exists()
    with pytest.raises(Refused, match="Its args were cut by Celery"):
        wished(cut, "once")
    answer = operator.post(RUN, filled(operator, again=cut) | {"args": '["told again"]'})
    sent = SentTask.objects.get()
    assert (sent.of, sent.source, sent.edited) == (cut, "form", True)
    assert ended(sent.uuid, "FAILURE").exception == "ValueError('told again')"


def test_what_events_cut_is_read_from_an_extended_result(
    valkey: Server, worker: WorkerFactory, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(valkey.url, inspect_every=1.0)
    monkeypatch.setenv("SHOP_EXTENDED", "1")
    known(worker(valkey.url, queues=("long",), options=QUICK, name="extended"))
    kept = str(shop(valkey.url).send_task("shop.boom", [LONG], queue="long").id)
    ended(kept, "FAILURE")
    record = proved(wished(kept, "once"))
    sent = SentTask.objects.get(of=kept)
    assert (record.effect, sent.source) == ("verified", "result"), record.evidence
    ended(sent.uuid, "FAILURE")
    told = broker_module.current().read_inputs([sent.uuid])[sent.uuid]
    assert told.args == [LONG]


@pytest.mark.usefixtures("_soon")
def test_a_waiting_message_is_sent_again_whole_and_its_secrets_are_on_no_page(
    valkey: Server, start: Start, operator: Client
) -> None:
    start(valkey.url)
    app, queue = shop(valkey.url), "nobody-here"
    kwargs = {"user": "ann", "password": "hunter2", "dsn": "redis://:s3cret@h/0"}
    old = str(
        app.send_task(
            "shop.nap", [1], kwargs, queue=queue, priority=6, headers={"x-trace": "t1"}, time_limit=40
        ).id
    )
    ended(old, "PENDING")
    with pytest.raises(Refused, match=r"has not ended \(PENDING\)"):
        wished(old, "once")
    html = operator.get(RUN, {"again": old}).content.decode()
    assert "the task’s message at the broker" in html and "has not ended" in html
    form = filled(operator, again=old)
    assert json.loads(form["kwargs"])["password"] == "[hidden]" and form["priority"] == "6"
    answer = operator.post(RUN, form)
    assert answer.status_code == 422 and "No online worker consumes" in answer.content.decode()
    assert not SentTask.objects.exists()
    ticks = re.findall(r'name="despite" value="([^"]+)"', answer.content.decode())
    answer = operator.post(RUN, form | {"despite": [unescape(tick) for tick in ticks]})
    assert answer.status_code == 302, answer.content.decode()
    sent = SentTask.objects.get()
    new, first = messages(valkey.url, f"{queue}\x06\x166")
    assert (first["headers"]["id"], new["headers"]["id"]) == (old, sent.uuid)
    assert body(new)[:2] == body(first)[:2] == [[1], kwargs]
    assert new["headers"]["x-trace"] == "t1" and new["headers"]["timelimit"] == [40, None]
    assert new["properties"]["priority"] == 6 and (sent.source, sent.edited) == ("message", False)
    record = proved(sent.record)
    assert record.effect == "partly"
    assert f"It waits in {queue}, at place 2 of 2. No online worker consumes {queue}" in record.evidence
    pages = [html, answer.content.decode(), operator.get(f"/tasks/{sent.uuid}/").content.decode()]
    pages += [operator.get(f"/audit/{record.pk}/").content.decode(), json.dumps(record.arguments)]
    assert not [page for page in pages if "hunter2" in page or "s3cret" in page]


@pytest.mark.usefixtures("_soon")
def test_a_queue_that_is_not_there_and_a_name_nobody_knows_want_a_word(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here, names=True)

    def message(name: str, queue: str) -> Command:
        uuid = f"{name}-{queue}-{time.time()}"
        return Command("send_task", (uuid,), messages=(Message(uuid, name, queue, [1, 2]),))

    with pytest.raises(Refused, match="has no queue called 'wrong'"):
        perform(message("shop.add", "wrong"), OPERATOR)
    with pytest.raises(Refused, match=r"'shop\.ad' is not registered on .*discards its message"):
        perform(message("shop.ad", "right"), OPERATOR)
    form = filled(operator) | {"name": "shop.add", "args": "[1, 2]", "queue": "wrong"}
    html = operator.post(RUN, form).content.decode()
    assert "has no queue called" in html and not messages(valkey.url, "wrong")
    (tick,) = [unescape(one) for one in re.findall(r'name="despite" value="([^"]+)"', html)]
    # A tick at one queue is none at another.
    assert operator.post(RUN, form | {"queue": "worse", "despite": tick}).status_code == 422
    assert operator.post(RUN, form | {"despite": tick}).status_code == 302
    assert len(messages(valkey.url, "wrong")) == 1 and not messages(valkey.url, "worse")
    assert SentTask.objects.get().record.arguments["despite"] == ["new queue"]


def test_what_a_worker_holds_is_asked_of_it_and_shown_as_its_sender_shows_it(
    valkey: Server, worker: WorkerFactory, start: Start
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(worker(valkey.url, queues=("held",), concurrency=1, options=QUICK))
    app = shop(valkey.url)
    plain = str(app.send_task("shop.nap", [8], {"token": "hunter2"}, queue="held").id)
    veiled = str(app.send_task("shop.nap", [0.1], queue="held", argsrepr="('***',)").id)
    ended(plain, "STARTED")
    ended(veiled, "RECEIVED")
    found = original(plain)
    assert found is not None and (found.source, found.queue) == ("worker", "held")
    assert (found.args.value, found.kwargs.value) == ([8], {"token": "hunter2"})
    assert found.kwargs.shown == {"token": "[hidden]"}
    # Unacknowledged: its message is still there.
    found = original(veiled)
    assert found is not None and found.source in ("message", "worker")
    assert (found.args.value, found.args.shown, found.argsrepr) == ([0.1], "[hidden]", "('***',)")


def test_a_countdown_and_an_expiry_reach_the_worker(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here)
    form = {"name": "shop.add", "args": "[1, 2]", "queue": "later"}
    form = filled(operator) | form
    began = time.time()
    operator.post(RUN, form | {"countdown": "2"})
    sent = SentTask.objects.get()
    assert sent.eta is not None and began + 2 <= sent.eta <= time.time() + 2
    row = ended(sent.uuid, "SUCCESS")
    assert row.started_at is not None and row.started_at >= sent.eta - 0.2
    form |= {"token": filled(operator)["token"], "expires_in": "30", "countdown": "0"}
    operator.post(RUN, form)
    late = SentTask.objects.exclude(pk=sent.pk).get()
    assert late.expires is not None
    assert ended(late.uuid, "SUCCESS").expires == pytest.approx(late.expires, abs=0.001)


def test_under_a_key_prefix_it_reaches_the_worker_and_leaves_no_other_key(
    own_valkey: Server, tmp_path: Path
) -> None:
    # A server of its own: kombu keeps one pool for all who use a URL, whatever their prefix.
    valkey = own_valkey
    broker_module.configure(Broker(valkey.url, key_prefix="shop-"))
    from monitor import models

    with transports.worker(valkey.url, tmp_path, global_keyprefix="shop-"):
        models.Worker.objects.create(
            hostname=transports.NAME, status="online", queues=["celery"], first_seen_at=1.0
        )
        with redis.Redis.from_url(valkey.url) as client:
            before = set(client.keys("*"))
            message = Message("prefixed-1", "shop.nap", "celery", [3], {})
            record = perform(Command("send_task", ("prefixed-1",), messages=(message,)), OPERATOR)
            record = proved(record)
            assert "holds it" in record.evidence and record.effect == "verified", record.evidence
            left = {key for key in set(client.keys("*")) - before if b"unacked" not in key}
            assert left == set()


def test_a_broker_that_is_away_gets_nothing_and_the_form_says_so(operator: Client) -> None:
    broker_module.configure(Broker("redis://:pw-of-broker@127.0.0.1:1/0"))
    Task.objects.create(
        uuid="old", name="shop.add", state="FAILURE", queue="q", args="(1, 2)", kwargs="{}",
        first_seen_at=1.0, seen_at=1.0,
    )  # fmt: skip
    html = operator.get(RUN, {"again": "old"}).content.decode()
    assert "[1, 2]" in html and "cannot be asked" in html and "pw-of-broker" not in html
    html = operator.get(RUN, {"again": "old"}).content.decode()
    form = filled(operator, again="old")
    ticks = re.findall(r'name="despite" value="([^"]+)"', html)
    answer = operator.post(RUN, form | {"despite": [unescape(tick) for tick in ticks]})
    assert answer.status_code == 503
    html = answer.content.decode()
    assert "Not sent." in html and "cannot be reached" in html and "pw-of-broker" not in html
    assert re.findall(r'name="token" value="([^"]+)"', html) != [form["token"]]
    sent = SentTask.objects.get()
    proved(sent.record)
    page = operator.get(f"/tasks/{sent.uuid}/").content.decode()
    assert "Not sent" in page and "tried to send" in page


def test_the_failed_tasks_of_a_workflow_are_run_again_and_the_others_say_why_not(
    valkey: Server, here: Worker, start: Start, operator: Client
) -> None:
    start(valkey.url, inspect_every=1.0)
    known(here)
    app = shop(valkey.url)
    root = str(app.send_task("shop.add", [1, 2], queue="flow").id)
    kin = {"root_id": root, "parent_id": root, "queue": "flow"}
    failed = [str(app.send_task("shop.boom", [f"no {n}"], **kin).id) for n in range(2)]
    cut = str(app.send_task("shop.boom", ["x" * 3000], **kin).id)
    for uuid in (*failed, cut):
        ended(uuid, "FAILURE")
    ended(root, "SUCCESS")
    page = operator.get(f"/tasks/{root}/").content.decode()
    assert "Run 3 failed again" in page
    html = operator.get("/tasks/run/failed/", {"of": root}).content.decode()
    assert "Run 2 failed tasks again?" in html and "A chord’s body does not fire by this" in html
    assert "Its args were cut by Celery" in html
    chosen = re.findall(r'type="checkbox" name="uuid" value="([^"]+)" checked', html)
    assert set(chosen) == set(failed)
    token = re.findall(r'name="token" value="([^"]+)"', html)[0]
    # What cannot be sent as it was is not sent, whatever is posted.
    form = {"of": root, "uuid": [*chosen, cut, "elsewhere"], "token": token}
    answer = operator.post("/tasks/run/failed/", form)
    assert answer.status_code == 302
    sent = {one.of: one.uuid for one in SentTask.objects.all()}
    assert set(sent) == set(failed)
    for uuid in sent.values():
        ended(uuid, "FAILURE")
    assert operator.post("/tasks/run/failed/", form)["Location"] == answer["Location"]
    assert SentTask.objects.count() == 2
    record = proved(ControlRecord.objects.get(command="send_task"))
    assert record.effect == "verified" and len(record.seen) == 2
    html = operator.get("/tasks/run/failed/", {"of": root}).content.decode()
    assert "Run again already" in html and not re.findall(r'name="uuid" value="[^"]+" checked', html)
