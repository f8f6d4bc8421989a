"""When a run of a task name is slow or stuck: set by people, used everywhere alike, and taken back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from dashboard.forms.tasks import TaskFilter
from dashboard.queries import attention, metrics, running, tasks, usual, workers
from monitor.models import ControlRecord, Threshold
from tests.test_workers_page import history, task, worker

pytestmark = pytest.mark.django_db
NAME = "shop.tasks.pay"


@pytest.fixture(autouse=True)
def anew() -> None:
    usual.forget()


@pytest.fixture
def people() -> dict[str, Client]:
    found = {}
    for role in access.ROLES:
        found[role] = Client()
        found[role].force_login(access.create_user(role, role, "correct horse 9"))
    return found


def put(client: Client, slow: str = "", stuck: str = "", **more: str) -> Any:
    return client.post("/thresholds/", {"name": NAME, "slow": slow, "stuck": stuck, **more})


def test_a_time_that_was_set_holds_on_every_page_and_in_every_count(people: dict[str, Client]) -> None:
    worker("w@h")
    now = time.time()
    task("u1", worker="w@h", started_at=now - 40)

    def said() -> list[Any]:
        going = running.going("u1", now)
        (view,) = workers.fleet(now).workers
        shown = tasks.window(TaskFilter(stuck=True), now).rows
        return [
            going.pace if going else None,
            view.slots[0].state,
            [row.task.uuid for row in shown],
            tasks.stuck_count(),
            metrics.snapshot(now).stuck,
            [item.title for item in attention.current() if item.state == "stuck"],
        ]

    assert said() == ["", "running", [], 0, 0, []], "a name without a past is not judged"
    assert put(people["operator"], stuck="30").status_code == 302
    assert said() == ["stuck", "stuck", ["u1"], 1, 1, ["1 task looks stuck"]]
    assert "over the 30" in attention.current()[0].text and "set for pay" in attention.current()[0].text
    html = people["viewer"].get("/tasks/u1/").content.decode()
    assert "that operator set for its name" in html and "Set by operator" in html
    assert put(people["operator"], slow="10", stuck="50").status_code == 302
    assert said()[:4] == ["slow", "slow", [], 0]
    assert put(people["operator"], reset="yes").status_code == 302
    assert said()[0] == "" and not Threshold.objects.exists()
    assert "umbel_tasks_stuck 0" in people["viewer"].get("/metrics").content.decode()


def test_what_is_not_set_stays_by_its_past() -> None:
    history()
    assert (usual.after(NAME).slow, usual.after(NAME).stuck) == (10.0, 60.0)
    assert usual.after("never.seen").pace(1e9) == ""
    Threshold.objects.create(name=NAME, stuck=300.0, username="otto", at=1.0)
    usual.forget()
    limit = usual.after(NAME)
    assert [limit.pace(seconds) for seconds in (5, 70, 301)] == ["", "slow", "stuck"]
    assert (limit.slow_is_set, limit.stuck_is_set) == (False, True)


@pytest.mark.parametrize(
    ("slow", "stuck", "said"),
    [
        ("", "", "No time was given"),
        ("60", "30", "Slow after 60 s is later than stuck after 30 s"),
        ("nan", "", "&#x27;nan&#x27; is no time"),
        ("", "inf", "&#x27;inf&#x27; is no time"),
        ("", "-1", "&#x27;-1&#x27; is no time"),
        ("", "0", "&#x27;0&#x27; is no time"),
        ("", "1_0", "&#x27;1_0&#x27; is no time"),
        ("", "٣", "is no time from 0.01 to 7,776,000 seconds"),
        ("", "<b>", "&#x27;&lt;b&gt;&#x27; is no time"),
        ("", "1e300", "&#x27;1e300&#x27; is no time"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(
    people: dict[str, Client], slow: str, stuck: str, said: str
) -> None:
    task("u1")
    answer = put(people["operator"], slow, stuck)
    assert answer.status_code == 409 and said in answer.content.decode()
    assert not Threshold.objects.exists()


def test_a_name_that_nobody_knows_has_no_times(people: dict[str, Client]) -> None:
    answer = put(people["operator"], stuck="30")
    assert answer.status_code == 409 and f"no task called &#x27;{NAME}&#x27;" in answer.content.decode()


def test_who_may_set_them_and_that_it_is_in_the_audit_log(people: dict[str, Client], settings: Any) -> None:
    task("u1")
    assert put(Client(), stuck="30").status_code == 302
    assert put(people["viewer"], stuck="30").status_code == 403
    settings.UMBEL_PERMISSIONS = {"threshold": "admin"}
    assert put(people["operator"], stuck="30").status_code == 403
    assert "counts as slow or stuck" not in people["operator"].get("/tasks/u1/").content.decode()
    assert not Threshold.objects.exists()
    ControlRecord.objects.all().delete()
    for _ in range(2):  # the second click changes nothing
        assert put(people["admin"], stuck="30").status_code == 302
    put(people["admin"], slow="5", stuck="45 s")
    for _ in range(2):
        put(people["admin"], reset="yes")
    said = [(one.command, one.arguments, one.evidence) for one in ControlRecord.objects.order_by("at")]
    assert said == [
        ("threshold_set", {"stuck": "30 s"}, "Before: automatic."),
        ("threshold_set", {"slow": "5 s", "stuck": "45 s"}, "Before: stuck after 30 s."),
        ("threshold_reset", {}, "Before: slow after 5 s, stuck after 45 s."),
    ]
    settings.UMBEL_READ_ONLY = True
    assert put(people["admin"], stuck="30").status_code == 403


def test_a_reason_is_asked_for_when_the_settings_want_one(people: dict[str, Client], settings: Any) -> None:
    task("u1")
    settings.UMBEL_REASONS = {"threshold": "required"}
    answer = put(people["operator"], stuck="30")
    assert answer.status_code == 422 and 'name="stuck" value="30"' in answer.content.decode()
    assert put(people["operator"], stuck="30", reason="Bank holiday").status_code == 302
    assert ControlRecord.objects.get().reason == "Bank holiday"


def test_they_are_listed_with_the_settings_and_reset_there(people: dict[str, Client]) -> None:
    Threshold.objects.create(name=NAME, slow=5.0, username="otto", at=time.time())
    shown = {role: client.get("/settings/").content.decode() for role, client in people.items()}
    for role, html in shown.items():
        assert "Who may do what" in html and ">pay<" in html, role
        assert ("Back to automatic" in html) == (role != "viewer"), role
