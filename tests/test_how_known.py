"""A REVOKED that the result backend alone tells of: workers write it as soon as they are told to."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from monitor.control import Command
from monitor.control.asking import Question, Reply
from monitor.control.inspecting import Seen
from monitor.control.kinds import judge
from monitor.control.orders import Order
from monitor.models import Task

pytestmark = pytest.mark.django_db
HOW = "by its result; no worker was seen to skip it"


def task(uuid: str, state: str, known: str = "inferred", note: str = "", **more: Any) -> Task:
    now = time.time()
    return Task.objects.create(
        uuid=uuid, state=state, known=known, note=note, name="shop.add", worker="w@h", args="(1, 2)",
        first_seen_at=now, seen_at=now, **more,
    )  # fmt: skip


def order(command: str, **arguments: Any) -> Order:
    asked = [Question("revoke", {}, ("w@h",))]
    found = Order(Command(command, ("a",), arguments), asked, arguments, where={"a": "w@h"})
    found.replies = [Reply("w@h", command, True, "tasks flagged as revoked")]
    return found


def finding(found: Order, seen: Seen | None) -> tuple[str, str]:
    verdict = judge(found, 0.0, {"w@h": seen} if seen else {})
    return verdict.effect, verdict.findings[0].text


def test_the_row_and_the_page_say_how_it_is_known(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    task("told", "REVOKED", note="end read from the result backend")
    task("skipped", "REVOKED", known="seen")
    task("gone", "LOST", note="worker lost")
    task("read", "SUCCESS", note="end read from the <b>result</b> backend")
    html = client.get("/tasks/").content.decode()
    assert html.count(HOW) == 1 and f'<span class="soft">{HOW}</span> (1, 2)' in html
    assert '<span class="soft">worker lost</span>' in html
    assert "result</b> backend" not in html and "&lt;b&gt;result" in html
    page = client.get("/tasks/told/").content.decode()
    assert page.count(HOW) >= 2 and "before it ran" not in page
    assert HOW not in client.get("/tasks/skipped/").content.decode()


def test_a_row_that_was_drawn_follows_when_a_worker_is_seen_to_skip_it(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    task("told", "REVOKED")
    assert HOW in client.get("/tasks/").content.decode()
    Task.objects.update(known="seen")
    assert HOW not in client.get("/tasks/").content.decode()


def test_the_receipt_of_a_revoke_tells_a_result_from_a_task_that_was_skipped() -> None:
    row = task("a", "REVOKED")
    revoke = order("revoke")
    effect, text = finding(revoke, Seen(revoked={"a"}))
    assert effect == "verified" and text.startswith("Its result says REVOKED; no worker was seen to skip it")
    assert "The worker will skip it" in text
    assert finding(revoke, Seen()) == ("none", "No worker that answered has noted it.")
    assert finding(revoke, None)[0] == "unverified"
    Task.objects.filter(pk=row.pk).update(known="seen")
    assert finding(revoke, Seen()) == ("verified", "A worker reached it and skipped it: REVOKED.")


def test_a_result_that_says_revoked_does_not_prove_the_end_of_a_running_task() -> None:
    row = task("a", "REVOKED")
    terminate = order("terminate", signal="SIGTERM")
    effect, text = finding(terminate, Seen())
    assert effect == "partly"
    assert text == "Gone from w@h; its result says REVOKED, and its end was not seen in an event."
    assert finding(terminate, None)[1] == "The result says REVOKED; w@h did not answer when Umbel looked."
    Task.objects.filter(pk=row.pk).update(known="seen")
    assert finding(terminate, Seen()) == ("verified", "Gone from w@h, and its end was seen: REVOKED.")
