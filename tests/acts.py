"""Acts on many without a broker: what the tests of acts share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from monitor.acts import making
from monitor.acts.batches import Acts
from monitor.acts.making import Frozen, List
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Command, Refused, Unreachable
from monitor.models import ControlRecord, Task, Worker

MILA = Actor(None, "mila", "operator", "127.0.0.1")


class Crash(BaseException):
    """Umbel ends in the midst of it."""


class Bench:
    """Acts on a clock of the test, over a stand-in for the workers; ``sent`` is what they were asked."""

    def __init__(self, **options: Any) -> None:
        self.now = time.time()
        self.sent: list[Command] = []
        self.reply = "ok"  # or error, silent
        self.crash = ""  # "before" the record is written, or "after"
        self.away = False
        self.skip: dict[str, str] = {}
        self.options = options
        self.restart()
        self.acts.look()

    def restart(self) -> None:
        self.acts = Acts(self.perform, clock=lambda: self.now, **self.options)

    def perform(
        self,
        command: Command,
        actor: Actor,
        *,
        identity: uuid.UUID | None = None,
        still: Callable[[], None] | None = None,
        looks: bool = True,
    ) -> ControlRecord:
        if self.crash == "before":
            raise Crash
        if self.away:
            raise Refused("The broker cannot be reached. Nothing was sent.") from Unreachable("x", sent=False)
        if still:
            still()
        self.sent.append(command)
        record = ControlRecord.objects.create(
            pk=identity, at=self.now, username=actor.username, role=actor.role, command=command.name,
            targets=list(command.targets), arguments=command.arguments, reason=command.reason,
            sent_at=self.now, destinations=["w@h"], skipped=self.skip or None,
        )  # fmt: skip
        if self.crash == "after":
            raise Crash
        record.answered_at = self.now
        record.replies = [{"worker": "w@h", "outcome": self.reply, "text": "no such thing"}]
        record.save()
        return record

    def look(self, after: float = 1.0) -> float:
        """One look so much later, at every act that is open."""
        self.now += after
        self.acts._settling._due.clear()
        return self.acts.look()

    def until_settling(self, act: BulkAct) -> None:
        for _ in range(200):
            self.look(2.0)
            act.refresh_from_db()
            if act.state not in ("held", "sending"):
                return
        raise AssertionError(f"{act} is {act.state} still")


def online(hostname: str = "w@h", **fields: Any) -> Worker:
    defaults = {"status": "online", "pool": "prefork", "size": 2, "pid": 7, "first_seen_at": 1.0}
    return Worker.objects.create(hostname=hostname, **{**defaults, **fields})


def tasks(many: int, state: str = "PENDING", prefix: str = "t", **fields: Any) -> list[str]:
    now = time.time()
    uuids = [f"{prefix}{n}" for n in range(many)]
    Task.objects.bulk_create(
        Task(
            uuid=u,
            state=state,
            name="shop.add",
            queue="pile",
            first_seen_at=now,
            seen_at=now + n / 1e4,
            **fields,
        )
        for n, u in enumerate(uuids)
    )
    return uuids


def made(
    uuids: list[str], command: str = "revoke", hold: float = 0, was: str = "PENDING", **more: Any
) -> BulkAct:
    """A confirmed act."""
    run = more.pop("run", 0.0)
    frozen = [Frozen(u, was, run, "shop.add", "w@h", "pile") for u in uuids]
    act = making.draft(command, List(frozen, "All tasks of the test"), MILA)
    return making.confirm(act.pk, MILA, {}, reason="the test", hold=hold, **more)


def outcomes(act: BulkAct) -> dict[str, str]:
    return dict(ActTarget.objects.filter(act=act).order_by("place").values_list("target", "outcome"))


def why(act: BulkAct, target: str) -> str:
    return str(ActTarget.objects.get(act=act, target=target).text)
