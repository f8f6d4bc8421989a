"""Named permissions: which role each command needs, and what is refused without it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern

from dashboard import access, permissions, process
from dashboard.fragments import Page
from dashboard.queries import ladders as queries_of_ladders
from monitor.acts.models import BulkAct
from monitor.control.kinds import KINDS
from monitor.control.revokes.ladders import BACKEND, HERE, Plan, Rung
from monitor.models import ControlRecord, Worker
from tests.permitted import people as people
from tests.permitted import sent as sent
from tests.permitted import waiting
from tests.permitted import worker as worker
from tests.test_access import PATTERNS, address
from tests.test_task_controls import Sent, running

pytestmark = pytest.mark.django_db
CONTROLS = [p for p in PATTERNS if access.rule(p.callback) == "operator"]
# Values with which each form reaches the point where it would be sent.
GIVEN = {
    **{"uuid": "runs", "signal": "SIGTERM", "queue": "mail", "typed": "mail", "name": "w@h", "last": "yes"},
    **{"n": "1", "max": "4", "min": "2", "task": "shop.add", "rate": "1/s", "soft": "3"},
}


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
            "tests.permitted.PASSWORD",
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
