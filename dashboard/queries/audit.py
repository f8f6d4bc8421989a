"""Every read of the audit log: records newest first, filtered and paged, in words."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from functools import reduce
from operator import or_

from django.db.models import Count, Q, QuerySet

from dashboard.templatetags.words import duration_text
from monitor.control.revokes.ladders import STEPS
from monitor.models import ControlRecord, Task, Worker

ROWS = 50
# Effect -> the design's state and word.
EFFECTS = {
    "pending": ("running", "Pending"),
    "verified": ("succeeded", "Verified"),
    "partly": ("warn", "Partly"),
    "unverified": ("lost", "Not verified"),
    "none": ("failed", "No effect"),
    "refused": ("rejected", "Refused"),
    "noted": ("sent", "Noted"),
}
# Command -> what is being done, what was done, to what.
VERBS = {
    "revoke": ("Revoking", "revoked"),
    "terminate": ("Terminating", "terminated"),
    "pool_grow": ("Growing pool of", "grown"),
    "pool_shrink": ("Shrinking pool of", "shrunk"),
    "autoscale": ("Setting autoscale of", "autoscale set"),
    "rate_limit": ("Setting rate limit on", "rate limit set"),
    "time_limit": ("Setting time limits on", "time limits set"),
    "add_consumer": ("Adding queue to", "queue added"),
    "cancel_consumer": ("Stopping queue of", "queue stopped"),
    "pool_restart": ("Restarting pool of", "pool restarted"),
    "enable_events": ("Enabling events on", "events enabled"),
    "disable_events": ("Stopping events of", "events stopped"),
    "ping": ("Pinging", "ping answered"),
    "shutdown": ("Shutting down", "shut down"),
    "purge": ("Purging", "purged"),
    "withdraw": ("Withdrawing", "withdrawn"),
    "stop": ("Stopping", "stopped"),
    "send_task": ("Sending", "sent"),
    "shrink_when_free": ("Waiting to shrink pool of", "shrinks when free"),
    "keep_size": ("Keeping the size of", "keeps its size"),
    "drain": ("Draining", "drain begun"),
    "end_drain": ("Ending the drain of", "drain undone"),
    "dismiss": ("Dismissing offers for", "offers dismissed"),
    "revoke_by_stamped_headers": ("Revoking the stamp", "stamp revoked"),
    "abort": ("Aborting", "aborted"),
    "signal_process": ("Signalling the process of", "process signalled"),
}
# Acts of people that no worker hears of -> how they are told.
OWN = {
    "user_add": "Add user",
    "user_role": "Change role of",
    "user_deactivate": "Deactivate",
    "user_activate": "Activate",
    "user_link": "Make a sign-in link for",
    # By the permission's name, for what was refused before more was known.
    "note": "Write or change a note on",
    "threshold": "Set slow and stuck times of",
    "note_add": "Add a note on",
    "note_change": "Change a note on",
    "note_remove": "Remove a note on",
    "threshold_set": "Set slow and stuck times of",
    "threshold_reset": "Reset slow and stuck times of",
}
_TASKS = ("revoke", "terminate", "send_task", "abort", "signal_process")
_ACTS = ("withdraw", "stop")  # done to an act on many
_NUMBER = re.compile(r"\d{1,9}(\.\d+)?$")
_TO_WHAT = re.compile(r"( the pool| what was forgotten)? (of|on|to|by)$")
_ANSWERED = re.compile(r"^(\S+|[Tt]he broker|Both workers|All \d+ workers) answered\. ")


@dataclass(frozen=True)
class Shown:
    """A record and its words."""

    record: ControlRecord
    name: str = ""  # of its one task

    @property
    def short_name(self) -> str:
        return self.name.rpartition(".")[2][:80]

    @property
    def saw(self) -> str:
        """The evidence without the part that only says who answered."""
        text = str(self.record.evidence)
        rest = _ANSWERED.sub("", text)
        return rest or text

    @property
    def state(self) -> str:
        return EFFECTS.get(self.record.effect, ("lost", ""))[0]

    @property
    def word(self) -> str:
        return EFFECTS.get(self.record.effect, ("", str(self.record.effect)))[1]

    @property
    def pending(self) -> bool:
        return self.record.completed_at is None

    @property
    def own(self) -> bool:
        """Done in Umbel alone: nothing was sent."""
        return self.record.command in OWN

    @property
    def on_tasks(self) -> bool:
        return self.record.command in _TASKS

    @property
    def on_act(self) -> bool:
        """Its one target is an act on many."""
        return self.record.command in _ACTS and "what" not in self.record.arguments

    @property
    def object(self) -> str:
        """ "3 tasks", "imports@prod-g1"."""
        targets = self.record.targets
        if self.record.command in _ACTS:
            what = {
                "steps": "the steps for a task",
                "stamp": f"the stamp {' '.join(map(str, targets))}",
                "revoke": f"the revoke of {len(targets)} task{'' if len(targets) == 1 else 's'}",
            }
            given = self.record.arguments
            return what.get(given.get("what", "")) or str(given.get("act", "an act"))
        if not targets:
            return "nothing named"
        if self.on_tasks:
            many = len(targets) - self.spared
            return f"{many} task{'' if many == 1 else 's'}"
        return str(targets[0]) if len(targets) == 1 else f"{len(targets)} workers"

    @property
    def spared(self) -> int:
        """Targets that were not acted on; known once Umbel has looked."""
        if not self.on_tasks or not self.record.seen:
            return 0
        return max(0, len(self.record.targets) - len(self.record.seen))

    @property
    def spared_why(self) -> str:
        """ "2 more were selected and not acted on: they had ended, or run already"."""
        if not self.spared:
            return ""
        were, they = ("was", "it") if self.spared == 1 else ("were", "they")
        why = "had ended, or run already" if self.record.command == "revoke" else "had ended, or do not run"
        if self.record.command == "send_task":
            why = "could not be sent"
        return f"{self.spared} more {were} selected and not acted on: {they} {why}."

    @property
    def title(self) -> str:
        """Result first: "3 tasks terminated, verified"."""
        if self.own:
            return f"{self.verb} {self.object}"
        doing, done = VERBS.get(self.record.command, (self.record.command, self.record.command))
        effect = self.record.effect
        if effect == "refused":
            return f"{self.verb} {self.object}: refused"
        if self.pending:
            return f"{doing} {self.object}"
        what = f"{self.object} {done}" if self.on_tasks else f"{self.object}: {done}"
        return {
            "verified": f"{what}, verified",
            "partly": f"{what}, partly",
            "none": f"{self.verb} {self.object}: no effect",
            "noted": f"{doing} {self.object}" if self.on_tasks else what,
        }.get(effect, f"{self.verb} {self.object}: not confirmed")

    @property
    def verb(self) -> str:
        return OWN.get(self.record.command) or {
            "revoke": "Revoke",
            "terminate": "Terminate",
            "pool_grow": "Grow pool of",
            "pool_shrink": "Shrink pool of",
            "autoscale": "Set autoscale of",
            "rate_limit": "Set rate limit on",
            "time_limit": "Set time limits on",
            "add_consumer": "Add queue to",
            "cancel_consumer": "Stop queue of",
            "pool_restart": "Restart pool of",
            "enable_events": "Enable events on",
            "disable_events": "Stop events of",
            "ping": "Ping",
            "shutdown": "Shut down",
            "purge": "Purge",
            "withdraw": "Withdraw",
            "stop": "Stop",
            "send_task": "Send",
            "shrink_when_free": "Shrink when free the pool of",
            "keep_size": "Keep the size of",
            "drain": "Drain",
            "end_drain": "Undo the drain of",
            "dismiss": "Dismiss what was forgotten by",
            "revoke_by_stamped_headers": "Revoke the stamp",
            "abort": "Abort",
            "signal_process": "Signal the process of",
        }.get(self.record.command, self.record.command)

    @property
    def deed(self) -> str:
        """The verb where its object goes without saying: "Grow pool"."""
        return _TO_WHAT.sub("", self.verb)

    @property
    def how(self) -> str:
        """The arguments: "SIGTERM", "n 2", "queue imports, its last"."""
        if self.record.command in _ACTS:
            return ""
        given = self.record.arguments.items()
        # A stamp's header and value are its target.
        hidden = ("header", "value") if self.record.command == "revoke_by_stamped_headers" else ()
        return ", ".join(_said(str(name), value) for name, value in given if name not in hidden)

    @property
    def answered(self) -> int:
        return sum(1 for reply in self.record.replies if reply.get("outcome") != "silent")

    @property
    def asked(self) -> int:
        return len(self.record.replies) or len(self.record.destinations)

    @property
    def seen(self) -> int:
        return sum(1 for one in self.record.seen if one.get("seen") is True)

    @property
    def sights(self) -> int:
        return len(self.record.seen) or len(self.record.targets)

    @property
    def answered_after(self) -> float | None:
        return _between(self.record.sent_at, self.record.answered_at)

    @property
    def seen_after(self) -> float | None:
        return _between(self.record.sent_at, self.record.completed_at)

    @property
    def answered_state(self) -> str:
        if self.record.answered_at is None:
            return ""
        errors = any(reply.get("outcome") == "error" for reply in self.record.replies)
        return "failed" if errors else "succeeded" if self.answered == self.asked else "lost"

    @property
    def seen_state(self) -> str:
        if self.pending:
            return ""
        return "succeeded" if self.seen == self.sights else "warn" if self.seen else "lost"


@dataclass(frozen=True)
class Entries:
    """A page of the log."""

    rows: list[Shown]
    page: int
    more: bool


def _said(name: str, value: object) -> str:
    if name == "signal":
        return "step by step" if value == STEPS else str(value)
    if name == "of":
        return f"again for {str(value)[:8]}"
    if name == "arguments":
        return (
            f"arguments from its {value}" if value in ("message", "worker", "result", "events") else "typed"
        )
    if name == "if_started":
        return f"{value} if it starts all the same"
    if name == "within":
        told = duration_text(float(str(value))) if _NUMBER.match(str(value)) else value
        return f"within {told}"
    if name == "n":
        return f"by {value}"
    if name == "before":
        return f"was {value}"
    if name in ("soft", "hard") and isinstance(value, float):
        return f"{name} {value:g} s"
    if name == "last":
        return "its last" if str(value) == "True" else "not its last"
    return f"{name} {value}" if str(value) not in ("", "None") else f"{name} none"


def outcome(record: ControlRecord) -> Shown:
    """In words."""
    return Shown(record)


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of the log; empty for all."""

    effects: tuple[str, ...] = ()
    who: str = ""
    what: str = ""  # command
    target: str = ""  # a task's id, a worker or a queue, whole
    q: str = ""  # any text

    @property
    def narrowed(self) -> bool:
        return bool(self.effects or self.who or self.what or self.target or self.q)


