"""The forms that run tasks: who may, what was typed wrong, tokens of others, and arguments of strangers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_module
from monitor import control as engine
from monitor.broker import Broker
from monitor.control import Actor, Command, Message, Refused, perform
from monitor.control.orders import Order
from monitor.control.runs.arriving import arrived
from monitor.control.runs.originals import agrees, original
from monitor.control.runs.routes import reserved, route
from monitor.models import ControlRecord, SentTask, Task, Worker

pytestmark = pytest.mark.django_db

RUN, RETRY, FAILED = "/tasks/run/", "/tasks/retry/", "/tasks/run/failed/"
FORM = {"name": "shop.add", "args": "[1, 2]", "kwargs": "", "queue": "mail"}
OPERATOR = Actor(None, "ada", "operator")


class Sent:
    """Stands in for the engine: keeps the record and what would be sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refuse = ""

    def __call__(self, command: Command, actor: Actor, **more: Any) -> ControlRecord:
        if self.refuse:
            raise Refused(self.refuse)
        now = time.time()
        record = ControlRecord.objects.create(
            at=now, user_id=actor.user_id, username=actor.username, role=actor.role, command=command.name,
            targets=list(command.targets), reason=command.reason, sent_at=now, answered_at=now,
        )  # fmt: skip
        for one in command.messages:
            SentTask.objects.create(
                uuid=one.uuid, of=one.of, name=one.name, queue=one.queue, source=one.source,
                edited=one.edited, eta=one.eta, expires=one.expires, record=record, at=now,
            )  # fmt: skip
        self.messages += command.messages
        return record


@pytest.fixture(autouse=True)
def _broker(valkey: Server) -> Iterator[None]:
    broker_module.configure(Broker(valkey.url))
    Worker.objects.create(
        hostname="w@h", status="online", pool="prefork", size=2, first_seen_at=1.0, queues=["mail"],
        details={"registered": ["shop.add", "shop.boom [rate_limit=10/m]"]},
    )  # fmt: skip
    yield
    broker_module.current().close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    one = Sent()
    monkeypatch.setattr(engine, "perform", one)
    return one


def signed_in(role: str = "operator", name: str = "", **options: Any) -> Client:
    client = Client(**options)
    client.force_login(access.create_user(name or role, role, "correct horse 9"))
    return client


def token(client: Client, path: str = RUN) -> str:
    return re.findall(r'name="token" value="([^"]+)"', client.get(path).content.decode())[0]


def task(uuid: str, state: str = "FAILURE", **more: Any) -> Task:
    fields = {"name": "shop.add", "queue": "mail", "args": "(1, 2)", "kwargs": "{}", "worker": "w@h"}
    return Task.objects.create(uuid=uuid, state=state, first_seen_at=1.0, seen_at=1.0, **(fields | more))


