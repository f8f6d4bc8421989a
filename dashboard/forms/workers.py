"""What the worker pages take: filters in the URL, and what is typed, with errors that name the value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlencode

from django.http import QueryDict

from dashboard.queries.workers import Fleet, WorkerView
from dashboard.templatetags.words import plain
from monitor.control import Refused

LARGEST = 500  # pool processes
STATUSES = ("online", "offline", "unknown", "stuck", "full")
SORTS = ("name", "busy", "reserved", "rate", "load", "heartbeat")


@dataclass(frozen=True)
class WorkerFilter:
    """Which workers, and in which order; a leading minus turns it round."""

    statuses: tuple[str, ...] = ()
    q: str = ""
    sort: str = "name"

    @classmethod
    def of(cls, params: QueryDict) -> WorkerFilter:
        """What cannot be understood is left out."""
        sort = params.get("sort", "name")
        return cls(
            tuple(dict.fromkeys(s for s in params.getlist("status") if s in STATUSES)),
            params.get("q", "").replace("\0", "").strip()[:200],
            sort if sort.removeprefix("-") in SORTS else "name",
        )

    @property
    def active(self) -> bool:
        return bool(self.statuses or self.q)

    def chosen(self, fleet: Fleet) -> list[WorkerView]:
        """The workers that match, in order."""
        found = [w for w in fleet.workers if self._has_status(w) and self._has_text(w)]
        key = self.sort.removeprefix("-")
        found.sort(key=lambda w: _place(w, key), reverse=self.sort.startswith("-"))
        return found

    def toggled(self, status: str) -> str:
        """The query string with a status chosen, or no longer."""
        return self._query(statuses=tuple(s for s in STATUSES if (s in self.statuses) != (s == status)))

    def sorted_by(self, key: str) -> str:
        """The query string sorted by a column: numbers from the largest, then turned round."""
        first = key if key == "name" else f"-{key}"
        other = f"-{key}" if key == "name" else key
        return self._query(sort=other if self.sort == first else first)

    def direction(self, key: str) -> str:
        """For ``aria-sort``."""
        if self.sort.removeprefix("-") != key:
            return ""
        return "descending" if self.sort.startswith("-") else "ascending"

    def _query(self, statuses: tuple[str, ...] | None = None, sort: str | None = None) -> str:
        pairs = [("status", s) for s in (self.statuses if statuses is None else statuses)]
        if self.q:
            pairs.append(("q", self.q))
        if (sort or self.sort) != "name":
            pairs.append(("sort", sort or self.sort))
        return f"?{urlencode(pairs)}"

    def _has_status(self, worker: WorkerView) -> bool:
        return not self.statuses or any(has(worker, status) for status in self.statuses)

    def _has_text(self, worker: WorkerView) -> bool:
        if not self.q:
            return True
        tasks = [slot.task.name for slot in worker.slots if slot.task]
        return any(self.q.casefold() in text.casefold() for text in (worker.hostname, *worker.queues, *tasks))


def has(worker: WorkerView, status: str) -> bool:
    """Whether a status chip names this worker."""
    if status == "stuck":
        return worker.stuck > 0
    if status == "full":
        return worker.full
    return bool(worker.row.status == status)


def pool_number(value: str | None, what: str, least: int = 1) -> int:
    """A number of pool processes; refused in a sentence that names the value and the way out."""
    text = (value or "").strip()
    if not text:
        raise Refused(f"{what} is empty; give a whole number from {least} to {LARGEST}. Nothing was sent.")
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text, re.ASCII):
        raise Refused(
            f"{what} must be a whole number from {least} to {LARGEST}; “{text[:40]}” is none. "
            "Nothing was sent."
        )
    number = int(text)
    if number < least:
        why = " A pool without a process would take tasks and run none." if least == 1 else ""
        raise Refused(f"{what} must be at least {least}; {number} is not.{why} Nothing was sent.")
    if number > LARGEST:
        raise Refused(f"{what} must be at most {LARGEST}; {number:,} is not. Nothing was sent.")
    return number


def text(value: str | None) -> str:
    """As it was typed, without what a paste brings along."""
    return (value or "").replace("\0", "").strip()


def typed_limit(value: str) -> str:
    """Seconds of a time limit as they go to the worker: "" is no limit, for which people type 0 or none."""
    return "" if value.casefold() in ("0", "0.0", "none") else value


def confirmed(name: str, hostname: str) -> None:
    """Refused unless the worker's name was typed, as it is or as the page shows it."""
    given = text(name)
    if not given:
        raise Refused(f"The name was not typed; type {hostname} to shut it down. Nothing was sent.")
    if given not in (text(hostname), text(plain(hostname))):
        raise Refused(
            f"“{given[:80]}” is not the name of this worker; type {hostname} to shut it down. "
            "Nothing was sent."
        )


def pattern(hostname: str) -> str:
    """For an input that takes just this name; the browser says so before the server has to."""
    return re.sub(r"[\^$.*+?()[\]{}|/\\]", r"\\\g<0>", text(plain(hostname)))


def _place(worker: WorkerView, key: str) -> tuple[float | str, ...]:
    """What a worker is sorted by; the unknown comes last from the largest."""
    if key == "name":
        return (worker.hostname,)
    values: dict[str, float | None] = {
        "busy": float(worker.busy),
        "reserved": float(worker.reserved),
        "rate": worker.rate,
        "load": worker.load,
        "heartbeat": worker.silent,
    }
    value = values[key]
    return (-1.0 if value is None else value, worker.hostname)