def entries(asked: Asked, page: int) -> Entries:
    """Newest first."""
    start = (page - 1) * ROWS
    found = list(matching(asked)[start : start + ROWS + 1])
    single = [r.targets[0] for r in found if r.command in _TASKS and len(r.targets) == 1]
    names = names_of(single)
    rows = [Shown(r, names.get(r.targets[0], "") if r.targets else "") for r in found[:ROWS]]
    return Entries(rows, page, len(found) > ROWS)


def effect_counts() -> dict[str, int]:
    """Records by effect."""
    rows = ControlRecord.objects.order_by().values_list("effect").annotate(n=Count("pk"))
    return {str(effect): int(n) for effect, n in rows}


def people() -> list[str]:
    """Everyone in the log."""
    return list(
        ControlRecord.objects.order_by("username").values_list("username", flat=True).distinct()[:100]
    )


def record(pk: uuid.UUID) -> Shown | None:
    """One record."""
    found = ControlRecord.objects.filter(pk=pk).first()
    return Shown(found) if found else None


def records(keys: list[uuid.UUID]) -> list[Shown]:
    """These, in the order in which they were asked for."""
    return [Shown(found) for found in ControlRecord.objects.filter(pk__in=keys).order_by("at", "pk")]


def workers_of(names: list[str]) -> dict[str, int]:
    """Hostname to key, of those still known."""
    return dict(Worker.objects.filter(hostname__in=names).values_list("hostname", "pk"))


def names_of(uuids: list[str]) -> dict[str, str]:
    """Task names by uuid, of those still in the history."""
    return dict(Task.objects.filter(uuid__in=uuids).values_list("uuid", "name"))


def matching(asked: Asked) -> QuerySet[ControlRecord]:
    """The records, newest first."""
    records = ControlRecord.objects.order_by("-at", "-pk")
    if asked.effects:
        records = records.filter(effect__in=asked.effects)
    if asked.who:
        records = records.filter(username=asked.who)
    if asked.what:
        records = records.filter(command=asked.what)
    if asked.target:
        # A list in JSON: the quotes make it a whole one. PostgreSQL writes letters as they are.
        written = {json.dumps(asked.target), json.dumps(asked.target, ensure_ascii=False)}
        records = records.filter(reduce(or_, (Q(targets__icontains=text) for text in sorted(written))))
    if asked.q:
        fields = ("username", "reason", "evidence", "targets", "command", "destinations")
        records = records.filter(reduce(or_, (Q(**{f"{name}__icontains": asked.q}) for name in fields)))
    return records


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
