"""Running a task again: arguments that cannot be known, what a colleague did meanwhile, whose name it has."""

from __future__ import annotations

import re
import time
from html import unescape

import pytest

from dashboard import access
from monitor.models import ControlRecord, SentTask
from tests.runs import FAILED, FORM, RETRY, RUN, Sent, signed_in, task, token
from tests.runs import sent as sent
from tests.runs import shop_known as shop_known

pytestmark = pytest.mark.django_db


HOSTILE = [
    ("__import__('os').system('id')", "no plain value"),
    ("({1, 2},)", "a set"),
    ("(datetime.datetime(2026, 1, 2),)", "datetime.datetime"),
    ("(b'x',)", "bytes"),
    ("(" * 4000, "nested deeper"),
    ("('***',)", "in the place of a secret"),
    ("({'password': '[hidden]'},)", "what Umbel hides"),
    ("('x...',)", "cut by Celery"),
    ("(<script>alert(1)</script>,)", "no plain value"),
    (None, "no event told them"),
]


@pytest.mark.parametrize(("args", "why"), HOSTILE, ids=range(len(HOSTILE)))
def test_arguments_that_cannot_be_known_are_asked_for_never_guessed(
    args: str | None, why: str, sent: Sent
) -> None:
    task("old", args=args)
    client = signed_in()
    assert client.post(RETRY, {"uuid": "old"})["Location"] == f"{RUN}?again=old"
    html = client.get(RUN, {"again": "old"}).content.decode()
    assert why in unescape(html) and "nothing is guessed" in html and "<script>alert" not in html
    answer = client.post(RUN, FORM | {"again": "old", "args": "", "token": token(client)})
    assert answer.status_code == 422 and "type them" in answer.content.decode()
    assert not sent.messages
    client.post(RUN, FORM | {"again": "old", "args": "[3]", "token": token(client)})
    (message,) = sent.messages
    assert (message.args, message.of, message.edited, message.name) == ([3], "old", True, "shop.add")


def test_the_name_of_a_task_run_again_is_its_own_whatever_is_posted(sent: Sent) -> None:
    task("old", name="shop.boom")
    client = signed_in()
    client.post(RUN, FORM | {"again": "old", "token": token(client), "name": "shop.add"})
    assert [one.name for one in sent.messages] == ["shop.boom"]


def test_arguments_as_they_were_are_not_edited_ones(sent: Sent) -> None:
    task("old", args="(1, 'ü\u200f')", kwargs="{'a': {'b': None}}")
    client = signed_in()
    html = client.get(RUN, {"again": "old"}).content.decode()
    areas = dict(re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)<', html))
    assert "\\u200f" in areas["args"]
    form = {key: unescape(value) for key, value in areas.items()}
    client.post(RUN, FORM | form | {"again": "old", "token": token(client)})
    (message,) = sent.messages
    assert (message.args, message.kwargs, message.edited) == ([1, "ü\u200f"], {"a": {"b": None}}, False)
    assert message.source == "events"


def test_a_task_that_umbel_never_saw_is_not_run_again(sent: Sent) -> None:
    client = signed_in()
    for answer in (client.post(RETRY, {"uuid": "no\0body"}), client.get(RUN, {"again": "nobody"})):
        assert answer.status_code == 409 and "history" in answer.content.decode()
    assert client.post(RETRY, {}).status_code == 409
    assert "No task was chosen" in client.post(FAILED, {"of": "x", "token": token(client)}).content.decode()
    assert not sent.messages


def test_failed_tasks_that_a_colleague_ran_again_meanwhile_are_not_sent_twice(sent: Sent) -> None:
    task("root", "SUCCESS")
    for uuid in ("one", "two"):
        task(uuid, root_id="root", parent_id="root")
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    anns, bobs = (token(client, f"{FAILED}?of=root") for client in (ann, bob))
    form = {"of": "root", "uuid": ["one"], "token": anns}
    assert ann.post(FAILED, form).status_code == 302
    assert ann.post(FAILED, form).status_code == 302  # her own second click finds what it did
    answer = bob.post(FAILED, {"of": "root", "uuid": ["one", "two"], "token": bobs})
    assert answer.status_code == 409
    assert "One of these tasks was run again by ann since this list was drawn" in answer.content.decode()
    assert [one.of for one in sent.messages] == ["one"]
    # Drawn anew it says so, and who ticks it all the same means it.
    html = bob.get(FAILED, {"of": "root"}).content.decode()
    assert "Run again already" in html and re.findall(r'value="(\w+)" checked', html) == ["two"]
    again = {"of": "root", "uuid": ["one", "two"], "token": token(bob, f"{FAILED}?of=root")}
    assert bob.post(FAILED, again).status_code == 302
    assert [one.of for one in sent.messages] == ["one", "one", "two"]


def test_a_row_that_does_not_know_of_a_run_by_a_colleague_leads_to_the_form(sent: Sent) -> None:
    task("old")
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    assert "Run again already" not in bob.get(RUN, {"again": "old"}).content.decode()
    ann.post(RETRY, {"uuid": "old"})
    SentTask.objects.update(at=time.time() - 4)
    ControlRecord.objects.update(at=time.time() - 4, answered_at=time.time() - 4)
    assert bob.post(RETRY, {"uuid": "old"})["Location"] == f"{RUN}?again=old"
    assert len(sent.messages) == 1
    html = bob.get(RUN, {"again": "old"}).content.decode()
    assert "Run again already" in html and "by ann" in html
    # Its own page knows how often it was.
    assert bob.post(f"{RETRY}?times=1", {"uuid": "old"}).status_code == 302
    assert len(sent.messages) == 2


def test_a_token_without_its_moment_is_not_one_of_this_umbel(sent: Sent) -> None:
    from dashboard.controls.runs import _signer

    task("one")
    client = signed_in()
    old = _signer().sign(f"5f0a7c3e-3d51-4f0b-9c58-7c1a54d7a2be.{access.User.objects.get().pk}")
    answer = client.post(FAILED, {"of": "one", "uuid": ["one"], "token": old})
    assert "open it again" in answer.content.decode() and not sent.messages


def test_failed_rows_can_be_retried_and_running_ones_cannot(sent: Sent) -> None:
    for uuid, state in (
        ("f", "FAILURE"),
        ("l", "LOST"),
        ("s", "SUCCESS"),
        ("r", "STARTED"),
        ("p", "PENDING"),
    ):
        task(uuid, state)
    client = signed_in()
    html = client.get("/tasks/").content.decode()
    assert html.count(f'form="one" formaction="{RETRY}"') == 2
    for uuid, words in (("f", "Retry"), ("s", "Run again")):
        html = client.get(f"/tasks/{uuid}/").content.decode()
        assert f"{words}<kbd>e</kbd>" in html
    assert f"{RETRY}?times" not in client.get("/tasks/r/").content.decode()
    # What has not ended would be there twice: the form says so first.
    assert client.post(RETRY, {"uuid": "r"})["Location"] == f"{RUN}?again=r"
    assert "has not ended (STARTED)" in client.get(RUN, {"again": "r"}).content.decode()
    assert not sent.messages
