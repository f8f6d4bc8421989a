"""Acts on many in the browser: chosen, proposed, confirmed, followed, and by whom."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import acts as queries
from dashboard.queries import newest, usual
from monitor.acts import making
from monitor.acts.making import Frozen, List
from monitor.acts.models import ActTarget, BulkAct
from monitor.models import ControlRecord, SentTask, StandingRevoke, Task, TaskType
from tests.acts import MILA, Bench, made, online, tasks

pytestmark = pytest.mark.django_db
HX = {"HX-Request": "true"}


def signed_in(role: str, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(access.create_user(role, role, "correct horse 9"))
    return client


def body(answer: Any) -> str:
    return " ".join(answer.content.decode().split())


@pytest.fixture
def operator() -> Client:
    online()
    return signed_in("operator")


def confirmed(client: Client, **data: Any) -> Any:
    draft = BulkAct.objects.get(state="draft")
    return client.post(f"/acts/{draft.pk}/confirm/", {"reason": "wrong prices", **data})


# Chosen


def ran_again(*uuids: str, left: bool = True) -> None:
    at = time.time() - 60
    record = ControlRecord.objects.create(
        at=at, sent_at=at if left else None, username="ann", role="operator", command="send_task"
    )
    for uuid in uuids:
        SentTask.objects.create(
            uuid=f"{uuid}-again" if left else "never",
            of=uuid,
            name="shop.add",
            queue="mail",
            at=at,
            record=record,
        )


def test_a_retry_of_many_leaves_out_what_was_run_again_already_and_says_so(operator: Client) -> None:
    tasks(4, "FAILURE")
    ran_again("t0", "t1")
    ran_again("t2", left=False)  # the broker was away: it never left
    html = body(operator.post("/tasks/retry/", {"all": "?state=FAILURE"}))
    assert "2 tasks?" in html and "but for 2 that were run again already" in html
    assert set(BulkAct.objects.get(state="draft").targets(9)) == {"t2", "t3"}
    html = body(operator.post("/tasks/retry/", {"uuid": ["t0", "t3"]}))
    assert "1 task?" in html and "run again already as t0-again at" in html
    html = body(operator.post("/tasks/retry/", {"uuid": ["t0", "t1"]}))
    assert "Nothing to act on" in html
    ran_again("t2", "t3")
    answer = operator.post("/tasks/retry/", {"all": "?state=FAILURE"})
    assert answer.status_code == 409
    assert "All 4 tasks that match were run again already. Nothing was sent." in body(answer)


def test_all_that_match_a_filter_are_counted_frozen_and_confirmed_without_scripts(operator: Client) -> None:
    tasks(120)
    tasks(3, "SUCCESS", "over")
    tasks(2, "STARTED", "runs", worker="w@h")
    answer = operator.post("/tasks/revoke/", {"all": "?name=shop.add", "uuid": ["t0"]})
    html = body(answer)
    assert "Revoke 120 waiting tasks?" in html and "and 114 more" in html
    assert "that are Waiting or Reserved or Retrying, named shop.add" in html
    assert "will not run" in html and "left alone" in html and "selected>5 s" in html
    assert not ControlRecord.objects.exists() and not StandingRevoke.objects.exists()
    tasks(5, prefix="came.later")
    answer = confirmed(operator, hold="10")
    act = BulkAct.objects.get()
    assert answer.status_code == 302 and answer.headers["Location"] == f"/acts/{act.pk}/"
    assert (act.state, act.hold, act.count, act.username) == ("held", 10, 120, "operator")
    assert not ActTarget.objects.filter(target__startswith="came").exists()
    page = body(operator.get(f"/acts/{act.pk}/"))
    assert "Revoke of 120 tasks, held" in page and "wrong prices" in page and "Withdraw" in page
    assert "What matches now" in page


def test_a_selection_is_one_act_and_says_what_it_leaves_out(operator: Client) -> None:
    tasks(2)
    tasks(1, "SUCCESS", "over")
    html = body(operator.post("/tasks/revoke/", {"uuid": ["t0", "t1", "over0", "gone"]}, headers=HX))
    assert html.startswith("<dialog") and "Revoke 2 waiting tasks?" in html
    assert "Succeeded: it does not wait" in html and "not in Umbel&#x27;s history" in html
    answer = operator.post("/tasks/revoke/", {"uuid": ["over0", "gone"]})
    assert "Nothing to act on" in body(answer)


def test_the_dialog_takes_the_toasts_place_for_a_button_that_sends_at_once_for_one(operator: Client) -> None:
    tasks(2)
    answer = operator.post("/tasks/revoke/", {"uuid": ["t0", "t1"]}, headers=HX)
    assert (answer["HX-Retarget"], answer["HX-Reswap"]) == ("#dialog", "innerHTML")


def test_terminating_several_shows_them_and_takes_a_signal(operator: Client) -> None:
    tasks(3, "STARTED", started_at=time.time() - 60, worker="w@h")
    html = body(operator.post("/tasks/terminate/", {"all": "?state=STARTED"}))
    assert "Terminate 3 running tasks?" in html and "SIGKILL" in html
    assert '<span class="num">60<span class="u">s</span>' in html.replace("\xa0", "")
    assert "Not checked:" in html  # what hangs on them, as for one
    confirmed(operator, signal="SIGKILL", hold="0")
    assert BulkAct.objects.get().arguments == {"signal": "SIGKILL"}
    toast = operator.post("/tasks/terminate/", {"all": "?state=FAILURE"})
    assert toast.status_code == 409 and b"Only Failed tasks match that filter" in toast.content


def test_more_than_the_cap_are_refused_with_the_number_and_never_cut(operator: Client, settings: Any) -> None:
    settings.UMBEL_BULK_MOST = 100
    tasks(101)
    answer = operator.post("/tasks/revoke/", {"all": "?"})
    assert answer.status_code == 409 and b"More than 100 tasks match" in answer.content
    assert b"UMBEL_BULK_MOST" in answer.content
    assert not BulkAct.objects.exists() and ControlRecord.objects.get().effect == "refused"
    settings.UMBEL_BULK_MOST = 101
    assert "Revoke 101 waiting tasks?" in body(operator.post("/tasks/revoke/", {"all": "?"}))
    answer = operator.post("/tasks/revoke/", {"uuid": [f"x{n}" for n in range(102)]})
    assert "Nothing to act on" in body(answer)


def test_a_filter_of_several_kinds_is_read_to_the_last_row(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "STRETCH", 20)
    tasks(150)
    Task.objects.filter(uuid__in=[f"t{n}" for n in range(0, 150, 3)]).update(queue="other")
    html = body(operator.post("/tasks/revoke/", {"all": "?queue=other&name=shop.add&state=PENDING"}))
    assert "Revoke 50 waiting tasks?" in html
    targets = set(ActTarget.objects.values_list("target", flat=True))
    assert targets == {f"t{n}" for n in range(0, 150, 3)}


def test_a_text_a_pattern_and_the_stuck_are_filters_too(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usual, "FRESH", 0.0)
    tasks(3, args="('bob',)")
    tasks(2, prefix="other", args="('eve',)")
    assert "Revoke 3 waiting tasks?" in body(operator.post("/tasks/revoke/", {"all": "?q=bob"}))
    assert "Revoke 5 waiting tasks?" in body(operator.post("/tasks/revoke/", {"all": "?name=shop.*"}))
    assert b"No task matches" in operator.post("/tasks/revoke/", {"all": "?name=none.*"}).content
    now = time.time()
    common = {"first_seen_at": now, "last_seen_at": now, "p50": 1.0, "p95": 2.0, "p99": 3.0}
    TaskType.objects.create(name="shop.add", runs=40, **common)
    tasks(2, "STARTED", "stuck", started_at=now - 600, worker="w@h")
    tasks(2, "STARTED", "quick", started_at=now, worker="w@h")
    assert "Terminate 2 running tasks?" in body(operator.post("/tasks/terminate/", {"all": "?stuck=1"}))
    assert b"is no state" in operator.post("/tasks/revoke/", {"all": "?state=ODD"}).content


def test_many_workers_are_shut_down_when_their_number_is_typed(operator: Client) -> None:
    keys = [online(f"w{n}@h").pk for n in range(2)]
    away = online("away@h", status="offline").pk
    html = body(operator.post("/workers/shutdown/many/", {"worker": [*keys, away]}))
    assert "Shut down 2 workers?" in html and "away@h is offline" in html
    assert confirmed(operator, typed="1 worker").status_code == 409
    assert BulkAct.objects.get().state == "draft"
    assert confirmed(operator, typed="2 workers").status_code == 302
    assert set(ActTarget.objects.values_list("target", "was", "run")) == {
        ("w0@h", "online", 7),
        ("w1@h", "online", 7),
    }


def test_what_workers_that_go_together_leave_behind_is_told(operator: Client) -> None:
    keys = [online(f"w{n}@h", queues=["mail", f"q{n}"]).pk for n in range(2)]
    online("stays@h", queues=["q1"])
    tasks(2, "STARTED", "r", worker="w0@h", started_at=time.time())
    tasks(3, "RECEIVED", "h", worker="w1@h")
    html = body(operator.post("/workers/shutdown/many/", {"worker": keys}))
    assert "2 running tasks finish first." in html and "3 reserved go back to the broker." in html
    # Each consumes mail: together they leave it alone.
    assert "mail will have no worker." in html and "q0 will have no worker." in html
    assert "q1 will have no worker." not in html
    one = body(operator.post("/workers/drain/many/", {"worker": keys[1:]}))
    assert "Drain 1 worker?" in one and "1 worker stops consuming" in one and "Nothing runs there now" in one
    assert "mail will have no worker." not in one


def test_one_worker_of_the_list_is_shut_down_when_its_name_is_typed(operator: Client) -> None:
    html = body(operator.post("/workers/shutdown/many/", {"worker": [online("w.0@h").pk]}))
    assert "Type “w.0@h” to confirm" in html and 'pattern="w\\.0@h"' in html
    for typed in ("", "1 workers", "w@h"):
        assert confirmed(operator, typed=typed).status_code == 409, typed
    assert BulkAct.objects.get().state == "draft"
    assert confirmed(operator, typed="w.0@h").status_code == 302


def test_pools_of_many_workers_grow_by_a_number(operator: Client) -> None:
    keys = [online(f"w{n}@h").pk for n in range(2)]
    assert operator.post("/workers/grow/many/", {"worker": keys, "n": "none"}).status_code == 409
    threads = online("thr@h", pool="threads").pk
    html = body(operator.post("/workers/grow/many/", {"worker": [*keys, threads], "n": "2"}))
    assert "2 pool processes more on each of 2 workers" in html and "threads pool keeps its size" in html
    confirmed(operator, hold="0")
    assert BulkAct.objects.get().arguments == {"n": 2}
    one = body(operator.post("/workers/grow/many/", {"worker": keys[:1], "n": "1"}))
    assert "Grow pool of 1 worker by 1?" in one and "1 pool process more on one worker" in one
    assert operator.post("/workers/burn/many/", {"worker": keys}).status_code == 409


# A single one that is held


def test_one_task_can_be_held_too(operator: Client, settings: Any) -> None:
    tasks(2)
    answer = operator.post("/tasks/revoke/", {"uuid": "t0", "hold": "5"})
    act = BulkAct.objects.get()
    assert answer.headers["Location"] == f"/acts/{act.pk}/" and (act.count, act.state) == (1, "held")
    settings.UMBEL_HOLD = 3
    operator.post("/tasks/revoke/", {"uuid": "t1"})
    assert BulkAct.objects.filter(hold=3).count() == 1
    assert operator.post("/tasks/revoke/", {"uuid": "t1", "hold": "31"}).status_code == 409
    tasks(1, "STARTED", "runs", worker="w@h", started_at=5.0)
    assert 'name="hold"' in operator.get("/tasks/terminate/?uuid=runs0").content.decode()
    operator.post("/tasks/terminate/", {"uuid": "runs0", "signal": "SIGTERM", "hold": "10"})
    assert BulkAct.objects.filter(command="terminate", hold=10).count() == 1


# Who may


def test_a_viewer_sees_an_act_and_has_no_button(operator: Client, settings: Any) -> None:
    tasks(2)
    act = made(["t0", "t1"], hold=20)
    viewer = signed_in("viewer")
    for address in ("/", "/tasks/", "/workers/", "/acts/", f"/acts/{act.pk}/"):
        html = body(viewer.get(address))
        assert "Revoke of 2 tasks" in html or address == "/acts/", address
        assert "Withdraw" not in html.replace("Withdrawn", ""), address
        assert f"/acts/{act.pk}/withdraw/" in body(operator.get(address)) or address == "/acts/"
    for path in ("confirm", "withdraw", "stop"):
        assert viewer.post(f"/acts/{act.pk}/{path}/", {"reason": "x"}).status_code == 403
        assert Client().post(f"/acts/{act.pk}/{path}/").status_code == 302
        assert operator.get(f"/acts/{act.pk}/{path}/").status_code == 405
    assert viewer.post("/tasks/revoke/", {"all": "?"}).status_code == 403
    settings.UMBEL_READ_ONLY = True
    assert operator.post(f"/acts/{act.pk}/withdraw/").status_code == 403
    assert "Withdraw" not in body(operator.get("/")).replace("Withdrawn", "")
    act.refresh_from_db()
    assert act.state == "held"


def test_the_list_of_another_person_cannot_be_confirmed(operator: Client) -> None:
    tasks(2)
    making.draft("revoke", List([Frozen("t0", "PENDING")], "one"), MILA)
    answer = confirmed(operator)
    assert answer.status_code == 409 and b"read it again" in answer.content
    draft = BulkAct.objects.get()
    assert operator.get(f"/acts/{draft.pk}/").status_code == 404


def test_any_operator_withdraws_from_any_page(operator: Client) -> None:
    tasks(2)
    act = made(["t0", "t1"], hold=20)
    html = body(operator.get("/workers/"))
    assert "Revoke of 2 tasks by mila</b> is sent <time" in html
    toast = body(operator.post(f"/acts/{act.pk}/withdraw/", headers=HX))
    assert "withdrawn, nothing was sent" in toast
    assert "Revoke of 2 tasks by mila" not in body(operator.get("/workers/"))
    log = body(operator.get("/audit/"))
    assert "Withdraw <b>revoke of 2 tasks</b>" in log
    record = ControlRecord.objects.get(command="withdraw")
    assert f"/acts/{act.pk}/" in body(operator.get(f"/audit/{record.pk}/"))
    assert operator.post(f"/acts/{act.pk}/stop/").status_code == 409


# Followed


def test_the_page_counts_what_became_of_each_and_filters(operator: Client) -> None:
    bench = Bench()
    act = made(tasks(5))
    Task.objects.filter(uuid="t0").update(state="SUCCESS")
    bench.until_settling(act)
    Task.objects.filter(uuid__in=["t1", "t2"]).update(state="REVOKED")
    bench.look()
    html = body(operator.get(f"/acts/{act.pk}/"))
    assert "2 confirmed so far" in html and "2 sent and not settled" in html
    assert "Umbel sends the revoke again to each worker that restarts" in html
    assert re.findall(r"(Confirmed|Sent, not settled|Skipped) <b>(\d)</b>", html) == [
        ("Confirmed", "2"), ("Sent, not settled", "2"), ("Skipped", "1"),
    ]  # fmt: skip
    skipped = body(operator.get(f"/acts/{act.pk}/?outcome=skipped"))
    assert "is SUCCESS now" in skipped and "/tasks/t0/" in skipped and "/tasks/t1/" not in skipped
    record = ControlRecord.objects.get(command="revoke")
    assert f"/audit/{record.pk}/" in html and "A batch of" in body(operator.get(f"/audit/{record.pk}/"))
    assert "2 of 5 confirmed" in body(operator.get("/acts/"))
    toast = body(operator.get(f"/acts/{act.pk}/?fragment=toast"))
    assert "2 confirmed" in toast and "every 1s" in toast
    Task.objects.filter(uuid__in=["t3", "t4"]).update(state="REVOKED")
    bench.look()
    html = body(operator.get(f"/acts/{act.pk}/"))
    assert "Revoke of 5 tasks: 4 confirmed" in html and "every 1s" not in html
    assert body(operator.get(f"/acts/{act.pk}/?outcome=odd&page=zero")).count("/tasks/t") == 5


def test_reload_equals_live(operator: Client) -> None:
    act = made(tasks(3), hold=20)
    html = operator.get(f"/acts/{act.pk}/").content.decode()
    page = Page("act", (("pk", act.pk),), role="operator")
    for name in ("act-targets", "act-facts"):
        assert fragments.named(name).draw(page).strip() in html


def test_a_page_of_fifty_thousand_answers_at_once(operator: Client) -> None:
    many = [Frozen(f"{n:036d}", "PENDING", 0.0, "shop.add", "", "pile") for n in range(50_000)]
    act = making.draft("revoke", List(many, "fifty thousand"), MILA)
    making.confirm(act.pk, MILA, {}, reason="x", hold=0)
    ActTarget.objects.filter(act=act, place__gt=20).update(outcome="confirmed", settled_at=1.0)
    took = []
    for query in ("", "?outcome=confirmed", "?outcome=confirmed&page=990", ""):
        began = time.thread_time()  # a busy machine is no reason to fail
        assert operator.get(f"/acts/{act.pk}/{query}").status_code == 200
        took.append(time.thread_time() - began)
    assert min(took) < 0.2, took


def test_what_is_held_is_a_line_on_every_page_and_nothing_else_is(operator: Client) -> None:
    assert 'id="acts-now" hidden' in body(operator.get("/"))
    for n in range(7):
        made([f"x{n}"], hold=20)
    assert len(queries.now()) == queries.MOST_NOW
