"""What stands of a revoke of many: withdrawn at once, from the act's own page."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from monitor.acts import standing
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Refused
from monitor.models import ControlRecord, StandingRevoke
from tests.acts import MILA, Bench, made, online, tasks

pytestmark = pytest.mark.django_db
HX = {"HX-Request": "true"}


def signed_in(role: str) -> Client:
    client = Client()
    client.force_login(access.create_user(role, role, "correct horse 9"))
    return client


@pytest.fixture
def act() -> BulkAct:
    """Three batches were sent, and every one of the tasks waits still."""
    online()
    bench, found = Bench(), made(tasks(1_200))
    bench.until_settling(found)
    rows = ActTarget.objects.filter(act=found).values_list("target", "batch")
    StandingRevoke.objects.bulk_create(
        StandingRevoke(uuid=uuid, record_id=batch, since=time.time()) for uuid, batch in rows
    )
    return found


def test_all_that_stands_of_an_act_is_withdrawn_in_one_record(act: BulkAct) -> None:
    client, url = signed_in("operator"), f"/acts/{act.pk}/standing/withdraw/"
    other = ControlRecord.objects.create(at=1.0, username="ann", role="operator", command="revoke")
    StandingRevoke.objects.create(uuid="else", record=other, since=time.time())
    page = client.get(f"/acts/{act.pk}/").content.decode()
    assert "It stands for 1,200 tasks</b> that have not ended" in page and url in page
    assert "sends the revoke again" in page
    said = client.post(url, {"reason": "the wrong filter"}, headers=HX).content.decode()
    assert "what stands of the revoke of 1,200 tasks: withdrawn" in said
    done = ControlRecord.objects.get(command="withdraw")
    assert (done.username, done.targets, done.reason) == ("operator", [str(act.pk)], "the wrong filter")
    assert done.evidence.startswith("It stood for 1,200 tasks. Umbel tells no worker")
    assert list(StandingRevoke.objects.filter(moot_at=None).values_list("uuid", flat=True)) == ["else"]
    page = client.get(f"/acts/{act.pk}/").content.decode()
    assert url not in page and "Nothing of it stands any more" in page
    assert "sends the revoke again" not in page
    assert str(act.pk) in client.get(f"/audit/{done.pk}/").content.decode()
    batch = ActTarget.objects.filter(act=act)[0].batch
    assert "It stands for no task any more" in client.get(f"/audit/{batch}/").content.decode()


def test_what_has_ended_does_not_stand_and_a_second_click_is_refused(act: BulkAct) -> None:
    client, url = signed_in("operator"), f"/acts/{act.pk}/standing/withdraw/"
    StandingRevoke.objects.exclude(uuid="t7").update(moot_at=1.0)
    assert "It stands for 1 task</b> that has not ended" in client.get(f"/acts/{act.pk}/").content.decode()
    assert client.post(url).headers["Location"] == f"/acts/{act.pk}/"
    again = client.post(url)
    assert again.status_code == 409 and "stands any more" in again.content.decode()
    assert ControlRecord.objects.filter(command="withdraw", effect="noted").count() == 1


def test_an_act_that_is_still_sent_is_stopped_first() -> None:
    online()
    bench, act = Bench(), made(tasks(1_200))
    bench.look(), bench.look()
    act.refresh_from_db()
    assert act.state == "sending"
    with pytest.raises(Refused, match="still being sent: stop it first"):
        standing.withdraw(act, MILA)
    refusal = ControlRecord.objects.get(command="withdraw")
    assert refusal.effect == "refused"


def test_who_may_not_withdraw_sees_what_stands_and_no_button(act: BulkAct, settings: Any) -> None:
    url = f"/acts/{act.pk}/standing/withdraw/"
    viewer = signed_in("viewer")
    page = viewer.get(f"/acts/{act.pk}/").content.decode()
    assert "It stands for 1,200 tasks" in page and url not in page
    assert viewer.post(url).status_code == 403
    settings.UMBEL_PERMISSIONS = {"withdraw": "admin"}
    operator = signed_in("operator")
    assert url not in operator.get(f"/acts/{act.pk}/").content.decode()
    assert operator.post(url).status_code == 403
    with pytest.raises(Refused, match="operator role"):
        standing.withdraw(act, Actor(None, "vera", "viewer"))
    assert StandingRevoke.objects.filter(moot_at=None).count() == 1_200


def test_an_act_of_another_kind_stands_for_nothing() -> None:
    online()
    bench, act = Bench(), made(tasks(2, "STARTED"), "terminate", was="STARTED", run=None)
    bench.until_settling(act)
    page = signed_in("operator").get(f"/acts/{act.pk}/").content.decode()
    assert "It stands for" not in page and len(bench.sent) == 1
