"""Named permissions: which role each command needs, a site's own rule, and reasons that are required."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern

from dashboard import access, permissions, process
from dashboard.fragments import Page
from dashboard.queries import ladders as queries_of_ladders
from monitor import control as engine
from monitor.acts.models import BulkAct
from monitor.control.kinds import KINDS
from monitor.control.revokes.ladders import BACKEND, HERE, Plan, Rung
from monitor.models import ControlRecord, Drain, Ladder, Task, WaitingShrink, Worker
from tests.test_access import PATTERNS, address
from tests.test_task_controls import Sent, running

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse 9"
CONTROLS = [p for p in PATTERNS if access.rule(p.callback) == "operator"]
# Values with which each form reaches the point where it would be sent.
GIVEN = {
    **{"uuid": "runs", "signal": "SIGTERM", "queue": "mail", "typed": "mail", "name": "w@h", "last": "yes"},
    **{"n": "1", "max": "4", "min": "2", "task": "shop.add", "rate": "1/s", "soft": "3"},
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr(engine, "perform", sent)
    return sent


@pytest.fixture
def people() -> dict[str, Client]:
    found = {}
    for role in access.ROLES:
        # What would go on to a broker fails here: it was let through.
        found[role] = Client(raise_request_exception=False)
        found[role].force_login(access.create_user(role, role, PASSWORD))
    return found


@pytest.fixture
def worker() -> Worker:
    return Worker.objects.create(
        pk=1,
        hostname="w@h",
        status="online",
        pool="prefork",
        size=4,
        queues=["mail", "celery"],
        first_seen_at=1,
    )


def commands_of(pattern: URLPattern) -> tuple[str, ...]:
    view = pattern.callback
    while view is not None:
        if hasattr(view, "control_commands"):
            return tuple(view.control_commands)
        view = getattr(view, "__wrapped__", None)
    return ()


@pytest.mark.parametrize("pattern", CONTROLS, ids=lambda p: p.name)
def test_every_control_names_its_command(pattern: URLPattern) -> None:
    names = commands_of(pattern)
    assert names, f"{pattern.name} names no command: which permission is it?"
    assert set(names) <= set(permissions.COMMANDS), f"{names} have no permission of their own"


def test_every_command_has_a_permission_and_an_operator_has_it_without_settings() -> None:
    assert set(KINDS) <= set(permissions.COMMANDS)
    assert set(permissions.COMMANDS.values()) == {"operator"}
    for name in permissions.COMMANDS:
        assert access.may(Page("x", role="operator"), name).allowed
        assert access.may(Page("x", role="viewer"), name).reason == "Needs the operator role"
        assert access.may(Page("x", role="admin", read_only=True), name).reason == "Umbel runs read-only"
    assert not access.may(Page("x", role="operator"), "a-name-nobody-gave").allowed


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("needed", permissions.NEEDS)
@pytest.mark.parametrize("pattern", CONTROLS, ids=lambda p: p.name)
def test_each_role_gives_the_commands_that_are_its_own(
    pattern: URLPattern, needed: str, people: dict[str, Client], sent: Sent, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = dict.fromkeys(commands_of(pattern), needed)
    running()
    assert Client().post(address(pattern), GIVEN).status_code == 302
    for role, client in people.items():
        before = len(sent.commands)
        answer = client.post(address(pattern), GIVEN)
        if needed != "nobody" and access.allows(role, needed):
            assert answer.status_code != 403, role
            continue
        assert answer.status_code == 403, role
        assert len(sent.commands) == before
        assert client.get(address(pattern), GIVEN).status_code in (403, 405)
        # A viewer is turned away before; who may control and not this is in the log.
        refused = ControlRecord.objects.filter(username=role, effect="refused")
        assert refused.exists() == (role != "viewer")
        refused.delete()


def test_a_refused_command_is_in_the_audit_log_with_its_target(
    people: dict[str, Client], sent: Sent, worker: Worker, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"shutdown": "admin", "purge": "nobody"}
    answer = people["operator"].post("/workers/1/shutdown/", {"name": "w@h", "reason": "it hangs"})
    assert "That needs the admin role" in answer.content.decode()
    assert people["admin"].post("/workers/1/shutdown/", {"name": "w@h"}).status_code == 302
    answer = people["admin"].post("/queues/purge/", {"queue": "mail", "typed": "mail"})
    assert (
        answer.status_code == 403
        and "Turned off for everyone by UMBEL_PERMISSIONS" in answer.content.decode()
    )
    refused = ControlRecord.objects.filter(effect="refused").order_by("at")
    said = [(one.username, one.command, one.targets, one.evidence, one.reason) for one in refused]
    assert said == [
        ("operator", "shutdown", ["w@h"], "Needs the admin role", "it hangs"),
        ("admin", "purge", ["mail"], "Turned off for everyone by UMBEL_PERMISSIONS", ""),
    ]
    assert [one.name for one in sent.commands] == ["shutdown"]


def test_growing_is_not_shrinking(
    people: dict[str, Client], sent: Sent, worker: Worker, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"pool_shrink": "admin"}
    assert people["operator"].post("/workers/1/grow/", {"size": "5"}).status_code == 302
    assert people["operator"].post("/workers/1/grow/", {"size": "2"}).status_code == 403
    assert people["operator"].post("/workers/1/shrink/", {"n": "1"}).status_code == 403
    assert [one.name for one in sent.commands] == ["pool_grow"]


def test_buttons_are_off_with_the_reason_and_each_role_has_its_own_page(
    people: dict[str, Client], worker: Worker, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"terminate": "admin", "shutdown": "admin", "rate_limit": "nobody"}
    running()
    for path in ("/tasks/", "/tasks/runs/", "/workers/1/"):
        shown = {role: client.get(path).content.decode() for role, client in people.items()}
        assert "Needs the admin role" in shown["operator"], path
        assert "Needs the admin role" not in shown["admin"], path
    terminate = "/tasks/terminate/?uuid=runs"
    assert terminate not in people["operator"].get("/tasks/").content.decode()
    assert terminate in people["admin"].get("/tasks/").content.decode()
    assert "Turned off for everyone" in people["admin"].get("/workers/1/").content.decode()
    assert people["operator"].get(terminate).status_code == 403
    assert people["admin"].get(terminate).status_code == 200


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/tasks/revoke/", {"uuid": "a", "if_started": "SIGKILL"}),
        ("/tasks/revoke/", {"uuid": "a", "if_started": "SIGKILL", "hold": "5"}),
        ("/tasks/revoke-stamped/", {"header": "tenant", "value": "42", "signal": "SIGKILL"}),
    ],
)
def test_what_ends_running_tasks_needs_the_permission_to_terminate(
    path: str, given: dict[str, str], people: dict[str, Client], sent: Sent, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"terminate": "admin"}
    waiting("a")
    assert people["operator"].post(path, given).status_code == 403
    assert not sent.commands and not BulkAct.objects.exclude(state="draft").exists()
    refused = ControlRecord.objects.get()
    assert (refused.effect, refused.evidence) == ("refused", "Needs the admin role")
    shown = {role: client.get(path, {"uuid": "a"}).content.decode() for role, client in people.items()}
    assert "SIGKILL" in shown["admin"] and "SIGKILL" not in shown["operator"]
    harmless = given | {"if_started": "", "signal": ""}
    assert people["operator"].post(path, harmless).status_code == 302
    assert people["admin"].post(path, given).status_code == 302


@pytest.mark.usefixtures("worker")
def test_step_by_step_needs_the_permission_of_each_step(
    people: dict[str, Client], sent: Sent, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running()
    steps = (Rung("abort", BACKEND), Rung("SIGUSR1"), Rung("SIGTERM", HERE))
    monkeypatch.setattr(queries_of_ladders, "plan", lambda *_: Plan(steps))
    post = {"uuid": "runs", "signal": "STEPS"}
    for name in ("abort", "terminate", "signal_process"):
        settings.UMBEL_PERMISSIONS = {name: "admin"}
        answer = people["operator"].post("/tasks/terminate/", post)
        assert answer.status_code == 403 and "eeds the admin role" in answer.content.decode(), name
        if name != "terminate":
            assert "STEPS" not in people["operator"].get("/tasks/terminate/?uuid=runs").content.decode()
        # Whether there are such steps is looked at only then.
        assert people["admin"].post("/tasks/terminate/", post).status_code == 409, name
    settings.UMBEL_PERMISSIONS = {}
    assert 'value="STEPS"' in people["operator"].get("/tasks/terminate/?uuid=runs").content.decode()


# A site's own rule

asked: list[tuple[str, str, tuple[str, ...]]] = []
answers: list[Any] = []


def rule(user: Any, command: str, targets: tuple[str, ...]) -> Any:
    asked.append((user.username, command, targets))
    answer = answers.pop() if answers else True
    if isinstance(answer, Exception):
        raise answer
    return answer


not_callable = "no function"


@pytest.fixture
def own_rule(settings: Any) -> list[Any]:
    settings.UMBEL_PERMISSION_RULE = "tests.test_permissions.rule"
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


def waiting(*uuids: str) -> None:
    for uuid in uuids:
        Task.objects.create(
            uuid=uuid, state="RECEIVED", name="shop.nap", first_seen_at=1, seen_at=time.time()
        )


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


def test_an_act_on_many_needs_the_permission_for_many_and_for_its_command(
    people: dict[str, Client], settings: Any
) -> None:
    waiting("a", "b")
    post = {"uuid": ["a", "b"]}
    for name in ("bulk", "revoke"):
        settings.UMBEL_PERMISSIONS = {name: "admin"}
        assert people["operator"].post("/tasks/revoke/", post).status_code == 403, name
        assert people["admin"].post("/tasks/revoke/", post).status_code == 200, name
    settings.UMBEL_PERMISSIONS = {}
    people["operator"].post("/tasks/revoke/", post)
    act = BulkAct.objects.get(username="operator")
    for name in ("bulk", "revoke"):
        settings.UMBEL_PERMISSIONS = {name: "nobody"}
        answer = people["operator"].post(f"/acts/{act.pk}/confirm/", {"reason": "x"})
        assert answer.status_code == 403, name
    act.refresh_from_db()
    assert act.state == "draft"


def test_many_want_a_reason_unless_the_settings_say_otherwise(
    people: dict[str, Client], settings: Any
) -> None:
    waiting("a", "b")
    client, post = people["operator"], {"uuid": ["a", "b"]}
    html = client.post("/tasks/revoke/", post).content.decode()
    assert "Required. Saved in the audit log." in html
    confirm = f"/acts/{BulkAct.objects.get().pk}/confirm/"
    answer = client.post(confirm, {"hold": "20"})
    assert answer.status_code == 422 and 'name="hold" value="20"' in answer.content.decode()
    settings.UMBEL_REASONS = {"bulk": "asked"}
    assert "Optional. Saved" in client.post("/tasks/revoke/", post).content.decode()
    settings.UMBEL_REASONS = {"bulk": "none", "revoke": "required"}
    assert client.post(confirm).status_code == 422
    settings.UMBEL_REASONS = {"bulk": "none"}
    assert client.post(confirm).status_code == 302
    assert BulkAct.objects.get(state="held").reason == "none given"


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


# At the start


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UMBEL_PERMISSIONS", {"purg": "admin"}, "'purg', which is no command of Umbel. The commands are "),
        (
            "UMBEL_PERMISSIONS",
            {"purge": "root"},
            "the role 'root', which there is not. Give operator, admin or",
        ),
        ("UMBEL_REASONS", {"purge": "always"}, "the level 'always', which there is not. Give none, asked or"),
        ("UMBEL_REASONS", {"drop": "asked"}, "'drop', which is no command of Umbel."),
        ("UMBEL_PERMISSION_RULE", "no.such.rule", "'no.such.rule', which cannot be imported"),
        (
            "UMBEL_PERMISSION_RULE",
            "tests.test_permissions.not_callable",
            "is no function. Give the dotted path",
        ),
    ],
)
def test_a_mistake_in_the_settings_ends_the_start(settings: Any, name: str, value: Any, said: str) -> None:
    process.check_settings()
    setattr(settings, name, value)
    with pytest.raises(process.CommandError) as refused:
        process.check_settings()
    assert said in str(refused.value)


# Reasons


@pytest.mark.usefixtures("worker")
def test_a_reason_that_is_required_is_asked_for_and_nothing_is_lost(
    people: dict[str, Client], sent: Sent, settings: Any
) -> None:
    settings.UMBEL_REASONS = {"terminate": "required", "revoke": "required"}
    running()
    client = people["operator"]
    assert (
        'name="reason" maxlength="500" autocomplete="off" required'
        in client.get("/tasks/terminate/?uuid=runs").content.decode()
    )
    given = {"uuid": ['"><b>'], "signal": "SIGKILL", "reason": "  "}
    for headers in ({}, {"HX-Request": "true"}):
        answer = client.post("/tasks/terminate/", given, headers=headers)
        html = answer.content.decode()
        assert answer.status_code == 422 and "This command wants a reason" in html
        for kept in ('value="&quot;&gt;&lt;b&gt;"', 'name="signal" value="SIGKILL"'):
            assert kept in html
        assert answer.get("HX-Retarget", "") == ("#dialog" if headers else "")
    assert not sent.commands and not ControlRecord.objects.exists()
    # A button without a form of its own asks as well.
    answer = client.post("/tasks/revoke/", {"uuid": "waits"}, headers={"HX-Request": "true"})
    assert answer.status_code == 422 and "Revoke 1 task: why?" in answer.content.decode()
    assert client.post("/tasks/revoke/", {"uuid": "waits", "reason": "wrong day"}).status_code == 302
    assert [one.reason for one in sent.commands] == ["wrong day"]


@pytest.mark.usefixtures("worker")
def test_by_default_no_reason_is_required_and_a_setting_leaves_the_field_out(
    people: dict[str, Client], sent: Sent, settings: Any
) -> None:
    running()
    client = people["operator"]
    html = client.get("/tasks/terminate/?uuid=runs").content.decode()
    assert "Optional. Saved in the audit log." in html
    assert client.post("/tasks/terminate/", {"uuid": "runs", "signal": "SIGTERM"}).status_code == 302
    assert permissions.reason_for("bulk") == "required" and permissions.reason_for("ping") == "none"
    settings.UMBEL_REASONS = {"terminate": "none"}
    assert 'name="reason"' not in client.get("/tasks/terminate/?uuid=runs").content.decode()


# Buttons of what is sent later, or step by step


def shown_to(people: dict[str, Client], path: str) -> dict[str, str]:
    return {role: people[role].get(path).content.decode() for role in ("operator", "admin")}


def button(html: str, said: str) -> str:
    """The tag of the button that says this."""
    found = re.findall(rf"<(?:button|a) [^>]*>(?:<svg(?:(?!</svg>).)*</svg>)?{re.escape(said)}", html)
    return str(found[-1]) if found else ""


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("needs", ["drain", "cancel_consumer"])
def test_a_drain_is_off_for_who_may_not_begin_it(
    needs: str, people: dict[str, Client], settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {needs: "admin"}
    heads = shown_to(people, "/workers/1/")
    assert "disabled" in button(heads["operator"], "Drain…") and "Needs the admin role" in heads["operator"]
    assert button(heads["admin"], "Drain…") and "disabled" not in button(heads["admin"], "Drain…")
    pages = shown_to(people, "/workers/1/drain/")
    assert "drain/begin" not in pages["operator"] and "Needs the admin role" in pages["operator"]
    assert "drain/begin" in pages["admin"]


@pytest.mark.usefixtures("worker")
def test_what_goes_on_with_a_drain_and_what_undoes_it_is_off_by_the_table(
    people: dict[str, Client], settings: Any
) -> None:
    Drain.objects.create(worker="w@h", at=time.time(), username="ada", role="admin", queues=["mail"])
    for name, said in (
        ("drain", "Cancel 1 again"),
        ("cancel_consumer", "Cancel 1 again"),
        ("end_drain", "Undo: consume again"),
        ("add_consumer", "Undo: consume again"),
        ("shutdown", "Shut down…"),
    ):
        settings.UMBEL_PERMISSIONS = {name: "admin"}
        pages = shown_to(people, "/workers/1/drain/")
        off = button(pages["operator"], said)
        assert "disabled" in off and "Needs the admin role" in off, name
        assert button(pages["admin"], said) and "disabled" not in button(pages["admin"], said), name


@pytest.mark.usefixtures("worker")
def test_a_shrink_when_free_and_its_withdrawal_are_off_by_the_table(
    people: dict[str, Client], settings: Any
) -> None:
    now = time.time()
    WaitingShrink.objects.create(worker="w@h", at=now, to=2, until=now + 900, username="ada", role="admin")
    for name, said in (
        ("shrink_when_free", "When free"),
        ("pool_shrink", "When free"),
        ("keep_size", "Withdraw"),
    ):
        settings.UMBEL_PERMISSIONS = {name: "admin"}
        pages = shown_to(people, "/workers/1/")
        off = button(pages["operator"], said)
        assert "disabled" in off and "Needs the admin role" in off, name
        assert button(pages["admin"], said) and "disabled" not in button(pages["admin"], said), name
