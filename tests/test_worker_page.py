"""One worker's page: its slots, what it holds, its settings without secrets, and controls with reasons."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access, fragments
from dashboard.fragments import Page
from monitor import models
from tests.test_workers_page import task, worker

pytestmark = pytest.mark.django_db


def page(client: Client, row: models.Worker, role: str = "operator") -> str:
    client.force_login(access.create_user(f"{role}-{row.pk}", role, "correct horse 9"))
    answer = client.get(reverse("worker", args=[row.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_shows_slots_with_pids_and_what_it_holds(client: Client) -> None:
    now = time.time()
    details = {
        "active": [{"id": "run", "worker_pid": 4185}],
        "revoked": ["c5abf9eb"],
        "scheduled": [{"eta": "2099-01-01T00:00:00+00:00", "request": {"id": "late", "name": "shop.later"}}],
        "conf": {"broker_url": "redis://[hidden]@b/0", "task_time_limit": 600},
    }
    row = worker("a@h", details=details, inspected_at=now)
    task("run", worker="a@h")
    task("held", worker="a@h", name="shop.held", state="RECEIVED", received_at=now - 3, args="(7,)")
    html = page(client, row)
    for text in ("pid 4185", "c5abf9eb", "later", "held", "(7,)", "1 value hidden"):
        assert text in html, text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pool": "threads"}, "A threads pool keeps its size"),
        ({"pool": "solo"}, "A solo pool is always one"),
        ({"autoscale_max": 8, "autoscale_min": 2}, "scales itself"),
        ({"status": "offline", "reason": "silent since"}, "is offline"),
        ({}, "was started without --autoscale"),
    ],
)
def test_what_cannot_be_done_says_why(client: Client, values: dict[str, Any], reason: str) -> None:
    now = time.time()
    if values.get("status") == "offline":
        values |= {"offline_at": now}
    html = page(client, worker("a@h", **values))
    assert reason in html


def test_a_viewer_and_read_only_get_the_reason_and_no_working_button(client: Client, settings: Any) -> None:
    row = worker("a@h")
    html = page(client, row, "viewer")
    assert "needs the operator role" in html
    assert "data-said disabled" in html
    settings.UMBEL_READ_ONLY = True
    html = page(client, row, "operator")
    assert "every control is off" in html
    assert "data-said disabled" in html


def test_lost_tasks_stand_in_a_banner(client: Client) -> None:
    now = time.time()
    row = worker("a@h", status="offline", reason="silent since", heartbeat_at=now - 90, offline_at=now - 80)
    task("x", worker="a@h", state="LOST", ended_at=now - 80)
    html = page(client, row)
    assert "1 task was running here" in html
    assert "Slots when last seen" in html


def test_a_worker_nobody_knows_is_not_found(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert client.get("/workers/99/").status_code == 404
    assert client.get(f"/workers/{'9' * 30}/").status_code == 404


def heard(client: Client, **losses: Any) -> str:
    row = worker("a@h", missed=losses.pop("missed", 0), details={"losses": losses} if losses else {})
    html = page(client, row)
    return html[html.index('id="worker-unheard"') : html.index('id="worker-settings"')]


def test_what_was_not_heard_of_is_told_apart(client: Client) -> None:
    panel = heard(
        client,
        missed=14,
        missed_names={"shop.pay": 12, "shop.<b>mail": 2},
        silent=7,
        silent_names=["shop.quiet"],
        unsent=5,
        pending=3,
        accounts={"4185": [1, 2, 3, 4.0, 5.0]},
    )
    for label, count in (("Missed", 14), ("Silent by design", 7), ("While its events were off", 5)):
        assert re.search(rf"<dt>{label}<small>.*?</dt><dd>{count}</dd>", panel), label
    assert re.search(r"Not told apart yet<small>.*?</dt><dd>3</dd>", panel)
    assert panel.index(">12<") < panel.index(">2<")
    assert 'href="/tasks/?name=shop.pay"' in panel and "<code>shop.quiet</code> has" in panel
    assert "<b>mail" not in panel and "&lt;b&gt;mail" in panel


def test_a_worker_that_was_heard_in_full_says_so_and_a_new_one_waits(client: Client) -> None:
    assert "Nothing to compare yet" in heard(client)
    models.Worker.objects.all().delete()
    whole = heard(client, missed_names={}, silent=0, accounts={"1": [1, 2, 3, 4.0, 5.0]})
    assert "heard of every task" in whole


def test_many_names_are_cut_and_odd_details_do_no_harm(client: Client) -> None:
    names = {f"shop.t{n:03}": 100 - n for n in range(20)}
    panel = heard(client, missed=1, missed_names=names, silent_names=[f"q{n}" for n in range(20)], silent=1)
    assert "and 12 more task names" in panel and " and 12 more have" in panel
    models.Worker.objects.all().delete()
    assert "Nothing to compare yet" in heard(client, missed_names=[1], silent="x", unsent=True, pending=-2)


def test_it_is_drawn_live_as_on_the_page(client: Client) -> None:
    row = worker("a@h", missed=2, details={"losses": {"missed_names": {"shop.pay": 2}}})
    html = page(client, row)
    live = fragments.named("worker-unheard").draw(Page("worker", (("pk", row.pk),)))
    assert live.strip() in html
