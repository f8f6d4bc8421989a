"""Revokes and stamps that stand: withdrawn from Umbel, and what is said past their bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from monitor import control
from monitor.control import Actor, Command, Keeper, Refused
from monitor.control.revokes import keeping, stamps
from monitor.control.revokes.stamps import StampKeeper
from monitor.models import ControlRecord, StandingRevoke, StandingStamp, Task, Worker

pytestmark = pytest.mark.django_db
ADA = Actor(None, "ada", "operator")


def asked(command: str, *targets: str, at: float | None = None) -> ControlRecord:
    at = at or time.time() - 60
    return ControlRecord.objects.create(
        at=at, sent_at=at, answered_at=at, completed_at=at, username="ada", role="operator", command=command,
        targets=list(targets), effect="verified", destinations=["w@h"],
    )  # fmt: skip


def stamp(value: str = "42") -> StandingStamp:
    record, now = asked("revoke_by_stamped_headers", f"tenant={value}"), time.time()
    return StandingStamp.objects.create(
        header="tenant", value=value, record=record, since=now - 60, until=now + 3600
    )


def revoke(*uuids: str, **more: Any) -> ControlRecord:
    record = asked("revoke", *uuids)
    for uuid in uuids:
        Task.objects.create(uuid=uuid, state="PENDING", name="x", first_seen_at=record.at, seen_at=record.at)
        StandingRevoke.objects.create(uuid=uuid, record=record, since=record.at, **more)
    return record


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What the keepers send to a worker that came new."""
    Worker.objects.create(
        hostname="w@h", status="online", pool="prefork", size=2, pid=7, online_at=time.time(), first_seen_at=1
    )
    return []


def keep(sent: list[Command]) -> None:
    def perform(command: Command, actor: Actor) -> ControlRecord:
        sent.append(command)
        return ControlRecord(replies=[{"worker": "w@h", "outcome": "ok"}])

    StampKeeper(perform).look()
    Keeper(perform).look()


def test_a_stamp_that_is_withdrawn_is_told_to_no_worker_that_restarts(
    client: Client, sent: list[Command]
) -> None:
    one = stamp()
    page = client.get(f"/audit/{one.record_id}/").content.decode()
    assert "It stands until" in page and "Tell no worker any more" in page
    url = f"/tasks/revokes/{one.record_id}/withdraw/"
    assert url in page and url in client.get("/tasks/revoke-stamped/").content.decode()
    assert client.post(url, {"reason": "the wrong tenant"}).status_code == 302
    keep(sent)
    assert sent == []
    done = ControlRecord.objects.get(command="withdraw")
    assert (done.username, done.targets, done.reason) == ("olga", ["tenant=42"], "the wrong tenant")
    assert "keep it until they restart" in done.evidence
    page = client.get(f"/audit/{one.record_id}/").content.decode()
    assert "Umbel tells it to no worker any more" in page and url not in page
    assert "the stamp tenant=42: withdrawn" in client.get(f"/audit/{done.pk}/").content.decode()


def test_a_revoke_that_is_withdrawn_is_not_sent_again_and_terminates_nothing(
    client: Client, sent: list[Command]
) -> None:
    record = revoke("a", "b", if_started="SIGKILL")
    other = revoke("c")
    StandingRevoke.objects.filter(uuid="a").update(started_at=time.time())
    url = f"/tasks/revokes/{record.pk}/withdraw/"
    assert url in client.get(f"/audit/{record.pk}/").content.decode()
    said = client.post(url, headers={"HX-Request": "true"})
    assert said.status_code == 200 and "the revoke of 2 tasks: withdrawn" in said.content.decode()
    keep(sent)
    assert [command.targets for command in sent] == [("c",)], other
    assert url not in client.get(f"/audit/{record.pk}/").content.decode()


def test_a_second_click_and_what_is_over_are_refused_with_the_reason(client: Client) -> None:
    one = stamp()
    for pk, code in ((one.record_id, 302), (one.record_id, 409), (asked("revoke", "x").pk, 409)):
        said = client.post(f"/tasks/revokes/{pk}/withdraw/")
        assert said.status_code == code
    assert "Nothing of it stands any more" in said.content.decode()
    assert ControlRecord.objects.filter(command="withdraw").count() == 1
    command = Command("withdraw", ("tenant=42",), {"what": "stamp"})
    with pytest.raises(Refused, match="somebody else may have withdrawn it"):
        control.withdraw(one.record_id, command, ADA)


def test_who_may_not_withdraw_sees_no_button_that_works(client: Client, settings: Any) -> None:
    settings.UMBEL_PERMISSIONS = {"withdraw": "admin"}
    one = stamp()
    url = f"/tasks/revokes/{one.record_id}/withdraw/"
    assert url not in client.get("/tasks/revoke-stamped/").content.decode()
    assert "disabled>Tell no worker any more" in client.get(f"/audit/{one.record_id}/").content.decode()
    assert client.post(url).status_code == 403
    assert StandingStamp.objects.get().until > time.time()
    with pytest.raises(Refused, match="needs the operator role"):
        control.withdraw(one.record_id, Command("withdraw", ("x",)), Actor(None, "vera", "viewer"))


def test_one_stamp_too_many_is_refused_and_one_that_stands_is_renewed(
    sent: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "MOST", 2)
    stamp("1"), stamp("2")

    def order(value: str) -> None:
        given = {"header": "tenant", "value": value, "hours": 1}
        stamps.order(Command("revoke_by_stamped_headers", (f"tenant={value}",), given))

    order("2")
    with pytest.raises(Refused, match="2 stamps stand already"):
        order("3")
    StandingStamp.objects.filter(value="1").update(until=time.time() - 1)
    order("3")


def test_the_dialog_says_how_many_stamps_it_does_not_show(client: Client) -> None:
    for number in range(22):
        stamp(str(number))
    page = client.get("/tasks/revoke-stamped/").content.decode()
    assert page.count(">Withdraw<") == 20 and "and 2 older" in page


def test_a_receipt_says_for_how_many_a_revoke_is_not_sent_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST", 3)
    first = revoke("a", "b")
    ControlRecord.objects.filter(pk=first.pk).update(at=first.at - 5)
    StandingRevoke.objects.filter(record=first).update(since=first.at - 5)
    second = revoke("c", "d", "e")
    assert "Not for" not in client.get(f"/audit/{first.pk}/").content.decode()
    assert "Not for 2 of them" in client.get(f"/audit/{second.pk}/").content.decode()
