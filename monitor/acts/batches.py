"""Acts on their way out: held until their time, then sent batch by batch, each as a command of its own.

One engine, the one that leads, does this. A batch is claimed before its record is written, and its record is
written before it is sent: after a crash a batch without a record was never sent and is sent now, and one
whose record has no answer may have been sent, and never is again.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from django.db import DatabaseError, connections, transaction
from django.db.models import F

from monitor.acts import making
from monitor.acts.kinds import KINDS, ActKind
from monitor.acts.models import ActTarget, BulkAct
from monitor.acts.settling import Settling, mark, taken
from monitor.control import Actor, Command, Refused, Unreachable
from monitor.control.commands import UMBEL, Barred, Perform, nobody_barred
from monitor.models import ControlRecord, Worker

State, Outcome = BulkAct.State, ActTarget.Outcome
IDLE = 0.5  # seconds between two looks when nothing is due sooner
SOON = 0.02
RATE = 500.0  # ids a second: a worker takes half a millisecond for each
# An act that was interrupted goes on for so long; later nobody expects it any more.
RESUME_WITHIN = making.DRAFT_LIFE
# Seconds after which a batch without an answer is not on its way any more.
GRACE = 15.0
ROUND = 30.0  # seconds between two looks at all batches of an act that is still being sent
AT_ONCE = 100  # acts that settle looked at, and old ones forgotten
TIDY_EVERY = 60.0
KEPT_DAYS = 365.0
MOST_TARGETS = 1_000_000  # kept in all; the oldest acts go first

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Acts:
    """``look`` runs in a thread of the engine that leads, and says in how many seconds to look again."""

    perform: Perform
    rate: float = RATE  # ids a second, of all acts together
    read_only: bool = False
    clock: Callable[[], float] = time.time
    barred: Barred = nobody_barred
    # ``control.look_together``; without it the effect of each batch is looked for by itself.
    look_at: Callable[[Sequence[ControlRecord]], None] | None = None
    _rounds: dict[tuple[uuid.UUID, str], float] = field(default_factory=dict)  # when it is looked at next
    _began: float = 0.0
    _next_batch: float = 0.0
    _next_tidy: float = 0.0
    _settling: Settling = field(default_factory=Settling)

    def look(self) -> float:
        """One look: what is due is begun, one batch is sent, what came of earlier ones is noted."""
        try:
            return self._look(self.clock())
        except DatabaseError:
            connections.close_all()
            raise

    def _look(self, now: float) -> float:
        acts = self._open()
        if not self._began:
            self._began = now
            for act in acts:
                self._resume(act, now)
        pause = IDLE
        for act in acts:
            if act.state == State.HELD:
                pause = min(pause, self._begin(act, now))
        sending = [act for act in acts if act.state == State.SENDING]
        for act in sending:
            self._orphans(act, now)
        if sending and now >= self._next_batch:
            self._send(sending[0], now)
        if any(act.state == State.SENDING for act in sending):
            pause = min(pause, max(SOON, self._next_batch - self.clock()))
        for act in acts:
            if act.state in (State.SENDING, State.SETTLING):
                self._look_at(act, now)
                self._settling.look(act, self.clock())
        if now >= self._next_tidy:
            self._next_tidy = now + TIDY_EVERY
            tidy(now)
        return pause

    def _look_at(self, act: BulkAct, now: float) -> None:
        """One question to the workers for all batches since the last: now and then, and when all are sent."""
        if self.look_at is None or act.count <= KINDS[act.command].batch:
            return
        if len(self._rounds) > AT_ONCE * AT_ONCE:
            self._rounds.clear()
        key = (act.pk, act.state)
        if now < self._rounds.setdefault(key, now + ROUND if act.state == State.SENDING else now):
            return
        batches = ActTarget.objects.filter(act=act, batch__isnull=False, settled_at=None)
        asked = ControlRecord.objects.filter(pk__in=batches.order_by().values("batch").distinct())
        waiting = list(asked.filter(completed_at=None, answered_at__isnull=False).order_by("at"))
        self._rounds[key] = now + ROUND if waiting or act.state == State.SENDING else math.inf
        if waiting:
            self.look_at(waiting)

    def _open(self) -> list[BulkAct]:
        """All that is not sent yet; of those that settle, which may be for weeks, the next in turn."""
        # PostgreSQL sorts NULL last: what was never begun would be the last to be.
        turn = F("batch_at").asc(nulls_first=True), "send_at"
        unsent = list(BulkAct.objects.filter(state__in=(State.HELD, State.SENDING)).order_by(*turn))
        settling = BulkAct.objects.filter(state=State.SETTLING)
        due = self._settling.due(settling.order_by("sent_at").values_list("pk", flat=True), AT_ONCE)
        return unsent + list(settling.filter(pk__in=due))

    def _resume(self, act: BulkAct, now: float) -> None:
        """What was open when Umbel stopped. A hold that nobody could see begins anew; the old is let go."""
        last = max(act.send_at or 0.0, act.batch_at or 0.0)
        if act.state == State.SETTLING:
            return
        if now - last > RESUME_WITHIN:
            self._halt(act, f"Umbel was not running when it was due, {(now - last) / 60:.0f} min ago.", now)
        elif act.state == State.HELD and act.hold:
            act.send_at, act.note = (
                now + act.hold,
                "Umbel was restarted while it was held: the hold began anew.",
            )
            BulkAct.objects.filter(pk=act.pk, state=State.HELD).update(send_at=act.send_at, note=act.note)
            making.tell(act.pk)

    def _begin(self, act: BulkAct, now: float) -> float:
        """Seconds until its hold is over."""
        if self.read_only:
            self._halt(act, "Umbel was started with --read-only: nothing is sent.", now)
            return IDLE
        left = (act.send_at or now) - now
        if left > 0:
            return left
        # Whoever withdraws it in this moment was first, or not.
        if BulkAct.objects.filter(pk=act.pk, state=State.HELD).update(state=State.SENDING):
            act.state = State.SENDING
            making.tell(act.pk)
        return SOON

    def _orphans(self, act: BulkAct, now: float) -> None:
        """Batches that were begun by an engine that is gone."""
        begun = ActTarget.objects.filter(act=act, outcome=Outcome.SENDING)
        for batch in set(begun.values_list("batch", flat=True)):
            record = ControlRecord.objects.filter(pk=batch).first() if batch else None
            if record is None:
                # Never recorded, so never sent: and no other engine can send it once its claim is gone.
                begun.filter(batch=batch).update(outcome=Outcome.WAITING, batch=None)
            elif record.answered_at is not None or (record.completed_at is not None and not record.sent_at):
                taken(act, record, now)
            elif now - (act.batch_at or 0.0) > GRACE:
                mark(begun.filter(batch=batch), Outcome.UNKNOWN, _UNKNOWN)
            making.tell(act.pk)

    def _send(self, act: BulkAct, now: float) -> None:
        """The next batch of it, or its end."""
        kind = KINDS[act.command]
        if act.stopped_at is not None:
            making.leave(act, f"Stopped by {act.stopped_by} before it was sent.", now)
            self._sent(act, now)
            return
        if self.read_only:
            self._halt(act, "Umbel was started with --read-only: nothing is sent.", now)
            return
        waiting = ActTarget.objects.filter(act=act, outcome=Outcome.WAITING).order_by("place")
        targets = list(waiting[: kind.batch])
        if not targets:
            if not ActTarget.objects.filter(act=act, outcome=Outcome.SENDING).exists():
                self._sent(act, now)
            return
        if (
            kind.what == "task"
            and kind.listens
            and not Worker.objects.exclude(status="offline").filter(is_beat=False).exists()
        ):
            self._halt(act, f"No worker is online: nobody would hear of this {act.command}.", now)
            return
        same = self._unchanged(kind, targets, now)
        if same and (mine := self._claim(act, same, now)):
            self._command(act, mine, now)
            self._next_batch = now + len(mine.targets) / self.rate
        making.tell(act.pk)

    def _unchanged(self, kind: ActKind, targets: Sequence[ActTarget], now: float) -> list[ActTarget]:
        """Those that are as they were when the list was read; others are skipped, each with its reason."""
        rows = kind.rows(one.target for one in targets)
        same: list[ActTarget] = []
        changed: dict[str, list[int]] = {}
        for one in targets:
            why = kind.changed(one.was, one.run, rows.get(one.target))
            if why:
                changed.setdefault(why, []).append(one.pk)
            else:
                same.append(one)
        for why, keys in changed.items():
            mark(ActTarget.objects.filter(pk__in=keys), Outcome.SKIPPED, why, now)
        return same

    def _claim(self, act: BulkAct, targets: Sequence[ActTarget], now: float) -> Claim | None:
        claim = Claim(uuid.uuid4(), ())
        keys = [one.pk for one in targets]
        with transaction.atomic():
            waiting = ActTarget.objects.filter(pk__in=keys, outcome=Outcome.WAITING)
            if not waiting.update(outcome=Outcome.SENDING, batch=claim.batch):
                return None
            BulkAct.objects.filter(pk=act.pk).update(batch_at=now)
        act.batch_at = now
        mine = ActTarget.objects.filter(batch=claim.batch).order_by("place")
        return Claim(claim.batch, tuple(mine.values_list("target", flat=True)))

    def _command(self, act: BulkAct, claim: Claim, now: float) -> None:
        """As the one who asked for it, recorded and verified as any command."""
        actor = Actor(act.user_id, act.username, act.role, act.address)
        kind, batch = KINDS[act.command], ActTarget.objects.filter(batch=claim.batch)
        if kind.act is not None and self._let_go(act, claim, Command(act.command, claim.targets), now):
            return
        if kind.act is not None:
            for target in claim.targets:
                try:
                    outcome, text = kind.act(act, target, actor)
                except Refused as refusal:
                    outcome, text = Outcome.REFUSED, str(refusal)
                mark(batch.filter(target=target), outcome, text)
            return
        command, skipped = kind.step(act, claim.targets)
        for target, why in skipped.items():
            mark(batch.filter(target=target), Outcome.SKIPPED, why, now)
        if command is None:
            return
        if self._let_go(act, claim, command, now):
            return
        claim = Claim(claim.batch, tuple(one for one in claim.targets if one not in skipped))
        try:
            alone = self.look_at is None or act.count <= kind.batch
            record = self.perform(command, actor, identity=claim.batch, still=claim.still, looks=alone)
        except Refused as refusal:
            called = {kind.under(act, target): target for target in claim.targets}
            for target, why in refusal.skipped.items():
                mark(batch.filter(target=called.get(target, target)), Outcome.SKIPPED, why, now)
            mark(batch.filter(outcome=Outcome.SENDING), Outcome.REFUSED, str(refusal), now)
            if isinstance(refusal.__cause__, Unreachable):
                self._halt(act, str(refusal), now)
            return
        taken(act, record, self.clock())
        if record.sent_at is None:
            self._halt(act, record.evidence, now)

    def _let_go(self, act: BulkAct, claim: Claim, command: Command, now: float) -> bool:
        """Whether who asked may not have this done any more: then this batch and later ones are not sent."""
        actor = Actor(act.user_id, act.username, act.role, act.address)
        why = self.barred(actor, command)
        if not why and act.count > 1:
            why = self.barred(actor, Command("bulk", ()))
        if not why:
            return False
        mine = ActTarget.objects.filter(batch=claim.batch, outcome=Outcome.SENDING)
        mine.update(outcome=Outcome.WAITING, batch=None)
        self._halt(act, why, now)
        return True

    def _halt(self, act: BulkAct, why: str, now: float) -> None:
        """Umbel itself lets go of what is not sent yet, and says why: nobody expects it to be sent later."""
        left = making.leave(act, why, now)
        fields = {"stopped_by": "", "stopped_at": now, "note": why[:500]}
        held = act.state == State.HELD
        if held:
            BulkAct.objects.filter(pk=act.pk, state=State.HELD).update(
                state=State.WITHDRAWN, ended_at=now, tally={Outcome.LEFT: act.count}, **fields
            )
            act.state = State.WITHDRAWN
        else:
            BulkAct.objects.filter(pk=act.pk).update(**fields)
            self._sent(act, now)
        log.warning("act stopped", act=str(act.pk), reason=why, not_sent=left)
        making.record(
            making.WITHDRAW if held else making.STOP, act, UMBEL, f"{why} {left:,} were not sent.", now
        )
        making.tell(act.pk)

    def _sent(self, act: BulkAct, now: float) -> None:
        BulkAct.objects.filter(pk=act.pk, state=State.SENDING).update(state=State.SETTLING, sent_at=now)
        act.state, act.sent_at = State.SETTLING, now
        making.tell(act.pk)


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch that is ours to send, as long as nobody took it back."""

    batch: uuid.UUID
    targets: tuple[str, ...]

    def still(self) -> None:
        """In the transaction that writes the record: from then on nobody takes it back."""
        rows = ActTarget.objects.select_for_update().filter(batch=self.batch, outcome=Outcome.SENDING)
        if len(rows.values_list("pk", flat=True)) != len(self.targets):
            raise Refused("Another monitor took this batch over; nothing was sent.")


_UNKNOWN = "Umbel stopped while this batch was on its way: it may have been sent, and is not sent again."


def tidy(now: float) -> None:
    """Lists that nobody confirmed, and acts of long ago, go."""
    making.forget(
        BulkAct.objects.filter(state=State.DRAFT, read_at__lt=now - making.DRAFT_LIFE).values_list(
            "pk", flat=True
        )
    )
    over = BulkAct.objects.filter(state__in=(State.DONE, State.WITHDRAWN))
    making.forget(over.filter(at__lt=now - KEPT_DAYS * 86_400).values_list("pk", flat=True)[:AT_ONCE])
    kept = 0
    for pk, count in over.order_by("-at").values_list("pk", "count"):
        kept += count
        if kept > MOST_TARGETS:
            making.forget([pk])
