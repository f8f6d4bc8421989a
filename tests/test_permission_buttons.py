"""What is asked before a command and what is off: reasons that are required, buttons by the table."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from dashboard import permissions
from monitor.acts.models import BulkAct
from monitor.models import ControlRecord, Drain, WaitingShrink
from tests.permitted import people as people
from tests.permitted import sent as sent
from tests.permitted import waiting
from tests.permitted import worker as worker
from tests.test_task_controls import Sent, running

pytestmark = pytest.mark.django_db


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