@pytest.mark.parametrize("path", [RUN, RETRY, FAILED])
def test_an_outsider_runs_nothing_and_sees_no_form(path: str, sent: Sent, settings: Any) -> None:
    task("old")
    operator = signed_in()
    data = FORM | {"token": token(operator), "uuid": "old", "of": "old"}
    assert Client().post(path, data).status_code == 302
    viewer = signed_in("viewer")
    assert viewer.post(path, data).status_code == 403
    assert viewer.get(path, {"again": "old", "of": "old"}).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(access.create_user("strict", "operator", "correct horse 9"))
    assert strict.post(path, data).status_code == 403
    assert operator.post(path, data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    settings.UMBEL_READ_ONLY = True
    assert operator.post(path, data).status_code == 403
    assert not sent.messages


def test_a_viewer_is_offered_nothing_to_run(sent: Sent) -> None:
    task("old")
    html = signed_in("viewer").get("/tasks/old/").content.decode()
    assert "Edit and run" not in html and RETRY not in html
    assert "Needs the operator role" in html
    html = signed_in("viewer", "vera").get("/tasks/").content.decode()
    assert "/tasks/run/" not in html and f'form="one" formaction="{RETRY}"' not in html


def test_get_never_sends(sent: Sent) -> None:
    task("old")
    client = signed_in()
    assert client.get(RETRY, {"uuid": "old"}).status_code == 405
    assert client.get(RUN, FORM | {"token": token(client)}).status_code == 200
    assert client.get(FAILED, {"of": "old", "uuid": "old", "token": token(client)}).status_code == 200
    assert not sent.messages


def test_a_token_of_somebody_else_and_one_made_up_send_nothing(sent: Sent) -> None:
    task("known")
    mine, theirs = signed_in(name="olga"), signed_in(name="otto")
    first = token(mine)
    answer = theirs.post(RUN, FORM | {"token": first})
    assert answer.status_code == 409 and "made for someone else" in answer.content.decode()
    for made_up in ("", "known", f"{first}x", first.replace(first[:4], "0000", 1)):
        answer = mine.post(RUN, FORM | {"token": made_up})
        assert answer.status_code == 409 and "not one that Umbel made" in answer.content.decode()
    assert not sent.messages
    page = mine.post(RUN, FORM | {"token": first})["Location"]
    # Once more by its owner it is the same task, whatever else the form holds; by others it is nothing.
    assert mine.post(RUN, FORM | {"token": first, "args": "[9]"})["Location"] == page
    assert theirs.post(RUN, FORM | {"token": first}).status_code == 409
    assert len(sent.messages) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"args": "[1,\n 2,]"}, "Args, line 2, column 4"),
        ({"args": '{"a": 1}'}, "Args must be a list"),
        ({"kwargs": "[1]"}, "Kwargs must be an object"),
        ({"kwargs": "{'a': 1}"}, "Kwargs, line 1, column 2: a text is written with double quotes"),
        ({"args": "[" * 90_000}, "nested deeper"),
        ({"args": '["[hidden]"]'}, "The value at [0] is hidden"),
        ({"name": " "}, "No task was named"),
        ({"queue": ""}, "No queue was named"),
        ({"priority": "10"}, "from 0 to 9; “10” is not"),
        ({"countdown": "-5"}, "“-5” is not"),
        ({"countdown": "1e99"}, "“1e99” is not"),
        ({"countdown": "٣"}, "“٣” is not"),
        ({"countdown": "5", "eta": "2199-01-01T00:00"}, "Give seconds or a time, not both"),
        ({"eta": "2001-01-01T00:00"}, "That time has passed"),
        ({"eta": "9999-12-31T23:59"}, "more than a year away"),
        ({"eta": "soon"}, "“soon” is no date and time"),
        ({"countdown": "60", "expires_in": "30"}, "expire before it starts"),
    ],
)
def test_what_was_typed_wrong_is_named_and_stays_typed(typed: dict[str, str], said: str, sent: Sent) -> None:
    client = signed_in()
    answer = client.post(RUN, FORM | {"token": token(client), "reason": "because"} | typed)
    html = unescape(answer.content.decode())
    assert answer.status_code == 422 and said in html and 'value="because"' in html
    assert not sent.messages


def test_a_time_is_of_the_zone_of_who_looks_and_without_scripts_utc(sent: Sent) -> None:
    client = signed_in()
    at = int(time.time()) + 7200
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    for told, wanted in (("", at), (str(at - 3600), at - 3600), (str(at + 10**6), at), ("nan", at)):
        client.post(RUN, FORM | {"token": token(client), "eta": clock, "eta_at": told})
        assert sent.messages[-1].eta == wanted, told
    assert "<span>Or at, <span data-zone>UTC</span></span>" in client.get(RUN).content.decode()


def test_a_refusal_of_the_engine_leaves_the_form_as_it_was(sent: Sent) -> None:
    client = signed_in()
    sent.refuse = "The <b>broker</b> is full."
    answer = client.post(RUN, FORM | {"token": token(client)})
    html = answer.content.decode()
    assert answer.status_code == 409 and "The &lt;b&gt;broker&lt;/b&gt; is full." in html
    assert "[1, 2]" in html


HOSTILE = [
    ("__import__('os').system('id')", "no plain value"),
    ("({1, 2},)", "a set"),
    ("(datetime.datetime(2026, 1, 2),)", "datetime.datetime"),
    ("(b'x',)", "bytes"),
    ("(" * 4000, "nested deeper"),
    ("('***',)", "in the place of a secret"),
    ("({'password': '[hidden]'},)", "what Umbel hides"),
    ("('x...',)", "cut by Celery"),
    ("(<script>alert(1)</script>,)", "no plain value"),
    (None, "no event told them"),
]


