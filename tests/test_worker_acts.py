"""What a worker's page offers to do, each act with its reason, and what is asked first."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access, fragments
from dashboard.forms.workers import pattern
from dashboard.fragments import Page
from dashboard.queries import worker as queries
from monitor import models
from monitor.control import Can
from tests.test_hostile_pages import harm
from tests.test_workers_page import EVIL, history, task, worker

pytestmark = pytest.mark.django_db

ACTS = ("worker-ping", "worker-restart-pool", "worker-disable-events", "worker-shutdown")


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Commands that cannot be asked, each with the reason; all others can."""
    reasons: dict[str, str] = {}

    class Able:
        def of(self, name: str) -> Can:
            return Can(name not in reasons, reasons.get(name, ""))

        def __getattr__(self, name: str) -> Can:
            return self.of({"grow": "pool_grow"}.get(name, name))

    monkeypatch.setattr(queries, "can", lambda _: Able())
    return reasons


def page(client: Client, row: models.Worker, role: str = "operator") -> str:
    client.force_login(access.create_user(f"{role}-{row.pk}", role, "correct horse 9"))
    answer = client.get(reverse("worker", args=[row.pk]))
    assert answer.status_code == 200
    html = answer.content.decode()
    assert not harm(html)
    return html


def part(html: str, start: str, end: str) -> str:
    return html[html.index(start) : html.index(end, html.index(start))]


def disabled(html: str, words: str) -> bool:
    """Whether the button with these words is; it must be there."""
    found = re.findall(rf"<(?:button|a)\b([^>]*)>(?:<svg[^>]*><use[^>]*/></svg>)?{re.escape(words)}", html)
    assert found, words
    return all(re.search(r"\bdisabled\b", attributes) for attributes in found)


def test_an_operator_has_every_act_and_a_viewer_none(
    client: Client, able: dict[str, str], settings: Any
) -> None:
    row = worker("a@h", queues=["mail", "imports"], details={"registered": ["shop.add"]}, inspected_at=1.0)
    html = page(client, row)
    for name in ACTS:
        assert reverse(name, args=[row.pk]) in html
    for words in (
        "Ping",
        "Restart pool",
        "Shut down…",
        "Stop consuming",
        "Add queue",
        "Set rate",
        "Set times",
    ):
        assert not disabled(html, words), words
    assert "does nothing on a worker that was started with -E" in html
    for reader in ("viewer", "read-only"):
        settings.UMBEL_READ_ONLY = reader == "read-only"
        html = page(client, row, "viewer" if reader == "viewer" else "admin")
        for words in ("Restart pool", "Shut down", "Stop consuming", "Add queue", "Set rate", "task-names"):
            assert words not in html, f"{reader}: {words}"
        assert "mail" in html and "shop." in html


@pytest.mark.parametrize(
    ("events", "shown"), [(True, (False, True)), (False, (True, False)), (None, (True, True))]
)
def test_events_are_stopped_or_enabled_by_what_is_known(
    client: Client, able: dict[str, str], events: bool | None, shown: tuple[bool, bool]
) -> None:
    html = page(client, worker("a@h", events_on=events))
    urls = ("/enable-events/", "/disable-events/")
    assert tuple(url in html for url in urls) == shown


def test_what_cannot_be_done_is_off_with_the_reason_in_sight(client: Client, able: dict[str, str]) -> None:
    able["pool_restart"] = "a@h was started without worker_pool_restarts <b>."
    able["add_consumer"] = "No queue can be added here."
    able["cancel_consumer"] = "No queue can be stopped here."
    able["rate_limit"] = able["time_limit"] = "No limit holds here."
    html = page(client, worker("a@h", queues=["mail"]))
    for words in ("Restart pool", "Add queue", "Stop consuming", "Set rate", "Set times"):
        assert disabled(html, words), words
    assert not disabled(html, "Ping") and not disabled(html, "Shut down…")
    head = part(html, 'id="acts-no"', "</header>")
    assert "<b>Restart pool:</b> a@h was started without worker_pool_restarts &lt;b&gt;." in head
    for reason in ("No queue can be added here.", "No queue can be stopped here.", "No limit holds here."):
        assert re.search(rf"<p class=\"hint why\" id=\"[\w-]+\" data-why>.*?{reason}", html), reason


