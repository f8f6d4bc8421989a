"""Revoke and terminate from the browser: who may, what is asked first, and the second click."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.test import Client, RequestFactory

from dashboard import access, controls
from dashboard.queries import stamps
from monitor import broker
from monitor import control as engine
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused
from monitor.models import ControlRecord, Ladder, Task, Worker

pytestmark = pytest.mark.django_db


class Sent:
    """Stands in for the engine: keeps a record, sends nothing."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.refuse = ""

    def __call__(self, command: Command, actor: Actor, **more: Any) -> ControlRecord:
        if self.refuse:
            raise Refused(self.refuse)
        self.commands.append(command)
        now = time.time()
        return ControlRecord.objects.create(
            at=now, user_id=actor.user_id, username=actor.username, role=actor.role, command=command.name,
            targets=list(command.targets), arguments=command.arguments, reason=command.reason, sent_at=now,
            answered_at=now, destinations=["w@h"], replies=[{"worker": "w@h", "outcome": "ok", "text": "x"}],
        )  # fmt: skip


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr(engine, "perform", sent)
    return sent


def signed_in(role: str, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(access.create_user(role, role, "correct horse 9"))
    return client


def running(uuid: str = "runs", **more: Any) -> None:
    now = time.time()
    Task.objects.create(
        uuid=uuid, state="STARTED", name="shop.nap", worker="w@h", started_at=now - 90, first_seen_at=now,
        seen_at=now, **more,
    )  # fmt: skip


def worker(**details: Any) -> None:
    Worker.objects.create(
        hostname="w@h", status="online", pool="prefork", size=2, first_seen_at=1, details=details
    )


PATHS = [
    "/tasks/revoke/",
    "/tasks/terminate/",
    "/tasks/abort/",
    "/tasks/revoke-stamped/",
    "/tasks/steps/1/withdraw/",
    "/tasks/revokes/00000000-0000-0000-0000-000000000001/withdraw/",
]


@pytest.fixture(autouse=True)
def no_broker() -> Iterator[None]:
    """Nothing answers there: what a dialog could not look at is said."""
    broker.configure(Broker("redis://127.0.0.1:1/0"))
    yield
    broker.current().close()


@pytest.mark.parametrize("path", PATHS)
def test_an_outsider_sends_nothing(path: str, sent: Sent, settings: Any) -> None:
    data = {"uuid": "runs", "signal": "SIGTERM"}
    assert Client().post(path, data).status_code == 302
    assert signed_in("viewer").post(path, data).status_code == 403
    assert signed_in("operator", enforce_csrf_checks=True).post(path, data).status_code == 403
    admin = signed_in("admin")
    assert admin.post(path, data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    settings.UMBEL_READ_ONLY = True
    assert admin.post(path, data).status_code == 403
    assert not sent.commands


def test_get_never_acts(sent: Sent) -> None:
    worker()
    running()
    client = signed_in("operator")
    assert client.get("/tasks/revoke/?uuid=runs&if_started=SIGKILL").status_code == 200
    assert client.get("/tasks/abort/?uuid=runs").status_code == 200
    assert client.get("/tasks/revoke-stamped/?uuid=runs&header=a&value=b").status_code == 200
    assert client.get("/tasks/steps/1/withdraw/").status_code == 405
    assert client.get("/tasks/terminate/?uuid=runs&signal=SIGKILL").status_code == 200
    assert not sent.commands


def test_terminate_first_shows_what_it_will_hit(sent: Sent) -> None:
    worker(active=[{"id": "runs", "worker_pid": 4201}], registered=["shop.nap [acks_late=True]"])
    running()
    html = signed_in("operator").get("/tasks/terminate/?uuid=runs").content.decode()
    for said in (
        "Terminate 1 running task?",
        "w@h",
        "pid 4201",
        "will not run again",
        "1 running task is ended",
        "unless you choose Interrupt",
        "SIGKILL",
        "SIGQUIT",
        "ignore it",  # SIGINT, measured
        "Reason",
    ):
        assert said in html, said
    assert (
        "<dialog"
        in signed_in("admin")
        .get("/tasks/terminate/?uuid=runs", headers={"HX-Request": "true"})
        .content.decode()
    )


def test_what_is_not_known_about_late_acknowledgement_is_said(sent: Sent) -> None:
    worker()
    running()
    html = signed_in("operator").post("/tasks/terminate/", {"uuid": "runs"}).content.decode()
    assert "whether its acks_late is set" in html.split("Not checked")[1]
    assert not sent.commands


def test_of_a_selection_those_that_ended_are_listed_as_not_acted_on(sent: Sent) -> None:
    worker()
    running()
    Task.objects.create(uuid="over", state="SUCCESS", first_seen_at=1, seen_at=1)
    html = (
        signed_in("operator").post("/tasks/terminate/", {"uuid": ["runs", "over", "gone"]}).content.decode()
    )
    assert "Not acted on" in html and "it does not run" in html and "not in Umbel&#x27;s history" in html
    assert "Terminate 1 running task?" in html and not sent.commands


def test_a_command_ends_on_its_record_or_in_a_toast_with_its_proof(sent: Sent) -> None:
    client = signed_in("operator")
    answer = client.post("/tasks/revoke/", {"uuid": "waits", "reason": "wrong"})
    record = ControlRecord.objects.get()
    assert answer.status_code == 302 and str(record.pk) in answer.headers["Location"]
    toast = client.post("/tasks/revoke/", {"uuid": "other"}, headers={"HX-Request": "true"}).content.decode()
    assert "1 of 1 answered" in toast and "0 of 1 seen" in toast and "every 1s" in toast
    ControlRecord.objects.update(
        effect="verified", completed_at=time.time(), seen=[{"target": "x", "seen": True}]
    )
    done = client.get(f"/audit/{record.pk}/?fragment=toast").content.decode()
    assert "1 task revoked, verified" in done and "every 1s" not in done


def test_a_second_click_is_one_command(sent: Sent) -> None:
    client = signed_in("operator")
    for _ in range(2):
        client.post("/tasks/terminate/", {"uuid": "runs", "signal": "SIGTERM"})
    assert len(sent.commands) == 1
    client.post("/tasks/terminate/", {"uuid": "runs", "signal": "SIGKILL"})
    assert len(sent.commands) == 2


def test_two_posts_at_the_same_moment_are_one_command(sent: Sent) -> None:
    request = RequestFactory().post("/")
    request.user = access.create_user("sam", "operator", "correct horse 9")
    command = Command("terminate", ("runs",), {"signal": "SIGTERM"})
    ControlRecord.objects.create(
        at=time.time() - 9,
        answered_at=time.time() - 1,
        user_id=request.user.pk,
        username="x",
        role="operator",
        command="terminate",
        targets=["runs"],
        arguments={"signal": "SIGTERM"},
    )
    # It waited while the first was sent and answered.
    assert controls._second_click(request, command, time.time()) is not None
    assert controls._second_click(request, command, time.time() + 9) is None


def test_the_next_size_of_a_pool_is_another_command(sent: Sent) -> None:
    request = RequestFactory().post("/")
    request.user = access.create_user("sam", "operator", "correct horse 9")
    ControlRecord.objects.create(
        at=time.time(),
        user_id=request.user.pk,
        username="x",
        role="operator",
        command="pool_grow",
        targets=["w@h"],
        arguments={"n": 1, "before": 4, "to": 5},
    )

    def again(name: str, **arguments: int) -> bool:
        command = Command(name, ("w@h",), dict(arguments))
        return controls._second_click(request, command, time.time()) is not None

    assert again("pool_grow", n=1, to=5)
    assert not again("pool_grow", n=1, to=6)
    assert not again("pool_shrink", n=1, to=4)
    assert not again("pool_grow", n=1)


def test_a_refusal_is_told(sent: Sent) -> None:
    sent.refuse = "'SIGFOO' is not a signal <b>Umbel</b> sends."
    client = signed_in("operator")
    answer = client.post("/tasks/terminate/", {"uuid": "runs", "signal": "SIGFOO"})
    assert answer.status_code == 409 and b"&lt;b&gt;Umbel" in answer.content
    toast = client.post(
        "/tasks/terminate/", {"uuid": "r", "signal": "SIGFOO"}, headers={"HX-Request": "true"}
    )
    assert b"nothing was sent" in toast.content


# Revoke after a look, abort, stamps, steps


def waits_there(uuid: str = "waits", **more: Any) -> None:
    now = time.time()
    fields = {
        "state": "PENDING",
        "name": "shop.add",
        "queue": "imports",
        "first_seen_at": now,
        "seen_at": now,
    }
    Task.objects.create(uuid=uuid, **(fields | more))


def test_a_look_before_a_revoke_offers_to_end_what_starts_all_the_same(sent: Sent) -> None:
    waits_there()
    running()
    client = signed_in("operator")
    html = client.get("/tasks/revoke/?uuid=waits&uuid=runs").content.decode()
    for said in (
        "Revoke 1 waiting task?",
        "Every worker online is told to discard it.",
        "If it starts all the same",
        "A running task cannot be revoked without terminating it",
        "Not checked: their messages (the broker did not answer",
    ):
        assert said in html, said
    client.post("/tasks/revoke/", {"uuid": "waits", "if_started": "SIGTERM", "reason": "wrong month"})
    (command,) = sent.commands
    assert (command.arguments, command.reason) == ({"if_started": "SIGTERM"}, "wrong month")
    # A second click is the first.
    client.post("/tasks/revoke/", {"uuid": "waits", "if_started": "SIGTERM"})
    assert len(sent.commands) == 1


def test_abort_says_what_it_does_not_do(sent: Sent) -> None:
    broker.configure(Broker("redis://127.0.0.1:1/0", result_backend="redis://127.0.0.1:1/0"))
    worker(
        registered=[
            "shop.patient [is_aborted=<bound method AbortableTask.is_aborted of <@task: x>>]",
            "shop.nap",
        ]
    )
    running()
    running("asks")
    Task.objects.filter(uuid="asks").update(name="shop.patient")
    client = signed_in("operator")
    html = client.get("/tasks/abort/?uuid=asks&uuid=runs").content.decode()
    assert "Abort 1 running task?" in html and "Only a task that calls" in html
    assert "shop.nap is no AbortableTask on w@h" in html
    client.post("/tasks/abort/", {"uuid": "asks"})
    assert [(one.name, one.targets) for one in sent.commands] == [("abort", ("asks",))]


def test_a_stamp_is_typed_or_chosen(sent: Sent) -> None:
    worker()
    client = signed_in("operator")
    waits_there()
    assert 'href="/tasks/revoke-stamped/"' in client.get("/tasks/").content.decode()
    assert "revoke-stamped" not in signed_in("viewer").get("/tasks/").content.decode()
    html = client.get("/tasks/revoke-stamped/?header=tenant&value=42").content.decode()
    assert "It cannot be taken back." in html and 'value="tenant"' in html
    assert "waiting messages (the broker did not answer" in html
    client.post("/tasks/revoke-stamped/", {"header": " tenant ", "value": "42", "hours": "5"})
    client.post(
        "/tasks/revoke-stamped/",
        {"stamp": '["order=no", "a=b"]', "header": "", "value": "", "signal": "SIGTERM"},
    )
    for wrong in ("order=a", '["order"]', '["order", 5]', "[" * 5_000):
        said = client.post("/tasks/revoke-stamped/", {"stamp": wrong, "header": "a", "value": "b"})
        assert said.status_code == 409 and "is no stamp that was offered" in said.content.decode()
    first, second = sent.commands
    assert first.targets == ("tenant=42",)
    assert first.arguments == {"header": "tenant", "value": "42", "hours": "5"}
    assert second.arguments == {"header": "order=no", "value": "a=b", "signal": "SIGTERM"}


def test_the_stamps_of_a_task_are_offered_whole(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    found = stamps.Hit("runs", stamps=[("a=b", "42"), ('say "x"', "é")])
    monkeypatch.setattr(stamps, "hit", lambda *_: found)
    client = signed_in("operator")
    html = client.get("/tasks/revoke-stamped/?uuid=runs").content.decode()
    offered = [unescape(one) for one in re.findall(r'name="stamp" value="([^"]+)"', html)]
    for one in offered:
        client.post("/tasks/revoke-stamped/", {"stamp": one, "header": "", "value": ""})
    pairs = [(one.arguments["header"], one.arguments["value"]) for one in sent.commands]
    assert pairs == found.stamps


def test_steps_are_refused_with_their_reason_and_for_one_task_alone(sent: Sent) -> None:
    worker()
    running()
    running("other")
    client = signed_in("operator")
    html = client.get("/tasks/terminate/?uuid=runs").content.decode()
    assert "No second step: with the first signal its worker forgets the task" in html
    assert 'value="STEPS" disabled' in html
    said = client.post("/tasks/terminate/", {"uuid": "runs", "signal": "STEPS"})
    assert said.status_code == 409 and "There is no second step" in said.content.decode()
    said = client.post("/tasks/terminate/", {"uuid": ["runs", "other"], "signal": "STEPS"})
    assert "Step by step is for one task; 2 were selected" in said.content.decode()
    said = client.post("/tasks/terminate/", {"uuid": "runs", "signal": "STEPS", "wait": "soon"})
    assert "is no number of seconds" in said.content.decode()
    assert not Ladder.objects.exists() and not sent.commands
    asked = ControlRecord.objects.get(effect="refused")
    assert (asked.command, asked.username, asked.arguments) == ("terminate", "operator", {"signal": "STEPS"})


def test_who_may_not_do_one_of_the_steps_may_not_climb(sent: Sent, settings: Any) -> None:
    broker.configure(Broker("redis://127.0.0.1:1/0", result_backend="redis://127.0.0.1:1/0"))
    worker(registered=["shop.nap [is_aborted=<bound method>]"])
    running()
    settings.UMBEL_PERMISSIONS = {"abort": "admin"}
    said = signed_in("operator").post("/tasks/terminate/", {"uuid": "runs", "signal": "STEPS"})
    assert said.status_code == 403 and not Ladder.objects.exists()


def test_steps_under_way_are_seen_by_all_and_withdrawn_by_an_operator(sent: Sent, settings: Any) -> None:
    running()
    now = time.time()
    rungs = [{"do": "SIGUSR1", "by": "celery"}, {"do": "SIGKILL", "by": "here"}]
    log = [{"at": now, "text": "SIGUSR1: w@h: terminate: runs", "record": ""}]
    one = Ladder.objects.create(
        uuid="runs", worker="w@h", username="ada", role="operator", rungs=rungs, wait=10, since=now, step=1,
        due_at=now + 10, log=log,
    )  # fmt: skip
    viewer = signed_in("viewer").get("/tasks/runs/").content.decode()
    assert "Being ended step by step" in viewer and "SIGKILL to its process" in viewer
    assert "withdraw" not in viewer.lower().replace("task-withdraw", "")
    client = signed_in("operator")
    assert "Withdraw" in client.get("/tasks/runs/").content.decode()
    toast = client.get("/tasks/runs/?fragment=toast").content.decode()
    assert toast.strip().startswith("<div") and "Being ended step by step" in toast and "every 1s" in toast
    Ladder.objects.filter(pk=one.pk).update(ended_at=now, gone=True, outcome="Its process 7 is gone.")
    toast = client.get("/tasks/runs/?fragment=toast").content.decode()
    assert "Ended step by step" in toast and "Its process 7 is gone." in toast and "every 1s" not in toast
    Ladder.objects.filter(pk=one.pk).update(ended_at=None, gone=None, outcome="")
    assert "A task is being ended step by step" in client.get("/").content.decode()
    settings.UMBEL_READ_ONLY = True
    assert client.post(f"/tasks/steps/{one.pk}/withdraw/").status_code == 403
    settings.UMBEL_READ_ONLY = False
    assert client.post(f"/tasks/steps/{one.pk}/withdraw/").status_code == 302
    one.refresh_from_db()
    assert (one.outcome, one.gone) == ("Withdrawn by operator.", None)
    assert "Withdrawn by operator." in client.get("/tasks/runs/").content.decode()
    assert "had ended before" in client.post(f"/tasks/steps/{one.pk}/withdraw/").content.decode()
    done, vain = ControlRecord.objects.order_by("at")
    assert (done.command, done.username, done.targets) == ("withdraw", "operator", ["runs"])
    assert "1 of 2 steps had been sent" in done.evidence and vain.effect == "refused"
    assert "the steps for a task" in client.get("/audit/").content.decode()
    assert client.get(f"/audit/{done.pk}/").status_code == 200
