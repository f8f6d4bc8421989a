"""What a control command may be, before any worker is asked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError

from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import SIGNALS, Actor, Command, Refused, capabilities, perform, recover
from monitor.control.asking import Unreachable
from monitor.control.inspecting import Seen, _task, has_grown, pool_size
from monitor.control.kinds import KINDS, checked, judge
from monitor.control.orders import Order
from monitor.control.verifying import Finding, Grade, Verdict
from monitor.control.workers.pools import clamp
from monitor.models import ControlRecord, Task, Worker
from monitor.records import WorkerRecord

OPERATOR = Actor(None, "ada", "operator")


def worker(**fields: Any) -> WorkerRecord:
    return WorkerRecord(**({"hostname": "w@x", "status": "online", "pool": "prefork", "size": 4} | fields))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command("election", ("a",)), "'election' is not a command"),
        (Command("revoke", ()), "Nothing was selected"),
        (Command("revoke", ("a b",)), "'a b' is not a task id"),
        (Command("revoke", ("<img onerror=x>",)), "is not a task id"),
        (Command("revoke", ("x" * 156,)), "is not a task id"),
        (Command("revoke", tuple(f"id{n}" for n in range(501))), "501 are too many"),
        (Command("terminate", ("a",), {"signal": "SIGSTOP"}), "'SIGSTOP' is not a signal"),
        (Command("terminate", ("a",), {"signal": 9}), "'9' is not a signal"),
        (Command("pool_grow", ("w@x",), {"n": 0}), "n must be from 1"),
        (Command("pool_grow", ("w@x",), {"n": -1}), "n must be from 1"),
        (Command("pool_shrink", ("w@x",), {"n": "many"}), "whole number"),
        (Command("pool_shrink", ("w@x",), {"n": True}), "whole number"),
        (Command("pool_grow", ("w@x",), {"n": 10**8}), "n must be from 1"),
        (Command("pool_grow", ("w@x", "v@x"), {"n": 1}), "one worker at a time"),
        (Command("autoscale", ("w@x",), {"max": 1, "min": 5}), "least (5) cannot be over the most (1)"),
        (Command("autoscale", ("w@x",), {"max": 3, "min": 0}), "min must be from 1"),
        (Command("autoscale", ("w@x",), {"max": 3}), "min must be a whole number"),
        (Command("rate_limit", ("w@x",), {"task": "a", "rate": "nan"}), "'nan' is not a rate"),
        (Command("rate_limit", ("w@x",), {"task": "a", "rate": "٣/s"}), "is not a rate"),
        (Command("rate_limit", ("w@x",), {"task": "", "rate": "1/s"}), "'' is not the name of a task"),
        (Command("time_limit", ("w@x",), {"task": "a", "soft": "inf"}), "'inf' is not a soft time limit"),
        (Command("time_limit", ("w@x",), {"task": "a", "soft": 9, "hard": 9}), "must be under the hard one"),
        (Command("add_consumer", ("w@x",), {"queue": "q" * 256}), "is not the name of a queue"),
        (Command("shutdown", (), {}), "Nothing was selected"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(command: Command, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        checked(command, OPERATOR)
    assert words in str(refusal.value)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("role", ["viewer", "", "Operator", "root"])
def test_only_operators_and_admins_control(role: str) -> None:
    with pytest.raises(Refused, match="operator role"):
        checked(Command("revoke", ("a",)), Actor(1, "eve", role))


@pytest.mark.parametrize("signal", SIGNALS)
def test_each_signal_passes(signal: str) -> None:
    assert checked(Command("terminate", ("a",), {"signal": signal}), OPERATOR).arguments == {"signal": signal}


def test_the_same_target_twice_is_one() -> None:
    assert checked(Command("revoke", ("a", "a")), Actor(None, "bo", "admin")).targets == ("a",)


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, "terminate pool_grow pool_shrink any"),
        ({"size": 1}, "terminate pool_grow any"),
        ({"autoscale_max": 5}, "terminate autoscale any"),
        ({"details": {"stats": {"autoscaler": {"max": 3}}}}, "terminate autoscale any"),
        (
            {"details": {"conf": {"worker_pool_restarts": True}}},
            "terminate pool_grow pool_shrink pool_restart any",
        ),
        ({"pool": "threads"}, "any"),
        ({"pool": "celery.concurrency.thread:TaskPool"}, "any"),
        ({"pool": "solo", "details": {"conf": {"worker_pool_restarts": True}}}, "any"),
        (
            {"pool": "gevent", "details": {"conf": {"worker_pool_restarts": True}}},
            "terminate pool_grow pool_shrink any",
        ),
        ({"pool": "gevent"}, "terminate pool_grow pool_shrink any"),
        ({"pool": ""}, "any"),
        ({"pool": "acme.pool:Pool"}, "any"),
        ({"status": "offline", "reason": "silent"}, ""),
        ({"is_beat": True}, "ping"),
    ],
)
def test_a_pool_offers_what_it_can_do_and_says_why_not(fields: dict[str, Any], allowed: str) -> None:
    found = capabilities(worker(**fields))
    workers = {name for name, kind in KINDS.items() if kind.act is None}
    pools = {"terminate", "pool_grow", "pool_shrink", "autoscale", "pool_restart"}
    wanted = set(allowed.split())
    if "any" in wanted:
        wanted = wanted - {"any"} | (workers - pools)
    assert {name for name in workers if found.of(name).allowed} == wanted
    for name in workers:
        can = found.of(name)
        assert can.allowed != can.reason.endswith(".")


def test_a_pool_is_counted_by_its_processes_not_by_its_word() -> None:
    assert pool_size({"pool": {"max-concurrency": 4, "processes": [1, 2, 3, 4, 5, 6]}}) == 6
    assert pool_size({"pool": {"max-concurrency": 4, "processes": []}}) == 0
    assert pool_size({"pool": {"max-concurrency": 4}}) == 4
    assert pool_size({}) is None


def test_a_pool_has_grown_when_it_has_more_processes_than_it_was_started_with() -> None:
    assert has_grown({"pool": {"max-concurrency": 1, "processes": [1, 2]}})
    assert not has_grown({"pool": {"max-concurrency": 2, "processes": [1, 2]}})
    assert not has_grown({"pool": {"max-concurrency": 2}}) and not has_grown({}) and not has_grown(None)


def test_real_arguments_are_hidden_and_cut() -> None:
    task = _task({"id": "a", "args": ["x" * 5000], "kwargs": {"password": "hunter2"}, "hostname": "w@x"})
    assert len(task["args"]) <= 1024
    assert "hunter2" not in repr(task)
    held = _task(
        {"eta": "2026-01-01", "priority": 6, "request": {"id": "b", "kwargs": {"token": "s3cr3t-value"}}}
    )
    assert "s3cr3t-value" not in repr(held) and held["request"]["id"] == "b"


# What is recorded


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    broker_module.configure(Broker("redis://:pw-of-broker@127.0.0.1:1/0"))
    monkeypatch.setattr("monitor.control.performing._announce", lambda record: None)


@pytest.mark.django_db
def test_a_refusal_leaves_a_record(unreachable: None) -> None:
    with pytest.raises(Refused, match="No worker is called"):
        perform(Command("pool_grow", ("w@x",), {"n": 1}, reason="more mail"), OPERATOR)
    record = ControlRecord.objects.get()
    assert (record.effect, record.username, record.command) == ("refused", "ada", "pool_grow")
    assert record.reason == "more mail" and record.completed_at


@pytest.mark.django_db
def test_a_secret_in_a_reason_is_hidden_before_it_is_kept(unreachable: None) -> None:
    with pytest.raises(Refused):
        perform(Command("pool_grow", ("w@x",), {"n": 1}, reason="see redis://:hunter2@h/0"), OPERATOR)
    assert ControlRecord.objects.get().reason == "see redis://[hidden]@h/0"


@pytest.mark.django_db
def test_without_a_database_to_look_at_nothing_is_sent(
    unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_: Command) -> None:
        raise DatabaseError("locked")

    monkeypatch.setattr(
        "monitor.control.performing.KINDS", {"pool_grow": replace(KINDS["pool_grow"], order=locked)}
    )
    with pytest.raises(Refused, match="nothing was sent"):
        perform(Command("pool_grow", ("w@x",), {"n": 1}), OPERATOR)


@pytest.mark.django_db
def test_a_viewer_leaves_a_record_too(unreachable: None) -> None:
    with pytest.raises(Refused):
        perform(Command("revoke", ("a\x00b",), {"signal": object()}), Actor(None, "eve", "viewer"))
    assert ControlRecord.objects.get().effect == "refused"


@pytest.mark.django_db
def test_a_broker_that_is_down_is_said_without_its_password(unreachable: None) -> None:
    Worker.objects.create(hostname="w@x", status="online", pool="prefork", size=3, first_seen_at=1)
    with pytest.raises(Refused, match="cannot be reached") as refusal:
        perform(Command("pool_grow", ("w@x",), {"n": 1}), OPERATOR)
    assert "pw-of-broker" not in str(refusal.value)
    assert "Nothing was sent" in ControlRecord.objects.get().evidence


@pytest.mark.django_db
def test_without_a_record_nothing_is_sent(unreachable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("monitor.control.performing.ask", lambda *a, **k: sent.append(a) or [])
    monkeypatch.setattr("monitor.control.revokes.stopping.seen_on", lambda *a, **k: {})
    Worker.objects.create(hostname="w@x", status="online", pool="prefork", first_seen_at=1)
    Task.objects.create(uuid="a", state="STARTED", worker="w@x", first_seen_at=1, seen_at=1)

    def full(self: ControlRecord, **_: Any) -> None:
        raise DatabaseError("disk full")

    monkeypatch.setattr(ControlRecord, "save", full)
    with pytest.raises(Refused, match="could not be written, so nothing was sent"):
        perform(Command("terminate", ("a",)), OPERATOR)
    assert sent == []


@pytest.mark.django_db
def test_a_command_that_may_have_left_is_never_sent_twice(
    unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []

    def broken(*args: Any, **_: Any) -> Any:
        tries.append(args)
        raise Unreachable("The broker cannot be reached: reset", sent=True)

    monkeypatch.setattr("monitor.control.performing.ask", broken)
    monkeypatch.setattr("monitor.control.revokes.stopping.seen_on", lambda *a, **k: {})
    monkeypatch.setattr("monitor.control.performing._look_later", lambda *a: None)
    Worker.objects.create(hostname="w@x", status="online", pool="prefork", first_seen_at=1)
    Task.objects.create(uuid="a", state="STARTED", worker="w@x", first_seen_at=1, seen_at=1)
    record = perform(Command("terminate", ("a",)), OPERATOR)
    assert len(tries) == 1
    assert record.effect == "pending" and "may have been sent" in record.evidence
    assert [one["outcome"] for one in record.replies] == ["silent"]


@pytest.mark.django_db
def test_replies_that_cannot_be_kept_do_not_hide_that_it_was_sent(
    unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    save = ControlRecord.save

    def once(self: ControlRecord, **options: Any) -> None:
        if not options.get("force_insert"):
            raise DatabaseError("disk full")
        save(self, **options)

    monkeypatch.setattr("monitor.control.performing.ask", lambda *a, **k: [])
    monkeypatch.setattr("monitor.control.performing._look_later", lambda *a: looked.append(a))
    monkeypatch.setattr("monitor.control.revokes.stopping.seen_on", lambda *a, **k: {})
    monkeypatch.setattr(ControlRecord, "save", once)
    Worker.objects.create(hostname="w@x", status="online", pool="prefork", first_seen_at=1)
    Task.objects.create(uuid="a", state="STARTED", worker="w@x", first_seen_at=1, seen_at=1)
    perform(Command("terminate", ("a",)), OPERATOR)
    assert len(looked) == 1
    assert ControlRecord.objects.get().sent_at is not None


@pytest.mark.django_db
def test_what_a_crash_left_open_is_closed_as_not_verified() -> None:
    ControlRecord.objects.create(at=time.time() - 5, username="ada", role="operator", command="revoke")
    ControlRecord.objects.create(
        at=1, username="ada", role="operator", command="revoke", effect="verified", completed_at=2
    )
    assert recover(older_than=60) == 0
    assert recover() == 1
    assert {record.effect for record in ControlRecord.objects.all()} == {"unverified", "verified"}


@pytest.mark.django_db
def test_a_mixed_selection_goes_ahead_with_what_can_be_done(
    unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        "monitor.control.performing.ask", lambda broker, questions, **k: sent.extend(questions) or []
    )
    monkeypatch.setattr("monitor.control.performing._look_later", lambda *a: None)
    monkeypatch.setattr("monitor.control.revokes.stopping.seen_on", lambda *a, **k: {})
    for name, pool in (("p@x", "prefork"), ("q@x", "prefork"), ("t@x", "threads")):
        Worker.objects.create(hostname=name, status="online", pool=pool, first_seen_at=1)
    rows = (
        ("a", "STARTED", "p@x"),
        ("b", "STARTED", "q@x"),
        ("c", "STARTED", "t@x"),
        ("d", "SUCCESS", "p@x"),
    )
    for uuid, state, name in rows:
        Task.objects.create(uuid=uuid, state=state, worker=name, first_seen_at=1, seen_at=1)
    record = perform(Command("terminate", ("a", "b", "c", "d"), {"signal": "SIGKILL"}), OPERATOR)
    assert record.destinations == ["p@x", "q@x"]
    assert {question.to: question.arguments["task_id"] for question in sent} == {
        ("p@x",): ["a"],
        ("q@x",): ["b"],
    }
    assert all(question.arguments["signal"] == "SIGKILL" for question in sent)


# What is believed


def order(name: str, *targets: str, to: int | None = None, **arguments: Any) -> Order:
    from monitor.control.asking import Question

    return Order(Command(name, targets, arguments), [Question(name, {}, ("w@x",))], arguments,
                 where=dict.fromkeys(targets, "w@x"), before=4, to=to)  # fmt: skip


def test_an_ok_alone_proves_nothing() -> None:
    grown = order("pool_grow", "w@x", to=6)
    stats = {"pool": {"max-concurrency": 6, "processes": [1, 2, 3, 4]}}
    assert judge(grown, 0, {"w@x": Seen(stats=stats)}).effect == "none"
    assert judge(grown, 0, {}).effect == "unverified"
    stats["pool"]["processes"] = [1, 2, 3, 4, 5]
    assert judge(grown, 0, {"w@x": Seen(stats=stats)}).effect == "partly"
    stats["pool"]["processes"] = [1, 2, 3, 4, 5, 6]
    assert judge(grown, 0, {"w@x": Seen(stats=stats)}).effect == "verified"


@pytest.mark.django_db
def test_an_event_alone_is_not_the_end_of_a_process() -> None:
    Task.objects.create(uuid="a", state="REVOKED", worker="w@x", first_seen_at=1, seen_at=1)
    terminated = order("terminate", "a", signal="SIGINT")
    terminated.pids["a"] = 77
    assert judge(terminated, 0, {"w@x": Seen(processes={77, 78})}).effect == "none"
    assert judge(terminated, 0, {"w@x": Seen(processes={78, 79})}).effect == "verified"
    unasked = judge(terminated, 0, {"w@x": Seen()})
    assert unasked.effect == "partly" and "did not tell whether process 77 lives" in unasked.findings[0].text
    assert judge(terminated, 0, {}).effect == "partly"
    assert judge(terminated, 0, {"w@x": Seen(tasks={"a": "active"})}).effect == "none"


def test_a_verdict_is_as_good_as_its_weakest_target() -> None:
    def of(*grades: Grade) -> str:
        return Verdict([Finding(str(n), grade, "") for n, grade in enumerate(grades)]).effect

    assert of(Grade.SEEN, Grade.SEEN) == "verified"
    assert of(Grade.SEEN, Grade.NOT) == "partly"
    assert of(Grade.SEEN, Grade.UNKNOWN) == "partly"
    assert of(Grade.NOT, Grade.UNKNOWN) == "unverified"
    assert of(Grade.NOT, Grade.NOT) == "none"
    assert of() == "unverified"


# To a size, from whatever it is when it is sent


def resize(name: str, to: int, now: int) -> Order:
    """An order to reach a size, clamped as it would be sent to a pool of ``now`` processes."""
    command = checked(Command(name, ("w@x",), {"n": 1, "to": to}), OPERATOR)
    return clamp(Order(command, [], {}, before=now), time.time())


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "to", "now", "n"), [("pool_grow", 6, 5, 1), ("pool_grow", 6, 2, 4), ("pool_shrink", 1, 4, 3)]
)
def test_a_size_is_reached_from_what_the_worker_says_and_not_from_what_the_page_showed(
    name: str, to: int, now: int, n: int
) -> None:
    order = resize(name, to, now)
    assert (order.questions[0].arguments, order.before, order.to) == ({"n": n}, now, to)
    assert order.arguments == {"n": n, "before": now, "to": to}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "to", "now"), [("pool_grow", 4, 5), ("pool_grow", 5, 5), ("pool_shrink", 4, 3)]
)
def test_a_size_that_lies_the_other_way_by_now_is_refused(name: str, to: int, now: int) -> None:
    with pytest.raises(
        Refused, match=f"w@x has {now} pool processes now: it cannot .* to {to}. Nothing was sent"
    ):
        resize(name, to, now)


@pytest.mark.django_db
def test_a_pool_that_still_grows_is_not_grown_twice_over() -> None:
    now = time.time()
    ControlRecord.objects.create(
        at=now - 4, sent_at=now - 4, username="ada", role="operator", command="pool_grow", targets=["w@x"],
        arguments={"n": 2, "before": 4, "to": 6},
    )  # fmt: skip
    with pytest.raises(Refused, match="has 4 pool processes now, and grows to 6"):
        resize("pool_grow", 6, 4)
    assert resize("pool_grow", 8, 4).questions[0].arguments == {"n": 2}
    assert resize("pool_shrink", 3, 4).questions[0].arguments == {"n": 1}