@pytest.mark.parametrize(("args", "why"), HOSTILE, ids=range(len(HOSTILE)))
def test_arguments_that_cannot_be_known_are_asked_for_never_guessed(
    args: str | None, why: str, sent: Sent
) -> None:
    task("old", args=args)
    client = signed_in()
    assert client.post(RETRY, {"uuid": "old"})["Location"] == f"{RUN}?again=old"
    html = client.get(RUN, {"again": "old"}).content.decode()
    assert why in unescape(html) and "nothing is guessed" in html and "<script>alert" not in html
    answer = client.post(RUN, FORM | {"again": "old", "args": "", "token": token(client)})
    assert answer.status_code == 422 and "type them" in answer.content.decode()
    assert not sent.messages
    client.post(RUN, FORM | {"again": "old", "args": "[3]", "token": token(client)})
    (message,) = sent.messages
    assert (message.args, message.of, message.edited, message.name) == ([3], "old", True, "shop.add")


def test_the_name_of_a_task_run_again_is_its_own_whatever_is_posted(sent: Sent) -> None:
    task("old", name="shop.boom")
    client = signed_in()
    client.post(RUN, FORM | {"again": "old", "token": token(client), "name": "shop.add"})
    assert [one.name for one in sent.messages] == ["shop.boom"]


def test_arguments_as_they_were_are_not_edited_ones(sent: Sent) -> None:
    task("old", args="(1, 'ü\u200f')", kwargs="{'a': {'b': None}}")
    client = signed_in()
    html = client.get(RUN, {"again": "old"}).content.decode()
    areas = dict(re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)<', html))
    assert "\\u200f" in areas["args"]
    form = {key: unescape(value) for key, value in areas.items()}
    client.post(RUN, FORM | form | {"again": "old", "token": token(client)})
    (message,) = sent.messages
    assert (message.args, message.kwargs, message.edited) == ([1, "ü\u200f"], {"a": {"b": None}}, False)
    assert message.source == "events"


def test_a_task_that_umbel_never_saw_is_not_run_again(sent: Sent) -> None:
    client = signed_in()
    for answer in (client.post(RETRY, {"uuid": "no\0body"}), client.get(RUN, {"again": "nobody"})):
        assert answer.status_code == 409 and "history" in answer.content.decode()
    assert client.post(RETRY, {}).status_code == 409
    assert "No task was chosen" in client.post(FAILED, {"of": "x", "token": token(client)}).content.decode()
    assert not sent.messages


def test_failed_tasks_that_a_colleague_ran_again_meanwhile_are_not_sent_twice(sent: Sent) -> None:
    task("root", "SUCCESS")
    for uuid in ("one", "two"):
        task(uuid, root_id="root", parent_id="root")
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    anns, bobs = (token(client, f"{FAILED}?of=root") for client in (ann, bob))
    form = {"of": "root", "uuid": ["one"], "token": anns}
    assert ann.post(FAILED, form).status_code == 302
    assert ann.post(FAILED, form).status_code == 302  # her own second click finds what it did
    answer = bob.post(FAILED, {"of": "root", "uuid": ["one", "two"], "token": bobs})
    assert answer.status_code == 409
    assert "One of these tasks was run again by ann since this list was drawn" in answer.content.decode()
    assert [one.of for one in sent.messages] == ["one"]
    # Drawn anew it says so, and who ticks it all the same means it.
    html = bob.get(FAILED, {"of": "root"}).content.decode()
    assert "Run again already" in html and re.findall(r'value="(\w+)" checked', html) == ["two"]
    again = {"of": "root", "uuid": ["one", "two"], "token": token(bob, f"{FAILED}?of=root")}
    assert bob.post(FAILED, again).status_code == 302
    assert [one.of for one in sent.messages] == ["one", "one", "two"]


def test_a_row_that_does_not_know_of_a_run_by_a_colleague_leads_to_the_form(sent: Sent) -> None:
    task("old")
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    assert "Run again already" not in bob.get(RUN, {"again": "old"}).content.decode()
    ann.post(RETRY, {"uuid": "old"})
    SentTask.objects.update(at=time.time() - 4)
    ControlRecord.objects.update(at=time.time() - 4, answered_at=time.time() - 4)
    assert bob.post(RETRY, {"uuid": "old"})["Location"] == f"{RUN}?again=old"
    assert len(sent.messages) == 1
    html = bob.get(RUN, {"again": "old"}).content.decode()
    assert "Run again already" in html and "by ann" in html
    # Its own page knows how often it was.
    assert bob.post(f"{RETRY}?times=1", {"uuid": "old"}).status_code == 302
    assert len(sent.messages) == 2


