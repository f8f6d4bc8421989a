"""The engine under its lease: this process leads, or stands by until it does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from django.conf import settings

from dashboard import access
from dashboard.process import notify
from monitor import control, redact
from monitor.acts.batches import Acts
from monitor.broker import Broker
from monitor.engine import Engine, Options
from monitor.engine.leader import STANDBY, Leader, Lease, State, Term
from monitor.engine.standby import APART, MARGIN, Handover, Standby
from monitor.records import Gap
from monitor.source import source_of
from monitor.store import Store

STOP_WITHIN = 8.0  # seconds for the engine to write what it holds

log = structlog.get_logger(__name__)


class Monitor:
    """``start`` it; ``role`` says what it is. ``told(sentence)`` is called when that changes."""

    def __init__(self, broker: Broker, told: Callable[[str], None] = lambda _: None) -> None:
        self.broker = broker
        self.lease = Lease()
        self.leader = Leader(self.lease, self, self._become)
        self.engine: Engine | None = None
        self.known = threading.Event()  # whether it leads or stands by
        self._told = told
        self._standby: Standby | None = None
        self._term: Term | None = None
        self._replayed_from = 0.0

    @property
    def role(self) -> str:
        return self.leader.role

    @property
    def failure(self) -> str:
        """Why it has ended by itself; '' while it has not."""
        if self.leader.failed:
            return self.leader.failed
        return "" if self.leader.alive or not self.known.is_set() else "its thread has ended"

    def start(self) -> None:
        self.leader.start()

    def stop(self) -> bool:
        """Write what is held and hand over. Whether that was done in time."""
        ended = self.leader.stop(STOP_WITHIN + 1.0)
        if self._standby is not None:
            self._standby.stop(0.5)
        return ended

    # What ``leader.Post`` asks for

    def begin(self, term: Term) -> None:
        self._term = term
        store = Store(
            settings.UMBEL_RETENTION_DAYS,
            settings.UMBEL_RETENTION_ROWS,
            settings.UMBEL_RETENTION_FAILURES_DAYS,
        )
        store.fence = lambda cursor: self.lease.fence(term, cursor)
        # Read-only sends no command, not even one that was asked for before.
        keeper = None if settings.UMBEL_READ_ONLY else control.standing(control.perform, access.barred)
        perform = None if settings.UMBEL_READ_ONLY else control.perform
        tender = control.Tender(perform, barred=access.barred).look
        options = Options(
            broker=self.broker,
            store=store,
            redactor=redact.DEFAULT,
            gap=self._gap,
            keeper=keeper,
            acts=Acts(
                control.perform,
                settings.UMBEL_BULK_RATE,
                settings.UMBEL_READ_ONLY,
                barred=access.barred,
                look_at=control.look_together,
            ).look,
            tender=tender,
        )
        standby, self._standby = self._standby, None
        self._listener = standby
        if standby is not None:
            last = store.last_feed()
            self._replayed_from = (last or 0.0) - MARGIN
            options.source = Handover(source_of(self.broker), standby, lambda: self._replayed_from)
        self.engine = Engine(options)
        self.engine.start()

    def end(self, graceful: bool) -> None:
        engine, self.engine = self.engine, None
        if engine is not None and not engine.stop(STOP_WITHIN, discard=not graceful):
            log.error("the engine did not end in time")

    def failed(self) -> str:
        return self.engine.failed if self.engine is not None else ""

    def _gap(self, last: float, now: float) -> Gap | None:
        """What was not heard between the former leader's last word and us."""
        heard = self._listener.heard_since if self._listener is not None else None
        if heard is not None and heard <= last - APART:
            log.info("nothing was missed between two leaders", heard_for=round(now - heard, 1))
            return None
        term = self._term
        reason = "Umbel was not running"
        if term is not None and term.former:
            reason = f"leader lost: {term.former.rpartition(':')[0]}"
        elif heard is not None:
            reason = "one leader followed another"
        return Gap(last, now if heard is None else min(now, max(heard, last)), reason)

    def _become(self, role: str, what: State | Term) -> None:
        self.known.set()
        if role == STANDBY:
            text = f"standby: {what.holder.rpartition(':')[0] or 'nobody'} leads"
            if self._standby is None:
                # Said again when it hears what the leader hears: from then on nothing is missed.
                self._standby = Standby(
                    lambda: source_of(self.broker), listening=lambda: self._tell(f"{text}, and it listens")
                )
                self._standby.start()
        elif isinstance(what, Term) and what.former:
            text = f"the leader, after {what.former.rpartition(':')[0]} was silent for {what.silent:.1f} s"
        else:
            text = "the leader"
        log.info("role", role=role, epoch=what.epoch)
        self._tell(text)

    def _tell(self, text: str) -> None:
        notify.say(READY="1", STATUS=f"Umbel's monitor is {text}.")
        self._told(f"Umbel's monitor is {text}.")
