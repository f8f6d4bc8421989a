"""The form that runs tasks: who may, what was typed wrong, and tokens of others."""

from __future__ import annotations

import time
from html import unescape
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from tests.runs import FAILED, FORM, RETRY, RUN, Sent, signed_in, task, token
from tests.runs import sent as sent
from tests.runs import shop_known as shop_known

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", [RUN, RETRY, FAILED])
def test_an_outsider_runs_nothing_and_sees_no_form(path: str, sent: Sent, settings: Any) -> None:
    task("old")
    operator = signed_in()
    data = FORM | {"token": token(operator), "uuid": "old", "of": "old"}
    assert Client().post(path, data).status_code == 302
    viewer = signed_in("viewer")
    assert viewer.post(path, data).status_code == 403
    assert viewer.get(path, {"again": "old", "of": "old"}).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(access.create_user("strict", "operator", "correct horse 9"))
    assert strict.post(path, data).status_code == 403
    assert operator.post(path, data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    settings.UMBEL_READ_ONLY = True
    assert operator.post(path, data).status_code == 403
    assert not sent.messages


def test_a_viewer_is_offered_nothing_to_run(sent: Sent) -> None:
    task("old")
    html = signed_in("viewer").get("/tasks/old/").content.decode()
    assert "Edit and run" not in html and RETRY not in html
    assert "Needs the operator role" in html
    html = signed_in("viewer", "vera").get("/tasks/").content.decode()
    assert "/tasks/run/" not in html and f'form="one" formaction="{RETRY}"' not in html


def test_get_never_sends(sent: Sent) -> None:
    task("old")
    client = signed_in()
    assert client.get(RETRY, {"uuid": "old"}).status_code == 405
    assert client.get(RUN, FORM | {"token": token(client)}).status_code == 200
    assert client.get(FAILED, {"of": "old", "uuid": "old", "token": token(client)}).status_code == 200
    assert not sent.messages


def test_a_token_of_somebody_else_and_one_made_up_send_nothing(sent: Sent) -> None:
    task("known")
    mine, theirs = signed_in(name="olga"), signed_in(name="otto")
    first = token(mine)
    answer = theirs.post(RUN, FORM | {"token": first})
    assert answer.status_code == 409 and "made for someone else" in answer.content.decode()
    for made_up in ("", "known", f"{first}x", first.replace(first[:4], "0000", 1)):
        answer = mine.post(RUN, FORM | {"token": made_up})
        assert answer.status_code == 409 and "not one that Umbel made" in answer.content.decode()
    assert not sent.messages
    page = mine.post(RUN, FORM | {"token": first})["Location"]
    # Once more by its owner it is the same task, whatever else the form holds; by others it is nothing.
    assert mine.post(RUN, FORM | {"token": first, "args": "[9]"})["Location"] == page
    assert theirs.post(RUN, FORM | {"token": first}).status_code == 409
    assert len(sent.messages) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"args": "[1,\n 2,]"}, "Args, line 2, column 4"),
        ({"args": '{"a": 1}'}, "Args must be a list"),
        ({"kwargs": "[1]"}, "Kwargs must be an object"),
        ({"kwargs": "{'a': 1}"}, "Kwargs, line 1, column 2: a text is written with double quotes"),
        ({"args": "[" * 90_000}, "nested deeper"),
        ({"args": '["[hidden]"]'}, "The value at [0] is hidden"),
        ({"name": " "}, "No task was named"),
        ({"queue": ""}, "No queue was named"),
        ({"priority": "10"}, "from 0 to 9; “10” is not"),
        ({"countdown": "-5"}, "“-5” is not"),
        ({"countdown": "1e99"}, "“1e99” is not"),
        ({"countdown": "٣"}, "“٣” is not"),
        ({"countdown": "5", "eta": "2199-01-01T00:00"}, "Give seconds or a time, not both"),
        ({"eta": "2001-01-01T00:00"}, "That time has passed"),
        ({"eta": "9999-12-31T23:59"}, "more than a year away"),
        ({"eta": "soon"}, "“soon” is no date and time"),
        ({"countdown": "60", "expires_in": "30"}, "expire before it starts"),
    ],
)
def test_what_was_typed_wrong_is_named_and_stays_typed(typed: dict[str, str], said: str, sent: Sent) -> None:
    client = signed_in()
    answer = client.post(RUN, FORM | {"token": token(client), "reason": "because"} | typed)
    html = unescape(answer.content.decode())
    assert answer.status_code == 422 and said in html and 'value="because"' in html
    assert not sent.messages


def test_a_time_is_of_the_zone_of_who_looks_and_without_scripts_utc(sent: Sent) -> None:
    client = signed_in()
    at = int(time.time()) + 7200
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    for told, wanted in (("", at), (str(at - 3600), at - 3600), (str(at + 10**6), at), ("nan", at)):
        client.post(RUN, FORM | {"token": token(client), "eta": clock, "eta_at": told})
        assert sent.messages[-1].eta == wanted, told
    assert "<span>Or at, <span data-zone>UTC</span></span>" in client.get(RUN).content.decode()


def test_a_refusal_of_the_engine_leaves_the_form_as_it_was(sent: Sent) -> None:
    client = signed_in()
    sent.refuse = "The <b>broker</b> is full."
    answer = client.post(RUN, FORM | {"token": token(client)})
    html = answer.content.decode()
    assert answer.status_code == 409 and "The &lt;b&gt;broker&lt;/b&gt; is full." in html
    assert "[1, 2]" in html


def test_a_task_just_sent_has_a_page_that_waits_for_it(sent: Sent) -> None:
    client = signed_in()
    page = client.post(RUN, FORM | {"token": token(client)})["Location"]
    html = client.get(page).content.decode()
    assert "Sent, not seen yet" in html and "no event of it has come" in html and "operator" in html
    uuid = page.split("/")[2]
    task(uuid, "STARTED", sender="umbel7@h")
    html = client.get(page).content.decode()
    assert "not seen yet" not in html and "Sent from Umbel" in html
    assert client.get("/tasks/nobody-sent-this/").status_code == 404