def test_a_token_without_its_moment_is_not_one_of_this_umbel(sent: Sent) -> None:
    from dashboard.controls.runs import _signer

    task("one")
    client = signed_in()
    old = _signer().sign(f"5f0a7c3e-3d51-4f0b-9c58-7c1a54d7a2be.{access.User.objects.get().pk}")
    answer = client.post(FAILED, {"of": "one", "uuid": ["one"], "token": old})
    assert "open it again" in answer.content.decode() and not sent.messages


def test_a_task_just_sent_has_a_page_that_waits_for_it(sent: Sent) -> None:
    client = signed_in()
    page = client.post(RUN, FORM | {"token": token(client)})["Location"]
    html = client.get(page).content.decode()
    assert "Sent, not seen yet" in html and "no event of it has come" in html and "operator" in html
    uuid = page.split("/")[2]
    task(uuid, "STARTED", sender="umbel7@h")
    html = client.get(page).content.decode()
    assert "not seen yet" not in html and "Sent from Umbel" in html
    assert client.get("/tasks/nobody-sent-this/").status_code == 404


def test_failed_rows_can_be_retried_and_running_ones_cannot(sent: Sent) -> None:
    for uuid, state in (
        ("f", "FAILURE"),
        ("l", "LOST"),
        ("s", "SUCCESS"),
        ("r", "STARTED"),
        ("p", "PENDING"),
    ):
        task(uuid, state)
    client = signed_in()
    html = client.get("/tasks/").content.decode()
    assert html.count(f'form="one" formaction="{RETRY}"') == 2
    for uuid, words in (("f", "Retry"), ("s", "Run again")):
        html = client.get(f"/tasks/{uuid}/").content.decode()
        assert f"{words}<kbd>e</kbd>" in html
    assert f"{RETRY}?times" not in client.get("/tasks/r/").content.decode()
    # What has not ended would be there twice: the form says so first.
    assert client.post(RETRY, {"uuid": "r"})["Location"] == f"{RUN}?again=r"
    assert "has not ended (STARTED)" in client.get(RUN, {"again": "r"}).content.decode()
    assert not sent.messages


def test_the_engine_itself_sends_nothing_under_a_known_id_or_out_of_bounds() -> None:
    task("known")

    def refusal(**given: Any) -> str:
        fields: dict[str, Any] = {"uuid": "new", "name": "shop.add", "queue": "mail"} | given
        message = Message(**fields)
        with pytest.raises(Refused) as refused:
            perform(Command("send_task", (message.uuid,), messages=(message,)), OPERATOR)
        return str(refused.value)

    assert "There is a task known already" in refusal(uuid="known")
    assert "'' is not the name of a task" in refusal(name="")
    assert "is not the name of a queue" in refusal(queue="a\nb")
    assert "more than a year away" in refusal(eta=float("inf"))
    assert "expire before it starts" in refusal(expires=time.time() - 5)
    assert "nested deeper" in refusal(args=json.loads("[" * 40 + "]" * 40))
    assert "what Umbel hides" in refusal(kwargs={"password": "[hidden]"})
    assert "priority" in refusal(priority=-1)
    with pytest.raises(Refused, match="No task was given"):
        perform(Command("send_task", ("new",)), OPERATOR)
    with pytest.raises(Refused, match="needs the operator role"):
        perform(Command("send_task", ("new",)), Actor(None, "vera", "viewer"))
    assert not SentTask.objects.exists()


def test_a_route_says_who_consumes_and_who_knows_the_name() -> None:
    Worker.objects.create(hostname="x@h", status="online", first_seen_at=1.0, queues=["mail"])
    Worker.objects.create(hostname="off@h", status="offline", first_seen_at=1.0, queues=["mail", "old"])
    good = route("shop.add", "mail")
    assert (good.consumers, good.knowing, good.warnings) == (("w@h", "x@h"), ("w@h",), {})
    # x@h has not said what it knows.
    (text,) = route("shop.nobody", "mail").warnings.values()
    assert "not registered on w@h; what 1 more has is not known" in text
    assert list(route("shop.add", "nowhere").warnings) == ["new queue"]
    task("once", queue="old")
    assert list(route("shop.add", "old").warnings) == ["no consumer"]


