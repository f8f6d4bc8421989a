"""Every page and every region with nothing in the history, and with everything in it hostile."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from django.urls import NoReverseMatch, reverse

from dashboard import access, fragments
from dashboard.fragments import Page
from monitor import models

pytestmark = pytest.mark.django_db

EVIL = "<img src=x onerror=alert(1)>\"'`</script><script>alert(2)</script>{{7*7}}"
NAMES = [
    EVIL,
    "a/../b?c=1#d",
    "x" * 255,
    "..",
    "javascript:alert(3)",
    "\u202egnp.exe",
    "日本語.仕事",
    "a b\tc",
]
PLAIN_PAGES = ("overview", "tasks", "workers", "audit", "feed", "search", "users", "user-add", "settings")
NOW = 1_773_325_924.0


class Harm(HTMLParser):
    """Notes each element and attribute that hostile text must never become."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in {"img", "iframe", "object", "embed", "base", "style"}:
            self.found.append(f"<{tag}>")
        if tag == "script" and not (values.get("src") or values.get("type") == "application/json"):
            self.found.append("<script>")
        for name, value in attrs:
            if name.startswith("on") or name == "style" or name.startswith("hx-on"):
                self.found.append(f"{tag} {name}")
            address = name in {"href", "src", "action", "formaction", "hx-get", "hx-post"}
            if address and not re.match(r"^(/|\?|#|$|[\w.-]+/?$)", value or ""):
                self.found.append(f"{tag} {name}={value}")
            if name == "id" and not re.fullmatch(r"[\w.:-]+", value or ""):
                self.found.append(f"{tag} id={value}")


def harm(html: str) -> list[str]:
    parser = Harm()
    parser.feed(html)
    return parser.found


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(access.create_user("admin", "admin", "correct horse 9"))
    return client


def fill() -> None:
    """A history in which every text is hostile and every number absurd."""
    for number, name in enumerate(NAMES):
        state = ("STARTED", "FAILURE", "SUCCESS", "RETRY", "PENDING", "RECEIVED", "REVOKED", "LOST")[number]
        models.Task.objects.create(
            **{
                "uuid": name[:155],
                "name": name,
                "state": state,
                "worker": name,
                "queue": name,
                "args": name * 9,
            },
            **{"kwargs": name, "result": name, "exception": f"{name}({name})", "exception_type": name},
            **{
                "traceback": f"Traceback:\n  {name}",
                "sent_at": -1e18,
                "received_at": 1e18,
                "started_at": NOW,
            },
            **{"ended_at": None, "first_seen_at": NOW, "seen_at": 1e18, "runtime": 1e12, "wait": -1e9},
            **{"root_id": NAMES[0][:155], "parent_id": NAMES[1], "sender": name, "note": name, "eta": 1e30},
            attempts=[{"number": 0, "worker": name, "state": state, "exception": name, "started_at": 1e18}],
            marks=[
                ["started", name, 1, 1, 1e18, 1e18, {"hostname": name}],
                [name, name, 1, 2, NOW, NOW, None],
            ],
        )
        details: dict[str, Any] = {
            "stats": {name: name, "pool": {"implementation": name}, "rusage": {}},
            "conf": {name: name},
            "active": [{"id": name, "name": name, "args": name, "time_start": 1e18}],
            "reserved": [{"id": name, "name": name}],
            "scheduled": [{"eta": name, "priority": 6, "request": {"id": name, "name": name}}],
            "revoked": [name],
            "registered": [name],
            "active_queues": [{"name": name, "exchange": {"name": name}}],
        }
        models.Worker.objects.create(
            **{
                "hostname": f"{name[:200]}@{number}",
                "status": "online",
                "reason": name,
                "pool": name,
                "size": 4,
            },
            **{"queues": [name], "software": name, "system": name, "load": [1e9], "first_seen_at": NOW},
            **{
                "heartbeat_at": 1e18,
                "drift": -1e12,
                "missed": 2**40,
                "details": details,
                "inspected_at": 1e18,
            },
        )
        models.TaskType.objects.create(
            **{"name": name, "runs": 99, "first_seen_at": NOW, "last_seen_at": NOW, "p50": 0.0, "p95": 1e12},
            p99=1e12,
        )
        models.ControlRecord.objects.create(
            **{"at": NOW, "username": name[:150], "role": "admin", "address": name[:64], "command": "revoke"},
            **{"targets": [name], "arguments": {name: name}, "reason": name, "destinations": [name]},
            **{"replies": [{"worker": name, "outcome": "error", "text": name}], "effect": "unverified"},
            **{"seen": [{"target": name, "seen": None, "text": name}], "evidence": name},
        )
        models.Gap.objects.create(started_at=NOW + number, ended_at=1e18, reason=name)


@pytest.mark.parametrize("name", PLAIN_PAGES)
@pytest.mark.parametrize("full", [False, True], ids=["empty", "hostile"])
def test_a_page_stands_and_does_no_harm(admin: Client, name: str, full: bool) -> None:
    if full:
        fill()
    answer = admin.get(
        reverse(name), {"q": EVIL[:30], "name": EVIL, "state": EVIL, "page": "9" * 30} if full else {}
    )
    assert answer.status_code == 200
    assert not harm(answer.content.decode())
    assert "49}" not in answer.content.decode()


def test_pages_of_hostile_things_do_no_harm(admin: Client) -> None:
    fill()
    paths = [reverse("worker", args=[pk]) for pk in models.Worker.objects.values_list("pk", flat=True)]
    paths += [
        reverse("control-record", args=[pk])
        for pk in models.ControlRecord.objects.values_list("pk", flat=True)
    ]
    paths += [reverse("task", args=[uuid]) for uuid in models.Task.objects.values_list("uuid", flat=True)]
    for path in paths:
        answer = admin.get(path)
        # "a/../b" and ".." are no paths that a client keeps as they are: not found is an answer.
        assert answer.status_code in (200, 404), path
        assert not harm(answer.content.decode()), path
    good = admin.get(f"/tasks/{quote(NAMES[6])}/")
    assert good.status_code == 200


def test_every_region_draws_itself_with_its_name_when_there_is_nothing_yet() -> None:
    for view, regions in {"overview": fragments.EVERYWHERE.regions, **fragments.PAGES}.items():
        try:
            reverse(view)
        except NoReverseMatch:
            continue  # of one thing, which is not there
        for region in regions:
            if region.data:
                continue
            for role in access.ROLES:
                html = region.draw(Page(view, role=role)).strip()
                head = html[: html.index(">") + 1]
                assert f'id="{region.name}"' in head, region.name
                assert re.match(r"<(section|div|ul|ol|table|nav|span|p|header|figure|dl)\b", head), (
                    region.name
                )
                assert not harm(html), region.name
