"""Commands from a worker's own page that are held first: all see them, and any operator can withdraw them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from dashboard.fragments import Page, named
from monitor.acts.models import ActTarget, BulkAct
from monitor.models import ControlRecord, Worker
from tests.acts import Bench, online

pytestmark = pytest.mark.django_db
HX = {"HX-Request": "true"}
# The URL's last word, what is given, the command that goes out with its arguments, and how it is told.
COMMANDS: list[tuple[str, dict[str, str], str, dict[str, Any], str]] = [
    ("grow", {"n": "2"}, "pool_grow", {"n": 2}, "Grow pool of w@h"),
    ("grow", {"size": "5"}, "pool_grow", {"to": 5}, "Grow pool of w@h"),
    ("shrink", {"size": "1"}, "pool_shrink", {"to": 1}, "Shrink pool of w@h"),
    ("restart-pool", {}, "pool_restart", {}, "Restart pool of w@h"),
    ("rate-limit", {"task": "shop.add", "rate": "9/m"}, "rate_limit", {"task": "shop.add", "rate": "9/m"},
     "Set rate limit on w@h"),
    ("time-limit", {"task": "shop.add", "soft": "3"}, "time_limit", {"task": "shop.add", "soft": 3.0},
     "Set time limits on w@h"),
    ("add-consumer", {"queue": "mail"}, "add_consumer", {"queue": "mail"}, "Add queue to w@h"),
    ("cancel-consumer", {"queue": "pile"}, "cancel_consumer", {"queue": "pile"}, "Stop queue of w@h"),
    ("cancel-consumer", {"queue": "pile", "last": "yes"}, "cancel_consumer", {"queue": "pile", "last": True},
     "Stop queue of w@h"),
    ("enable-events", {}, "enable_events", {}, "Enable events on w@h"),
    ("disable-events", {}, "disable_events", {}, "Stop events of w@h"),
    ("shutdown", {"name": "w@h"}, "shutdown", {}, "Shut down w@h"),
]  # fmt: skip


def signed_in(name: str, role: str = "operator") -> Client:
    client = Client()
    client.force_login(access.create_user(name, role, "correct horse 9"))
    return client


@pytest.fixture
def row() -> Worker:
    details = {"conf": {"worker_pool_restarts": True}, "registered": ["shop.add"]}
    return online(queues=["pile", "more"], details=details, heartbeat_at=time.time())


@pytest.mark.parametrize(("word", "given", "command", "arguments", "words"), COMMANDS)
def test_each_is_held_shown_to_all_and_then_sent(  # noqa: PLR0917 pytest gives them by name
    row: Worker, word: str, given: dict[str, str], command: str, arguments: dict[str, Any], words: str
) -> None:
    bench, olga = Bench(), signed_in("olga")
    answer = olga.post(
        f"/workers/{row.pk}/{word}/", {**given, "hold": "10", "reason": "a new host"}, headers=HX
    )
    assert answer.status_code == 200 and f"{words}, held" in answer.content.decode()
    act = BulkAct.objects.get()
    assert (act.state, act.hold, act.count, act.username, act.reason) == ("held", 10, 1, "olga", "a new host")
    bench.now = act.at or 0.0
    bench.look(1.0)
    assert bench.sent == [] and not ControlRecord.objects.exists()
    every = named("acts-now").draw(Page("tasks", role="operator"))
    assert f"{words} by olga" in every and "a new host" in every and "Withdraw" in every
    bench.look(10.0), bench.look()
    (sent,) = bench.sent
    assert (sent.name, sent.targets, sent.arguments, sent.reason) == (
        command,
        ("w@h",),
        arguments,
        "a new host",
    )
    assert ControlRecord.objects.get(command=command).username == "olga"


def test_another_operator_withdraws_it_and_nothing_is_sent(row: Worker) -> None:
    bench = Bench()
    where = signed_in("olga").post(f"/workers/{row.pk}/restart-pool/", {"hold": "20"})
    act = BulkAct.objects.get()
    assert where.status_code == 302 and where["Location"] == f"/acts/{act.pk}/"
    assert signed_in("pia").post(f"/acts/{act.pk}/withdraw/").status_code == 302
    bench.now = (act.at or 0.0) + 60
    bench.look(), bench.look()
    act.refresh_from_db()
    assert bench.sent == [] and (act.state, act.stopped_by) == ("withdrawn", "pia")
    assert "pool restart of w@h" in ControlRecord.objects.get(command="withdraw").evidence


def test_a_worker_that_was_restarted_meanwhile_is_another_one(row: Worker) -> None:
    bench = Bench()
    signed_in("olga").post(f"/workers/{row.pk}/shutdown/", {"name": "w@h", "hold": "5"})
    Worker.objects.update(pid=99)
    bench.now = time.time() + 10
    bench.look(), bench.look()
    assert bench.sent == [] and "restarted after the list was read" in ActTarget.objects.get().text


def test_a_second_click_is_the_same_act_and_another_size_another(row: Worker) -> None:
    client = signed_in("olga")
    for size in ("5", "5", "6"):
        assert client.post(f"/workers/{row.pk}/grow/", {"size": size, "hold": "10"}).status_code == 302
    assert sorted(act.arguments["to"] for act in BulkAct.objects.all()) == [5, 6]


def test_what_cannot_be_held_or_sent_is_refused_with_its_reason(row: Worker) -> None:
    client = signed_in("olga")
    for hold, words in (("31", "from 0 to 30"), ("x", "not")):
        answer = client.post(f"/workers/{row.pk}/restart-pool/", {"hold": hold})
        assert answer.status_code == 409 and words in answer.content.decode()
    wrong = client.post(f"/workers/{row.pk}/shutdown/", {"name": "other@h", "hold": "10"})
    assert wrong.status_code == 409
    Worker.objects.update(status="offline", reason="said goodbye")
    gone = client.post(f"/workers/{row.pk}/restart-pool/", {"hold": "10"})
    assert gone.status_code == 409 and "Nothing was sent." in gone.content.decode()
    assert not BulkAct.objects.exclude(state="draft").exists()
    assert set(ControlRecord.objects.values_list("effect", flat=True)) == {"refused"}


def test_who_may_not_cannot_hold_either(row: Worker, settings: Any) -> None:
    vera = signed_in("vera", "viewer")
    assert vera.post(f"/workers/{row.pk}/restart-pool/", {"hold": "10"}).status_code == 403
    settings.UMBEL_PERMISSIONS = {"pool_restart": "admin"}
    olga = signed_in("olga")
    assert olga.post(f"/workers/{row.pk}/restart-pool/", {"hold": "10"}).status_code == 403
    settings.UMBEL_READ_ONLY = True
    assert olga.post(f"/workers/{row.pk}/grow/", {"n": "1", "hold": "10"}).status_code == 403
    assert not BulkAct.objects.exists()


def test_the_page_offers_it_once_with_scripts_and_in_each_form_without(row: Worker, settings: Any) -> None:
    settings.UMBEL_HOLD = 10
    html = signed_in("olga").get(f"/workers/{row.pk}/").content.decode()
    assert html.count('id="hold" form="act"') == 1 and html.count('hx-include="#hold"') == 5
    assert html.count("<noscript><label") == 4 and '<option value="10" selected>10 s' in html
    dialog = signed_in("pia").get(f"/workers/{row.pk}/shutdown/", headers=HX).content.decode()
    assert 'name="hold"' in dialog and "Hold before it is sent" in dialog
    assert 'id="hold"' not in signed_in("vera", "viewer").get(f"/workers/{row.pk}/").content.decode()


def test_as_set_it_is_held_without_a_word_and_a_ping_never_is(
    row: Worker, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.UMBEL_HOLD = 5
    client, pinged = signed_in("olga"), []

    def perform(command: Any, actor: Any, **more: Any) -> ControlRecord:
        pinged.append(command.name)
        return ControlRecord.objects.create(at=1.0, username="olga", role="operator", command=command.name)

    monkeypatch.setattr("monitor.control.perform", perform)
    client.post(f"/workers/{row.pk}/disable-events/")
    client.post(f"/workers/{row.pk}/ping/", {"hold": "10"})
    client.post(f"/workers/{row.pk}/restart-pool/", {"hold": "0"})
    assert BulkAct.objects.get().command == "disable_events" and pinged == ["ping", "pool_restart"]
