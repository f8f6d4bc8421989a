"""A site's own rule: when it is asked, with which names, and what its answers do."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from monitor.acts.models import BulkAct
from monitor.models import ControlRecord, Ladder, Task
from tests.permitted import people as people
from tests.permitted import sent as sent
from tests.permitted import waiting
from tests.permitted import worker as worker
from tests.test_task_controls import Sent, running

pytestmark = pytest.mark.django_db


asked: list[tuple[str, str, tuple[str, ...]]] = []
answers: list[Any] = []


def rule(user: Any, command: str, targets: tuple[str, ...]) -> Any:
    asked.append((user.username, command, targets))
    answer = answers.pop() if answers else True
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def own_rule(settings: Any) -> list[Any]:
    settings.UMBEL_PERMISSION_RULE = "tests.test_permission_rule.rule"
    asked.clear()
    answers.clear()
    return asked


def will_answer(*values: Any) -> None:
    answers[:] = values


def test_a_sites_own_rule_is_asked_once_a_command_and_by_name(
    people: dict[str, Client], sent: Sent, own_rule: list[Any]
) -> None:
    running()
    assert people["operator"].post("/tasks/revoke/", {"uuid": "a"}).status_code == 302
    assert own_rule == [("operator", "revoke", ("a",))]
    own_rule.clear()
    assert people["operator"].get("/tasks/terminate/?uuid=runs").status_code == 200
    assert (
        people["operator"].post("/tasks/terminate/", {"uuid": "runs", "signal": "SIGTERM"}).status_code == 302
    )
    assert own_rule == [("operator", "terminate", ("runs",))] * 2
    own_rule.clear()
    people["operator"].get("/tasks/")
    people["operator"].get("/tasks/runs/")
    assert people["viewer"].post("/tasks/revoke/", {"uuid": "a"}).status_code == 403
    assert own_rule == [], "pages go by the role, and who has not the role is not asked about"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("path", "given", "names"),
    [
        ("drain/begin/", {}, ["drain", "cancel_consumer"]),
        ("drain/undo/", {}, ["end_drain", "add_consumer"]),
        ("when-free/", {"size": "2"}, ["shrink_when_free", "pool_shrink"]),
    ],
)
def test_the_rule_is_asked_of_what_is_sent_later_and_step_by_step(
    path: str, given: dict[str, str], names: list[str], people: dict[str, Client], own_rule: list[Any]
) -> None:
    will_answer("Not this worker.", True)
    answer = people["operator"].post(f"/workers/1/{path}", given)
    assert answer.status_code == 403 and "Not this worker." in answer.content.decode()
    assert own_rule == [("operator", name, ("w@h",)) for name in names]


def test_the_rule_is_asked_of_an_act_on_many_when_it_is_shown_and_when_it_is_confirmed(
    people: dict[str, Client], own_rule: list[Any]
) -> None:
    waiting("a", "b")
    assert people["operator"].post("/tasks/revoke/", {"uuid": ["a", "b", "gone"]}).status_code == 200
    act = BulkAct.objects.get()
    confirm = f"/acts/{act.pk}/confirm/"
    will_answer("Not on Fridays.")
    answer = people["operator"].post(confirm, {"reason": "wrong prices"})
    assert answer.status_code == 403 and "Not on Fridays." in answer.content.decode()
    assert people["operator"].post(confirm, {"reason": "wrong prices"}).status_code == 302
    assert own_rule == [("operator", "revoke", ("a", "b"))] * 3
    refused = ControlRecord.objects.get(effect="refused")
    assert (refused.targets, refused.evidence) == (["a", "b"], "Not on Fridays.")


@pytest.mark.parametrize(("word", "state"), [("withdraw", "held"), ("stop", "sending")])
def test_the_rule_and_a_reason_are_asked_for_when_an_act_is_ended(
    word: str, state: str, people: dict[str, Client], own_rule: list[Any], settings: Any
) -> None:
    settings.UMBEL_REASONS = {word: "required"}
    waiting("a", "b")
    people["operator"].post("/tasks/revoke/", {"uuid": ["a", "b"]})
    act = BulkAct.objects.get()
    people["operator"].post(f"/acts/{act.pk}/confirm/", {"reason": "wrong prices"})
    BulkAct.objects.update(state=state)
    own_rule.clear()
    path = f"/acts/{act.pk}/{word}/"
    assert people["operator"].post(path).status_code == 422 and own_rule == []
    will_answer("Only its author ends it.")
    answer = people["operator"].post(path, {"reason": "too late"})
    assert answer.status_code == 403 and "Only its author ends it." in answer.content.decode()
    act.refresh_from_db()
    assert (act.state, act.stopped_at) == (state, None)
    assert people["operator"].post(path, {"reason": "the prices were right"}).status_code == 302
    assert own_rule == [("operator", word, ("a", "b"))] * 2
    done = ControlRecord.objects.get(command=word, effect="verified")
    assert (done.targets, done.reason) == ([str(act.pk)], "the prices were right")


def test_the_rule_and_a_reason_are_asked_for_when_steps_are_withdrawn(
    people: dict[str, Client], own_rule: list[Any], settings: Any
) -> None:
    settings.UMBEL_REASONS = {"withdraw": "required"}
    now = time.time()
    one = Ladder.objects.create(
        uuid="runs", worker="w@h", username="ada", role="operator", wait=10, since=now, due_at=now + 10,
        rungs=[{"do": "SIGTERM", "by": "celery"}],
    )  # fmt: skip
    path = f"/tasks/steps/{one.pk}/withdraw/"
    assert people["operator"].post(path).status_code == 422
    will_answer("Only its author ends it.")
    assert people["operator"].post(path, {"reason": "it cleans up"}).status_code == 403
    assert Ladder.objects.filter(ended_at=None).exists()
    assert people["operator"].post(path, {"reason": "it cleans up"}).status_code == 302
    assert own_rule == [("operator", "withdraw", ("runs",))] * 2
    assert ControlRecord.objects.get(command="withdraw", effect="noted").reason == "it cleans up"


def test_the_rule_is_given_the_names_of_tasks_that_are_retried_together(
    people: dict[str, Client], own_rule: list[Any]
) -> None:
    waiting("a", "b", "c")
    Task.objects.update(state="FAILURE")
    Task.objects.filter(uuid="c").update(name="shop.bill")
    assert people["operator"].post("/tasks/retry/", {"uuid": ["a", "b", "c"]}).status_code == 200
    act = BulkAct.objects.get()
    will_answer("Bills are sent once.")
    answer = people["operator"].post(f"/acts/{act.pk}/confirm/", {"reason": "the mail was down"})
    assert answer.status_code == 403
    people["operator"].post(f"/acts/{act.pk}/confirm/", {"reason": "the mail was down"})
    people["operator"].post(f"/acts/{act.pk}/withdraw/")
    names = ("shop.bill", "shop.nap")
    assert own_rule == [
        *[("operator", "send_task", names)] * 3,
        ("operator", "withdraw", names),
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            "Only the billing team stops <b>billing</b>.",
            "Only the billing team stops &lt;b&gt;billing&lt;/b&gt;.",
        ),
        (False, "own rule does not allow it"),
        (None, "gave no clear answer"),
        ("", "gave no clear answer"),
        (1, "gave no clear answer"),
        (RuntimeError("no LDAP"), "own rule failed"),
    ],
)
def test_only_a_clear_yes_of_the_sites_rule_lets_through(
    answer: Any, said: str, people: dict[str, Client], sent: Sent, own_rule: list[Any]
) -> None:
    for method, path in (("post", "/tasks/revoke/"), ("get", "/tasks/terminate/")):
        will_answer(answer)
        got = getattr(people["admin"], method)(path, {"uuid": "runs"})
        assert got.status_code == 403 and said in got.content.decode(), path
    assert not sent.commands and len(own_rule) == 2
    record = ControlRecord.objects.get()
    assert (record.command, record.targets, record.effect) == ("revoke", ["runs"], "refused")


def test_the_rule_cannot_give_what_the_role_has_not(
    people: dict[str, Client], sent: Sent, own_rule: list[Any], settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"revoke": "admin"}
    assert people["operator"].post("/tasks/revoke/", {"uuid": "a"}).status_code == 403
    assert not sent.commands and not own_rule