def test_an_offline_worker_says_so_once_beside_its_acts(client: Client) -> None:
    now = time.time()
    html = page(client, worker("a@h", status="offline", reason="silent", offline_at=now, queues=["mail"]))
    acts = part(html, 'class="acts"', "</header>")
    assert acts.count("cannot be asked") == 1 and acts.count(" disabled") == acts.count("<button")
    assert "Shut down…" in acts and "<a " not in acts
    for words in ("Stop consuming", "Add queue", "Set rate", "Set times"):
        assert disabled(html, words), words


def test_solo_and_beat_keep_what_they_can_do(client: Client) -> None:
    html = page(client, worker("a@h", pool="solo", details={"conf": {"worker_pool_restarts": True}}))
    for words in ("Ping", "Shut down…", "Set rate", "Add queue"):
        assert not disabled(html, words), words
    assert disabled(html, "Restart pool") and "A solo pool has no processes of its own" in html
    html = page(client, worker("b@h", details={"conf": {}}))
    assert disabled(html, "Restart pool") and "without worker_pool_restarts" in html
    html = page(client, worker("c@h", is_beat=True, queues=["mail"]))
    assert not disabled(html, "Ping")
    for words in ("Restart pool", "Shut down…", "Set rate", "Add queue", "Stop consuming"):
        assert disabled(html, words), words
    assert "<b>Restart pool, Enable events, Stop events, Drain, Shut down:</b> c@h is celery beat" in html


def test_without_an_inspection_nothing_is_made_up(client: Client) -> None:
    html = page(client, worker("a@h", pool="", size=None))
    assert "None known yet." in html
    assert "Not known yet: it shows when this worker has answered inspect." in html
    assert (
        "Set rate" in html
        and "Add queue" in html
        and "task-names" not in part(html, "worker-limits", "<form")
    )
    html = page(client, worker("b@h", inspected_at=1.0, details={"registered": []}))
    assert "it takes no task from the broker" in html and "It has no task registered." in html


def test_limits_are_shown_by_task_and_offered_by_name(client: Client, able: dict[str, str]) -> None:
    listed = ["shop.add [rate_limit=10/m soft_time_limit=30.0 time_limit=60.0]", "shop.mail", None]
    details = {"registered": listed, "stats": {"pool": {"timeouts": [0, 600]}}}
    html = page(client, worker("a@h", details=details))
    panel = part(html, 'id="worker-limits"', "<form")
    assert '<option value="shop.add">' in panel and '<option value="shop.mail">' in panel
    assert "<td>10/m</td><td>30</td><td>60</td>" in panel
    assert panel.index("add") < panel.index("mail") and panel.count(">none<") == 3
    assert "soft none, hard 10" in panel
    assert "enforces them only after its consumer restarts" in html and "task_annotations" in html
    live = fragments.named("worker-limits").draw(
        Page("worker", (("pk", models.Worker.objects.get().pk),), role="operator")
    )
    assert live.strip() in html


def test_only_the_last_queue_is_asked_for(client: Client, able: dict[str, str]) -> None:
    two = worker("a@h", queues=["mail", "imports"])
    html = part(page(client, two), 'id="worker-queues"', "<form")
    assert html.count('name="queue"') == 2 and "Stop consuming…" not in html
    one = worker("b@h", queues=["mail & more"])
    html = part(page(client, one), 'id="worker-queues"', "<form")
    assert "Stop consuming…" in html and "?queue=mail%20%26%20more" in html and 'name="queue"' not in html


def test_a_shutdown_tells_what_runs_what_waits_and_what_is_left_alone(
    client: Client, able: dict[str, str]
) -> None:
    now = time.time()
    row = worker("a@h", queues=["mail", "imports"])
    worker("b@h", queues=["mail"])
    worker("c@h", queues=["imports"], status="offline", offline_at=now)
    history()
    task("u1", worker="a@h", started_at=now - 4)
    task("u2", worker="a@h", state="RECEIVED", received_at=now - 3)
    task("u3", worker="a@h", state="RECEIVED", received_at=now - 3)
    task("u4", worker="a@h", state="RECEIVED", received_at=now - 3, eta=now + 900)
    page(client, row)
    path = reverse("worker-shutdown", args=[row.pk])
    html = client.get(path).content.decode()
    for said in (
        "Shut down a@h?", "1 running task finishes first.", "up to about", "2 reserved tasks go back",
        "1 task held for its ETA goes back, too.", "imports will have no worker.",
        "seconds before its process ends",
        'pattern="a@h"', "Keep running", "Reason",
    ):  # fmt: skip
        assert said in html, said
    assert "mail will have no worker" not in html
    dialog = client.get(path, headers={"HX-Request": "true"}).content.decode()
    assert dialog.startswith("<dialog") and 'hx-post="' in dialog and "data-close" in dialog


