"""The filters of the tasks page as they stand in the URL, each checked; a bad one is named and left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from django.http import QueryDict

from monitor.records import STATES

SPANS = {"15m": 900.0, "1h": 3600.0, "6h": 21600.0, "24h": 86400.0, "7d": 604800.0}
SPAN_WORDS = {"15m": "15 min", "1h": "hour", "6h": "6 h", "24h": "24 h", "7d": "7 days"}
SORTS = {"": "last event", "ran": "longest run", "over": "furthest over usual"}
LONGEST = 255
MOST_PAGES = 40  # of lists that are not kept in order by an index


@dataclass(frozen=True)
class TaskFilter:
    """What is asked for. Times are Unix seconds; ``before`` and ``after`` are (seen_at, id) of a row."""

    states: tuple[str, ...] = ()
    name: str = ""
    worker: str = ""
    queue: str = ""
    error: str = ""
    q: str = ""
    span: str = ""
    since: float | None = None
    until: float | None = None
    stuck: bool = False
    sort: str = ""
    before: tuple[float, int] | None = None
    after: tuple[float, int] | None = None
    page: int = 1
    errors: tuple[str, ...] = ()
    raw: dict[str, str] = field(default_factory=dict)

    @property
    def narrowed(self) -> bool:
        return bool(self.asked)

    @property
    def asked(self) -> dict[str, list[str]]:
        """The filters that are set, as they stand in the URL, without paging and sorting."""
        one = {"name": self.name, "worker": self.worker, "queue": self.queue, "q": self.q, "in": self.span}
        one["error"] = self.error
        pairs = {key: [value] for key, value in one.items() if value}
        pairs |= {key: [self.raw[key]] for key in ("from", "to") if self.raw.get(key)}
        if self.stuck:
            pairs["stuck"] = ["1"]
        if self.states:
            pairs["state"] = list(self.states)
        return pairs

    def query(self, drop: str = "", **more: str | list[str]) -> str:
        """The query string of these filters, without one of them, and with others set."""
        pairs: dict[str, str | list[str]] = {k: v for k, v in self.asked.items() if k != drop}
        if self.sort and drop != "sort":
            pairs["sort"] = self.sort
        pairs |= more
        return urlencode({k: v for k, v in pairs.items() if v}, doseq=True)

    def toggled(self, state: str) -> str:
        """The query with one state more, or one less."""
        states = [s for s in STATES if (s in self.states) != (s == state)]
        return self.query(state=states)


def task_filter(params: QueryDict) -> TaskFilter:
    """Reads the URL. What cannot be read is said in ``errors``."""
    errors: list[str] = []
    states = []
    for value in params.getlist("state"):
        if value.upper() in STATES:
            states.append(value.upper())
        elif value:
            errors.append(f"“{value[:60]}” is no state. Choose from {', '.join(STATES)}.")
    text = {key: params.get(key, "").replace("\x00", "").strip() for key in _WORDS}
    for key, value in text.items():
        if len(value) > LONGEST:
            errors.append(f"The {_WORDS[key]} has {len(value):,} characters; {LONGEST} are the most.")
            text[key] = ""
    span, sort = params.get("in", ""), params.get("sort", "")
    if span and span not in SPANS:
        errors.append(f"“{span[:60]}” is no span of time. Choose from {', '.join(SPANS)}.")
        span = ""
    if sort not in SORTS:
        errors.append(f"“{sort[:60]}” is no order. Choose ran or over, or leave it out.")
        sort = ""
    raw = {key: params.get(key, "")[:32] for key in ("from", "to")}
    since, until = (_moment(key, raw, errors) for key in ("from", "to"))
    if since is not None and until is not None and since > until:
        errors.append(f"From {raw['from']} is after to {raw['to']}; swap them.")
        since = until = None
        raw = {}
    return TaskFilter(
        states=tuple(dict.fromkeys(states)),
        **text,
        span=span,
        since=since,
        until=until,
        stuck=params.get("stuck") == "1",
        sort=sort,
        before=_place(params.get("before", "")),
        after=_place(params.get("after", "")),
        page=_page(params.get("page", "")),
        errors=tuple(errors),
        raw=raw,
    )


_WORDS = {
    **{"name": "task name", "worker": "worker's name", "queue": "queue's name"},
    **{"error": "kind of exception", "q": "text to search for"},
}


def _moment(key: str, raw: dict[str, str], errors: list[str]) -> float | None:
    value = raw.get(key, "")
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        errors.append(f"“{value}” is no time. Write it as 2026-03-12T14:30 (UTC).")
        raw[key] = ""
        return None


def _place(value: str) -> tuple[float, int] | None:
    at, _, key = value[:64].partition("_")
    try:
        place = (float(at), int(key))
    except ValueError:
        return None
    return place if math.isfinite(place[0]) and 0 <= place[1] < 2**63 else None


def _page(value: str) -> int:
    return min(int(value), MOST_PAGES) if value.isascii() and value.isdigit() and int(value[:9]) else 1
