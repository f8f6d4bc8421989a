"""What other operators do, told in passing; and what is done to users, in the audit log."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import lately
from monitor.models import ControlRecord
from tests.test_audit import record
from tests.test_workers_page import task, worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def otto() -> Any:
    return access.create_user("otto", "operator", "correct horse 9")


def test_acts_of_people_are_news_for_a_moment(otto: Any) -> None:
    told = record(user=otto, command="pool_grow", targets=["w@h"])
    record(user=otto, effect="refused")
    record(user=otto, at=time.time() - 60)
    record(user=None, username="Umbel")
    record(user=otto, command="note_add")
    record(user=otto, command="user_role")
    assert [one.record.pk for one in lately.others()] == [told.pk]
    for n in range(9):
        record(user=otto, targets=[f"t{n}"])
    assert len(lately.others()) == lately.MOST


def test_who_may_not_act_is_told_of_nobody(otto: Any) -> None:
    one = record(user=otto, reason="<b>why</b>")
    fragments.load()
    region = fragments.named("others")
    for role, read_only, shown in (
        *(("viewer", False, False), ("operator", False, True), ("admin", False, True)),
        ("operator", True, False),
    ):
        html = region.draw(Page("tasks", role=role, read_only=read_only))
        assert (str(one.pk) in html) == shown, role
        assert "<b>why" not in html
    assert f'data-by="{otto.pk}"' in region.draw(Page("tasks", role="operator"))


def test_a_viewers_page_has_no_place_for_them(otto: Any) -> None:
    record(user=otto)
    pages = {}
    for name, role in (("vera", "viewer"), ("mila", "operator")):
        client = Client()
        client.force_login(access.create_user(name, role, "correct horse 9"))
        pages[name] = client.get("/feed/").content.decode()
    assert 'id="others"' not in pages["vera"] and "data-me" not in pages["vera"]
    assert 'id="others"' in pages["mila"] and re.search(r'data-me="\d+" data-now="\d+"', pages["mila"])


def test_a_task_and_a_worker_say_what_was_asked_of_them(otto: Any, client: Client) -> None:
    pk = worker("w@h").pk
    task("u1")
    kept = {
        "/tasks/u1/": record(user=otto, targets=["u0", "u1"], reason="wrong <day>"),
        f"/workers/{pk}/": record(user=otto, command="pool_grow", targets=["w@h"], arguments={"n": 2}),
    }
    record(user=otto, targets=["u11"])
    record(user=otto, targets=["u1"], at=time.time() - 2 * lately.DAY)
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    for path, one in kept.items():
        html = client.get(path).content.decode()
        panel = html.split("Asked of it lately")[1].split("</section>")[0]
        assert panel.count("/audit/") == 1 and str(one.pk) in panel and "Verified" in panel, path
    assert "“wrong &lt;day&gt;”" in client.get("/tasks/u1/").content.decode()


# Users


@pytest.fixture
def ada(client: Client) -> Client:
    client.force_login(access.create_user("ada", "admin", "correct horse 9"))
    return client


def said() -> list[tuple[Any, ...]]:
    rows = ControlRecord.objects.order_by("at")
    return [(one.username, one.command, one.targets, one.arguments) for one in rows]


def test_changes_of_users_are_in_the_audit_log(ada: Client, otto: Any) -> None:
    ada.post("/users/add/", {"username": "mila", "role": "viewer"})
    for change in ({"change": "role", "role": "admin"}, {"change": "deactivate"}, {"change": "activate"}):
        for _ in range(2):  # the second click changes nothing
            assert ada.post(f"/users/{otto.pk}/", change).status_code == 302
    ada.post(f"/users/{otto.pk}/", {"change": "link"})
    assert said() == [
        ("ada", "user_add", ["mila"], {"role": "viewer"}),
        ("ada", "user_role", ["otto"], {"to": "admin", "from": "operator"}),
        ("ada", "user_deactivate", ["otto"], {}),
        ("ada", "user_activate", ["otto"], {}),
        ("ada", "user_link", ["otto"], {}),
    ]
    html = ada.get("/audit/?what=user_role").content.decode()
    assert "Change role of <b>otto</b> (to admin, from operator)" in html
    page = ada.get(f"/audit/{ControlRecord.objects.get(command='user_role').pk}/").content.decode()
    assert "Change role of otto" in page and "answered" not in page[page.index("<main") :].split("Facts")[0]


def test_what_did_not_happen_to_a_user_is_not_in_the_log(ada: Client, otto: Any) -> None:
    ada.post("/users/add/", {"username": "OTTO", "role": "viewer"})
    own = access.get_user_model().objects.get(username="ada")
    ada.post(f"/users/{own.pk}/", {"change": "deactivate"})  # the last admin
    ada.post(f"/users/{otto.pk}/", {"change": "role", "role": "root"})
    client = Client()
    client.force_login(otto)
    client.post(f"/users/{otto.pk}/", {"change": "role", "role": "admin"})
    assert said() == []


def test_people_added_on_the_command_line_are_in_the_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("user", "add", "cleo", "--role", "operator")
    assert said() == [("command line", "user_add", ["cleo"], {"role": "operator"})]


def test_the_first_admin_is_in_the_log(client: Client) -> None:
    token = access.first_link()
    words = {"username": "first", "password": "correct horse 9", "again": "correct horse 9"}
    assert client.post(f"/sign-in/{token}/", words).status_code == 302
    assert said() == [("first", "user_add", ["first"], {"role": "admin"})]
