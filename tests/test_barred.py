"""What is carried out later is not, when who asked for it may not have it done any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User

from dashboard import access
from dashboard.process import watching
from monitor import control
from monitor.acts import making
from monitor.acts.making import Frozen, List
from monitor.broker import Broker
from monitor.control import Actor, Command
from monitor.control.commands import Message
from monitor.control.orders import Order
from monitor.control.revokes import ladders
from monitor.control.revokes.keeping import Keeper
from monitor.control.revokes.ladders import Climber
from monitor.control.revokes.stopping import stand
from monitor.control.workers import waiting
from monitor.models import ControlRecord, Ladder, Task
from tests.acts import Bench, online, outcomes, tasks
from tests.test_shrink_when_free import Bench as Slots
from tests.test_shrink_when_free import ask, ended

pytestmark = pytest.mark.django_db

Loss = Callable[[User, Any], object]
LOSSES: dict[str, tuple[Loss, str]] = {
    "made a viewer": (
        lambda user, settings: access.set_role(user, "viewer"),
        "mila may not do that any more: it needs the operator role.",
    ),
    "deactivated": (
        lambda user, settings: User.objects.update(is_active=False),
        "The account of mila was closed.",
    ),
    "deleted": (lambda user, settings: user.delete(), "The account of mila was closed."),
    "turned off for all": (
        lambda user, settings: setattr(
            settings,
            "UMBEL_PERMISSIONS",
            dict.fromkeys(("revoke", "pool_shrink", "terminate"), "nobody"),
        ),
        "That was turned off for everyone by UMBEL_PERMISSIONS.",
    ),
    "refused by the rule": (
        lambda user, settings: setattr(settings, "UMBEL_PERMISSION_RULE", "tests.test_barred.rule"),
        "Not on Fridays.",
    ),
}
asked: list[tuple[str, tuple[str, ...]]] = []


def rule(user: Any, command: str, targets: tuple[str, ...]) -> str:
    asked.append((command, targets))
    return "Not on Fridays."


@pytest.fixture
def mila() -> User:
    return access.create_user("mila", "operator", "correct horse 9")


@pytest.fixture(params=LOSSES)
def lose(request: pytest.FixtureRequest, mila: User, settings: Any) -> Callable[[], str]:
    """Takes the right away and answers with what is said then."""
    loss, said = LOSSES[request.param]

    def lose() -> str:
        loss(mila, settings)
        return said

    return lose


def actor(user: User) -> Actor:
    return Actor(user.pk, user.username, "operator")


def revoke_of(many: int, user: User, hold: float) -> Any:
    targets = [Frozen(uuid, "PENDING", 0.0) for uuid in tasks(many)]
    act = making.draft("revoke", List(targets, "All of the test"), actor(user))
    return making.confirm(act.pk, actor(user), {}, reason="the test", hold=hold)


def test_a_held_act_is_not_sent(lose: Callable[[], str], mila: User) -> None:
    online()
    act = revoke_of(3, mila, hold=30)
    bench = Bench(barred=access.barred)
    said = lose()
    for later in (31, 1, 1):
        bench.look(later)
    act.refresh_from_db()
    assert bench.sent == [] and set(outcomes(act).values()) == {"left"}
    assert act.note == said and act.stopped_at is not None
    (record,) = ControlRecord.objects.filter(command="stop")
    assert (record.username, record.evidence) == ("Umbel", f"{said} 3 were not sent.")


def test_an_act_under_way_ends_with_the_batch_before(lose: Callable[[], str], mila: User) -> None:
    online()
    act = revoke_of(501, mila, hold=0)
    bench = Bench(barred=access.barred)
    while not bench.sent:
        bench.look()
    said = lose()
    for _ in range(4):
        bench.look(2)
    act.refresh_from_db()
    assert [len(one.targets) for one in bench.sent] == [500]
    assert act.note == said and list(outcomes(act).values()).count("left") == 1


def test_many_at_once_is_asked_again_too_and_one_is_no_many(mila: User, settings: Any) -> None:
    online()
    many = revoke_of(2, mila, hold=0)
    settings.UMBEL_PERMISSIONS = {"bulk": "nobody"}
    bench = Bench(barred=access.barred)
    bench.look(2)
    bench.look(2)
    assert bench.sent == [] and set(outcomes(many).values()) == {"left"}
    Task.objects.all().delete()
    revoke_of(1, mila, hold=0)
    bench.until_settling(making.BulkAct.objects.exclude(pk=many.pk).get())
    assert [len(one.targets) for one in bench.sent] == [1]


def test_who_may_still_is_not_kept_from_it(mila: User) -> None:
    online()
    act = revoke_of(3, mila, hold=0)
    bench = Bench(barred=access.barred)
    bench.until_settling(act)
    assert [one.targets for one in bench.sent] == [("t0", "t1", "t2")]


def test_a_drain_of_many_is_asked_again_of_each_worker(mila: User, settings: Any) -> None:
    online(queues=["mail"])
    settings.UMBEL_PERMISSIONS = {"cancel_consumer": "nobody"}
    act = making.draft("drain", List([Frozen("w@h", "online", 7)], "One of the test"), actor(mila))
    act = making.confirm(act.pk, actor(mila), {}, reason="the test", hold=0)
    Bench(barred=access.barred).until_settling(act)
    assert outcomes(act) == {"w@h": "left"}
    assert not ControlRecord.objects.filter(command="drain").exists()


def test_a_shrink_that_waits_is_not_sent(
    lose: Callable[[], str], mila: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = Slots(monkeypatch)
    ask(actor=actor(mila))
    said = lose()
    slots.work(2)
    assert waiting.look(slots.perform, slots.start + 1, access.barred) == 0
    assert slots.sent == [] and ended() == f"{said} Nothing was sent."
    record = ControlRecord.objects.get(command="pool_shrink")
    assert (record.username, record.effect) == ("Umbel", "none")


def test_a_ladder_ends_before_its_next_step(
    lose: Callable[[], str], mila: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    Task.objects.create(uuid="runs", state="STARTED", worker="w@h", first_seen_at=now, seen_at=now)
    one = Ladder.objects.create(
        uuid="runs", worker="w@h", user_id=mila.pk, username="mila", role="operator", wait=10, since=now,
        due_at=now, rungs=[{"do": "SIGTERM", "by": "celery"}, {"do": "SIGKILL", "by": "celery"}],
    )  # fmt: skip
    monkeypatch.setattr(ladders, "seen_on", lambda *_: {})
    sent: list[str] = []

    def perform(command: Command, actor: Actor) -> ControlRecord:
        sent.append(str(command.arguments["signal"]))
        return ControlRecord.objects.create(at=now, username="mila", command=command.name)

    clock = [now]
    climber = Climber(perform, lambda: clock[0], access.barred)
    climber.look()
    said = lose()
    clock[0] += 11
    climber.look()
    climber.look()
    one.refresh_from_db()
    assert sent == ["SIGTERM"] and one.outcome == f"{said} Nothing more was sent."
    record = ControlRecord.objects.get(username="Umbel")
    assert (record.command, record.targets) == ("withdraw", ["runs"])
    assert record.evidence.startswith(said)


def test_what_starts_all_the_same_is_not_ended(lose: Callable[[], str], mila: User) -> None:
    now = time.time()
    Task.objects.create(
        uuid="a", state="STARTED", worker="w@h", started_at=now, first_seen_at=now, seen_at=now
    )
    revoke = ControlRecord.objects.create(
        at=now - 60, answered_at=now - 60, user_id=mila.pk, username="mila", role="operator", command="revoke"
    )
    stand(Order(Command("revoke", ("a",), {"if_started": "SIGKILL"}), [], {}), revoke)
    said = lose()
    sent: list[Command] = []

    def perform(command: Command, actor: Actor) -> ControlRecord:
        sent.append(command)
        return revoke

    keeper = Keeper(perform, lambda: now + 1, access.barred)
    keeper.look()
    keeper.look()
    assert sent == []
    refused = ControlRecord.objects.get(effect="refused")
    assert (refused.command, refused.targets, refused.evidence) == (
        "terminate",
        ["a"],
        f"{said} Nothing was sent.",
    )


def test_the_rule_is_asked_by_the_names_of_what_is_sent_again(mila: User, settings: Any) -> None:
    settings.UMBEL_PERMISSION_RULE = "tests.test_barred.rule"
    asked.clear()
    messages = tuple(
        Message(str(n), name, "mail") for n, name in enumerate(("shop.add", "shop.pay", "shop.add"))
    )
    assert access.barred(actor(mila), Command("send_task", ("0", "1", "2"), messages=messages))
    assert asked == [("send_task", ("shop.add", "shop.pay"))]


def test_the_engine_asks_the_accounts_of_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    given: list[Any] = []
    monkeypatch.setattr(
        watching, "Engine", lambda options: built.append(options) or SimpleNamespace(start=int)
    )
    monkeypatch.setattr(control, "standing", lambda perform, barred: given.append(barred))
    watching.Monitor(Broker("redis://127.0.0.1:1/0")).begin(SimpleNamespace())  # type: ignore[arg-type]  # not looked at
    (options,) = built
    assert given == [access.barred]
    assert options.acts.__self__.barred is access.barred and options.tender.__self__.barred is access.barred