def test_what_a_sender_shows_in_place_of_arguments_is_told_from_the_arguments() -> None:
    assert agrees("(1, 'a')", [1, "a"]) and agrees("[1, 'a']", [1, "a"]) and agrees(None, [1])
    assert agrees("{'password': '[hidden]'}", {"password": "hunter2"})
    assert agrees("(datetime.date(2026, 1, 2),)", [{"__type__": "date", "__value__": "2026-01-02"}])
    assert agrees(f"('{'x' * 1024}...',)", ["x" * 5000])
    assert not agrees("('***', 'a')", ["4111", "a"])
    assert not agrees("<order 5>", [{"card": "4111"}])
    assert not agrees("", [1])
    assert not agrees("...", ["secret"])
    assert not agrees("(1,)", [2])


def test_a_queue_that_no_event_told_is_that_of_a_worker_with_one() -> None:
    task("one", queue="")
    found = original("one")
    assert found is not None and found.queue == "mail" and not found.why
    Worker.objects.filter(hostname="w@h").update(queues=["mail", "more"])
    found = original("one")
    assert found is not None and "queue it was sent to is not known" in found.why


@pytest.mark.parametrize(
    ("row", "seen", "text"),
    [
        ({"state": "SUCCESS", "started_at": 5.0}, True, "It ran on w@h: SUCCESS."),
        ({"state": "FAILURE"}, True, "It ended before it began: FAILURE."),
        ({"state": "STARTED"}, True, "It runs on w@h."),
        ({"state": "RECEIVED"}, True, "w@h has taken it."),
        ({"state": "RETRY"}, True, "w@h has taken it: RETRY."),
        ({"state": "REVOKED", "expired": True}, False, "It expired before it was run."),
        ({"state": "REVOKED"}, False, "A worker skipped it: it is revoked."),
        ({"state": "PENDING", "worker": ""}, None, "No event of it has come yet."),
    ],
)
def test_what_became_of_a_sent_task_is_told_by_its_row(
    row: dict[str, Any], seen: bool | None, text: str
) -> None:
    message = Message("sent", "shop.add", "mail")
    order = Order(Command("send_task", ("sent",), messages=(message,)), [], {}, messages=(message,))
    task("sent", **row)
    (finding,) = arrived(order, time.time(), {})
    assert (finding.as_dict()["seen"], finding.text) == (seen, text)


@pytest.mark.live
def test_no_task_is_sent_to_a_key_that_celery_or_umbel_keeps_for_itself(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url, key_prefix="shop:", transport_options={"unacked_index_key": "mine"})
    broker_module.configure(broker)
    broker.client().hset("shop:prices", "apple", "1")
    task("old", queue="unacked")  # any client may tell of a queue of that name

    def refusal(queue: str) -> str:
        message = Message("new", "shop.add", queue)
        with pytest.raises(Refused) as refused:
            perform(Command("send_task", ("new",), {"despite": ["new queue"]}, messages=(message,)), OPERATOR)
        return str(refused.value)

    own = ("unacked", "mine", "unacked_mutex", "_kombu.binding.mail", "celeryev", "celeryev.x", "x.y.pidbox")
    for queue in (*own, "umbel.unacked", "celery-task-meta-1", "umbel.0.asgi:group:umbel"):
        assert "uses for itself" in refusal(queue), queue
    assert "'prices' is a key of the broker that holds something else (hash)" in refusal("prices")
    assert [key for key in broker.client().keys("*") if b"_kombu" not in key] == [b"shop:prices"]
    assert not SentTask.objects.exists()
    # Names that only look like them are queues, and on RabbitMQ no key is in the way.
    assert not reserved(broker, "celeryevents") and not reserved(broker, "unacked_mail")
    assert not reserved(Broker("amqp://guest@127.0.0.1:1//"), "unacked")
    assert reserved(Broker("amqp://guest@127.0.0.1:1//"), "celeryev.1")
