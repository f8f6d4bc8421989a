"""Several commands that one button sends: without scripts a page lists each with what came of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from dashboard.fragments import Page, named
from monitor import control as engine
from monitor import models
from monitor.control import Actor, Command, Refused
from tests.test_hostile_pages import harm

pytestmark = pytest.mark.django_db
FORGOTTEN = [
    ("rate", "shop.t0", "rate_limit", {"task": "shop.t0", "rate": "10/m"}),
    ("rate", "shop.t1", "rate_limit", {"task": "shop.t1", "rate": "10/m"}),
    ("queue", "more", "add_consumer", {"queue": "more"}),
    ("events", "", "enable_events", {}),
]


def signed_in(role: str) -> Client:
    client = Client()
    client.force_login(access.create_user(role, role, "correct horse 9"))
    return client


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the button that sets four things again posts to; the worker refuses the second of them."""
    now = time.time()
    row = models.Worker.objects.create(
        hostname="a@h", status="online", pool="prefork", size=4, first_seen_at=now - 900, queues=["mail"]
    )
    for number, (kind, key, command, value) in enumerate(FORGOTTEN):
        models.Drift.objects.create(
            worker="a@h", kind=kind, key=key, command=command, value=value, at=now - 600 + number,
            username="mila", forgotten_at=now - 60,
        )  # fmt: skip

    def perform(command: Command, actor: Actor, identity: Any = None) -> models.ControlRecord:
        if command.arguments.get("task") == "shop.t1":
            engine.refuse(command, actor, "a@h does not know shop.t1.", identity)
            raise Refused("a@h does not know shop.t1.")
        return models.ControlRecord.objects.create(
            pk=identity, at=time.time(), sent_at=time.time(), username=actor.username, role=actor.role,
            command=command.name, targets=["a@h"], effect="verified", evidence="It shows it.",
            arguments=command.arguments, user_id=actor.user_id, completed_at=time.time(),
            replies=[{"worker": "a@h", "outcome": "ok"}],
        )  # fmt: skip

    monkeypatch.setattr(engine, "perform", perform)
    return reverse("worker-set-again", args=[row.pk])


def test_each_command_that_was_sent_or_refused_is_listed_and_followed(again: str, settings: Any) -> None:
    settings.UMBEL_PERMISSIONS = {"add_consumer": "admin"}
    client = signed_in("operator")
    answer = client.post(again)
    assert answer.status_code == 302 and answer["Location"].startswith("/audit/together/?id=")
    html = client.get(answer["Location"]).content.decode()
    assert "4 commands" in html and not harm(html)
    assert "a@h: rate limit set, verified" in html and "task shop.t0, rate 10/m" in html
    assert "Set rate limit on a@h: refused" in html and "a@h does not know shop.t1." in html
    assert "Add queue to a@h: refused" in html and "a@h: events enabled, verified" in html
    assert html.count(">Details<span") == 4 and "not sent" not in html
    # Whoever may look sees the same live.
    page = Page.at("/audit/together/", answer["Location"].partition("?")[2], "viewer", False)
    assert page is not None and "4 commands" in named("records").draw(page)
    assert models.ControlRecord.objects.count() == 4


def test_what_was_not_sent_any_more_is_said(again: str) -> None:
    client = signed_in("operator")
    where = client.post(again)["Location"]
    html = client.get(f"{where}&left=2").content.decode()
    assert "2 more were not sent</b>, since one before was not answered" in html


def test_a_second_click_leads_to_the_same_commands(again: str) -> None:
    client = signed_in("operator")
    first, second = client.post(again)["Location"], client.post(again)["Location"]
    good = {str(one.pk) for one in models.ControlRecord.objects.exclude(effect="refused")}
    assert len(good) == 3 and all(pk in first and pk in second for pk in good)


def test_an_address_that_names_no_command_is_not_found(again: str) -> None:
    client = signed_in("operator")
    for wrong in ("", "?id=x", "?id=7&left=-1", "?id=3f2504e0-4f89-41d3-9a0c-0305e82c3301"):
        assert client.get(f"/audit/together/{wrong}").status_code == 404