def test_of_a_task_without_a_past_the_end_is_not_guessed(client: Client, able: dict[str, str]) -> None:
    row = worker("a@h", pool="solo")
    task("u1", worker="a@h", name="shop.new", started_at=time.time() - 60)
    page(client, row)
    html = client.get(reverse("worker-shutdown", args=[row.pk])).content.decode()
    assert "Umbel cannot know when it ends" in html and "hears of the shutdown only then" in html
    assert "Nothing is reserved here now." in html


def test_a_solo_worker_is_not_called_idle_before_its_shutdown(client: Client, able: dict[str, str]) -> None:
    row = worker("a@h", pool="solo")
    page(client, row)
    html = client.get(reverse("worker-shutdown", args=[row.pk])).content.decode()
    assert "Nothing runs here now" in html and "A solo worker at work sends no event" in html


def test_what_cannot_be_asked_has_no_button_in_its_question(client: Client, able: dict[str, str]) -> None:
    row = worker("a@h", queues=["mail"])
    able["shutdown"] = able["cancel_consumer"] = "a@h is offline (silent): it cannot be asked."
    page(client, row)
    for name, query in (("worker-shutdown", ""), ("worker-cancel-consumer", "?queue=mail")):
        html = client.get(reverse(name, args=[row.pk]) + query).content.decode()
        assert "it cannot be asked." in html and 'type="submit">Shut' not in html
        assert 'type="submit">Stop' not in html


@pytest.mark.parametrize("name", [EVIL, "x" * 255, "a/b@c", '"quoted"@h', "\u202egnp@h", "{{7*7}}@h"])
def test_hostile_names_stay_text(client: Client, able: dict[str, str], name: str) -> None:
    details = {
        "registered": [
            name,
            f"{name} [rate_limit={name} time_limit={name}]",
            f"{name}2 [soft_time_limit=<b>]",
        ]
    }
    row = worker(name, queues=[name], details=details)
    html = page(client, row)
    for path in ("worker-shutdown", "worker-cancel-consumer"):
        answer = client.get(reverse(path, args=[row.pk]), {"queue": name})
        assert answer.status_code == 200
        html += answer.content.decode()
    assert not harm(html)
    assert "<img" not in html and "<b>]" not in html and "49@h" not in html


def test_a_name_is_a_pattern_that_means_itself() -> None:
    assert pattern("celery@web-1.local") == r"celery@web-1\.local"
    assert pattern(r"a|b\c(d)[e]{f}/^$*+?@h") == r"a\|b\\c\(d\)\[e\]\{f\}\/\^\$\*\+\?@h"


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (
            "rate_limit",
            {"task": "shop.add", "rate": "10/m"},
            "Set rate limit on <b>a@h</b> (task shop.add, rate 10/m)",
        ),
        (
            "time_limit",
            {"task": "shop.add", "soft": ""},
            "Set time limits on <b>a@h</b> (task shop.add, soft none)",
        ),
        ("add_consumer", {"queue": "mail"}, "Add queue to <b>a@h</b> (queue mail)"),
        (
            "cancel_consumer",
            {"queue": "mail", "last": "True"},
            "Stop queue of <b>a@h</b> (queue mail, its last)",
        ),
        ("pool_restart", {}, "Restart pool of <b>a@h</b>"),
        ("disable_events", {}, "Stop events of <b>a@h</b>"),
        ("ping", {}, "Ping <b>a@h</b>"),
        ("shutdown", {}, "Shut down <b>a@h</b>"),
    ],
)
def test_the_audit_log_has_words_for_each(
    client: Client, command: str, arguments: dict[str, str], words: str
) -> None:
    now = time.time()
    record = models.ControlRecord.objects.create(
        at=now, username="olga", role="operator", command=command, targets=["a@h"], arguments=arguments,
        effect="verified", sent_at=now, answered_at=now, completed_at=now,
    )  # fmt: skip
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert words in client.get("/audit/").content.decode()
    toast = client.get(f"/audit/{record.pk}/?fragment=toast").content.decode()
    assert ", verified" in toast and command not in toast.replace("ping answered", "")
