"""The audit log: every command with what was said and seen, refused ones too."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import exports
from monitor.models import ControlRecord, StandingRevoke

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def record(**more: Any) -> ControlRecord:
    fields: dict[str, Any] = {"at": time.time(), "username": "otto", "role": "operator", "command": "revoke"}
    fields |= {"targets": ["task-1"], "effect": "verified"}
    return ControlRecord.objects.create(**(fields | more))


def test_entries_are_found_by_effect_person_and_text(viewer: Client) -> None:
    keep = record(username="ada", effect="refused", reason="wrong segment", evidence="Too many.")
    drop = record()
    for query in ("effect=refused", "who=ada", "q=segment"):
        html = viewer.get(f"/audit/?{query}").content.decode()
        assert str(keep.pk) in html and str(drop.pk) not in html, query
    assert "No entry matches" in viewer.get("/audit/?q=absent").content.decode()


def test_the_log_is_paged(viewer: Client, django_assert_max_num_queries: Callable[[int], Any]) -> None:
    for n in range(60):
        record(at=float(n))
    with django_assert_max_num_queries(25):
        first = viewer.get("/audit/").content.decode()
    assert first.count("data-row") == 50 and "page=2" in first
    assert viewer.get("/audit/?page=2").content.decode().count("data-row") == 10
    assert viewer.get("/audit/?page=x&effect=odd&who=%00").status_code == 200


def test_a_record_shows_each_reply_and_each_target(viewer: Client) -> None:
    one = record(
        replies=[
            {"worker": "w@h", "outcome": "error", "text": "<b>no</b>"}, {"worker": "x@h", "outcome": "silent"}
        ],
        seen=[{"target": "task-1", "seen": False, "text": "still runs"}], evidence="w@h refused.",
        effect="none", sent_at=1.0, answered_at=2.0, completed_at=3.0,
    )  # fmt: skip
    html = viewer.get(f"/audit/{one.pk}/").content.decode()
    for said in (
        "&lt;b&gt;no&lt;/b&gt;",
        "silent",
        "not seen",
        "still runs",
        "w@h refused.",
        "1 of 2 answered",
    ):
        assert said in html, said
    assert "<b>no</b>" not in html
    live = fragments.named("record").draw(Page("control-record", (("pk", one.pk),)))
    assert "1 of 2 answered" in live


def test_an_unknown_record_is_not_found_and_nobody_unknown_reads(viewer: Client) -> None:
    one = record()
    assert viewer.get("/audit/00000000-0000-4000-8000-000000000000/").status_code == 404
    assert Client().get("/audit/").status_code == 302
    assert Client().get(f"/audit/{one.pk}/?fragment=toast").status_code == 302
    assert viewer.post("/audit/").status_code == 405


def test_what_was_selected_and_not_acted_on_is_counted(viewer: Client) -> None:
    one = record(
        targets=["task-1", "task-2", "task-3"],
        seen=[{"target": "task-1", "seen": True, "text": "noted"}],
        sent_at=1.0,
        answered_at=2.0,
        completed_at=3.0,
    )
    toast = viewer.get(f"/audit/{one.pk}/?fragment=toast").content.decode()
    assert "1 task revoked, verified" in toast and "1 of 1 seen" in toast
    assert "2 more were selected and not acted on: they had ended, or run already." in toast
    assert viewer.get(f"/audit/{one.pk}/").content.decode().count("not acted on</span>") == 2


def test_a_record_of_a_revoke_says_what_still_stands_and_who_was_told_again(viewer: Client) -> None:
    one = record(targets=["a", "b", "c"])
    now = time.time()
    StandingRevoke.objects.create(uuid="a", record=one, since=now, again=[["w3@h", now]])
    StandingRevoke.objects.create(uuid="b", record=one, since=now, started_at=now)
    StandingRevoke.objects.create(uuid="c", record=one, since=now, moot_at=now)
    html = viewer.get(f"/audit/{one.pk}/").content.decode()
    assert "It stands for 2 tasks</b> that have not ended" in html
    assert "1 was started all the same" in html and "Sent again to w3@h" in html
    StandingRevoke.objects.update(moot_at=now)
    assert "It stands for no task any more" in viewer.get(f"/audit/{one.pk}/").content.decode()
    assert "stands for" not in viewer.get(f"/audit/{record().pk}/").content.decode()


def test_the_log_is_narrowed_by_what_and_by_a_whole_target(viewer: Client) -> None:
    grown = record(command="pool_grow", targets=["w1@h"])
    other = record(command="pool_grow", targets=["w1@h.example"])
    html = viewer.get("/audit/?what=pool_grow&target=w1@h").content.decode()
    assert str(grown.pk) in html and str(other.pk) not in html
    assert str(other.pk) in viewer.get("/audit/?what=pool_grow").content.decode()
    assert "No entry matches" in viewer.get("/audit/?what=purge").content.decode()
    assert viewer.get("/audit/?what=%00&target=%00%22%5c").status_code == 200


def test_what_the_filters_leave_is_a_file(viewer: Client) -> None:
    record(username="ada", reason="=HYPERLINK(1)", arguments={"signal": "SIGTERM"}, at=1_790_000_000.0)
    record(username="bob", reason='ünïcode, "quoted"\nlines')
    answer = viewer.get("/audit/export.csv?who=ada&page=7")
    assert answer["Content-Disposition"] == 'attachment; filename="umbel-audit.csv"'
    (line,) = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert (line["username"], line["at"]) == ("ada", "2026-09-21T14:13:20+00:00")
    assert line["reason"] == "'=HYPERLINK(1)", "no spreadsheet works it out"
    assert json.loads(line["arguments"]) == {"signal": "SIGTERM"}
    answer = viewer.get("/audit/export.jsonl")
    lines = [json.loads(one) for one in answer.content.decode().splitlines()]
    assert [one["username"] for one in lines] == ["bob", "ada"]
    assert lines[0]["reason"] == 'ünïcode, "quoted"\nlines'
    assert viewer.get("/audit/export.xlsx").status_code == 404
    html = viewer.get("/audit/?who=ada&page=2").content.decode()
    assert 'href="/audit/export.csv?who=ada"' in html


def test_a_file_that_would_be_too_long_is_refused_and_not_cut(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.queries.exports.MOST", 2)
    for _ in range(3):
        record()
    answer = viewer.get("/audit/export.csv")
    assert (
        answer.status_code == 413 and "3 entries match, and a file holds 2 at most" in answer.content.decode()
    )


def test_a_stranger_gets_no_file(client: Client) -> None:
    record(reason="secret plan")
    answer = client.get("/audit/export.csv")
    assert answer.status_code == 302 and b"secret" not in answer.content


HOSTILE = [
    *("=cmd|'/c calc'!A1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1"),
    *('a,b;"c"', "two\nlines\r\nand=1", "<script>", "'", "\u202e\u2028", "ünï 🌱", "x" * 500),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_stay_values_in_files(viewer: Client, text: str) -> None:
    record(username=text[:150], targets=[text], reason=text, evidence=text, arguments={"rate": text})
    cells = list(csv.reader(io.StringIO(viewer.get("/audit/export.csv").content.decode(), newline="")))
    assert len(cells) == 2 and len(cells[0]) == len(cells[1])
    line = dict(zip(*cells, strict=True))
    assert line["reason"].removeprefix("'") == text.removeprefix("'")
    for cell in cells[1]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")), cell
    assert json.loads(line["targets"]) == [text]
    (only,) = viewer.get("/audit/export.jsonl").content.decode().strip("\n").split("\n")
    assert json.loads(only)["reason"] == text and json.loads(only)["targets"] == [text]


def test_half_a_character_of_a_reply_does_not_spoil_a_file() -> None:
    one = ControlRecord(at=1.0, replies=[{"worker": "w@h", "text": "\ud800"}])
    for written in (exports.as_csv([one]), exports.as_json_lines([one])):
        assert "?" in written and written.encode()


def test_all_filters_hold_together_on_the_page_and_in_both_files(viewer: Client) -> None:
    wanted: dict[str, Any] = {"username": "ada", "command": "purge", "targets": ["mail"], "effect": "partly"}
    keep = record(**wanted, reason="flood")
    for name, other in (
        ("username", "bob"),
        ("command", "revoke"),
        ("targets", ["mails"]),
        ("effect", "none"),
    ):
        record(**(wanted | {name: other}), reason="flood")
    record(**wanted, reason="other")
    query = "who=ada&what=purge&target=mail&effect=partly&q=flood"
    html = viewer.get(f"/audit/?{query}").content.decode()
    assert html.count("data-row") == 1 and str(keep.pk) in html
    (line,) = csv.DictReader(io.StringIO(viewer.get(f"/audit/export.csv?{query}").content.decode()))
    (one,) = viewer.get(f"/audit/export.jsonl?{query}").content.decode().splitlines()
    assert line["id"] == json.loads(one)["id"] == str(keep.pk)
    # Two outcomes are either.
    both = viewer.get("/audit/?who=ada&effect=partly&effect=none").content.decode()
    assert both.count("data-row") == 5


@pytest.mark.parametrize("target", ["ünï@höst", 'a"b', "a\\b", "🌱"])
def test_a_target_is_found_whatever_its_letters(viewer: Client, target: str) -> None:
    record(targets=["other", target])
    record(targets=[f"{target}2"])
    assert viewer.get("/audit/", {"target": target}).content.decode().count("data-row") == 1
