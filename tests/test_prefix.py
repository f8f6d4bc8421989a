"""Under ``--prefix`` every address on a page has it: on the page as it is loaded, and in what comes live."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest
from django.test import Client
from django.urls import set_script_prefix

from dashboard import access, drawing, fragments
from dashboard.drawing import Drawn, Live
from dashboard.fragments import Page
from dashboard.outbox import Outbox
from monitor import models

pytestmark = pytest.mark.django_db(transaction=True)
NOW = time.time()
ADDRESS = re.compile(r'(?:href|action|formaction|hx-post|hx-get|src)="(/[^"]*)"')


@pytest.fixture(autouse=True)
def under(settings: Any) -> Any:
    settings.FORCE_SCRIPT_NAME = "/umbel"
    yield
    set_script_prefix("/")


@pytest.fixture
def pages() -> dict[str, tuple[str, tuple[tuple[str, Any], ...]]]:
    """URL names of pages with something on each, their paths and arguments."""
    worker = models.Worker.objects.create(
        hostname="w@h", status="online", pool="prefork", size=2, first_seen_at=NOW, heartbeat_at=NOW,
        missed=2, events_on=False, details={"losses": {"missed_names": {"shop.add": 2}}},
    )  # fmt: skip
    fields: dict[str, Any] = {"name": "shop.add", "worker": "w@h", "queue": "q", "first_seen_at": NOW}
    for uuid, state in (("a", "STARTED"), ("b", "RECEIVED"), ("c", "FAILURE")):
        models.Task.objects.create(
            uuid=uuid, state=state, seen_at=NOW, started_at=NOW - 1, root_id="a", **fields
        )
    models.Gap.objects.create(started_at=NOW - 5, ended_at=NOW - 2)
    command = models.ControlRecord.objects.create(
        at=NOW, username="otto", role="operator", command="revoke", targets=["b"], effect="verified"
    )
    return {
        "overview": ("/", ()),
        "tasks": ("/tasks/", ()),
        "task": ("/tasks/b/", (("uuid", "b"),)),
        "workers": ("/workers/", ()),
        "worker": (f"/workers/{worker.pk}/", (("pk", worker.pk),)),
        "audit": ("/audit/", ()),
        "control-record": (f"/audit/{command.pk}/", (("pk", command.pk),)),
        "feed": ("/feed/", ()),
    }


def drawn(live: Live) -> Drawn:
    """On a thread that has seen no request, as the hub has them."""
    found: list[Drawn] = []
    thread = threading.Thread(target=lambda: found.append(drawing._drawn(live)))
    thread.start()
    thread.join(30)
    return found[0]


def test_what_comes_live_has_the_prefix(pages: dict[str, Any]) -> None:
    fragments.load()
    seen = 0
    for name, (_, kwargs) in pages.items():
        page = Page(name, kwargs, role="operator")
        for region in fragments.regions(page):
            live = Live(region, page, frozenset())
            live.sockets.add(object.__new__(Outbox))
            one = drawn(live)
            assert one.problem is None and one.content is not None, (name, region.name, one.problem)
            addresses = [] if region.data else ADDRESS.findall(one.content)
            assert [a for a in addresses if not a.startswith("/umbel/")] == [], (name, region.name)
            seen += len(addresses)
    assert seen > 30


def test_every_address_of_a_loaded_page_has_it(client: Client, pages: dict[str, Any]) -> None:
    # As each handler of requests does; the test client's does not.
    set_script_prefix("/umbel")
    client.force_login(access.create_user("otto", "operator", "correct horse 9"))
    for path in [path for path, _ in pages.values()] + ["/settings/", "/search/?q=shop", "/users/"]:
        answer = client.get(path)
        if answer.status_code == 200:
            addresses = ADDRESS.findall(answer.content.decode())
            assert addresses
            assert [a for a in addresses if not a.startswith("/umbel/")] == [], path
