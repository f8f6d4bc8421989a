"""What a mark and a row take from an event: redacted, cut, and no more than its type carries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from monitor.events import LATEST, Received, Sent, clean
from monitor.records import Mark
from monitor.redact import Redactor

# Identity fields that both sent and received carry: the best-placed event that has one gives it.
CALL = ("name", "args", "kwargs", "eta", "expires", "root_id", "parent_id")
ROUTE = ("queue", "routing_key")
# How a mark says which of them its event carried.
LETTERS = {
    "name": "n",
    "args": "a",
    "kwargs": "k",
    "eta": "t",
    "expires": "x",
    "root_id": "r",
    "parent_id": "p",
    "queue": "q",
    "routing_key": "o",
}
EXCEPTION_LIMIT, TRACEBACK_LIMIT = 2_000, 16_384

Rank = tuple[int, int, float, tuple[str, str, int, int, float]]


def fields_of(kind: str, event: Received | Sent, redactor: Redactor) -> dict[str, Any]:
    """The identity fields that a sent or received event carries."""
    fields: dict[str, Any] = {}
    for field in CALL + ROUTE if kind == "sent" else CALL:
        raw = getattr(event, field)
        if raw is None or raw == "":
            continue
        if field in ("args", "kwargs"):
            raw = redactor.text(raw)
        elif field in ("eta", "expires"):
            raw = moment(raw)
        if raw is not None:
            fields[field] = raw
    return fields


def detail_of(kind: str, event: Any, redactor: Redactor) -> dict[str, Any] | None:
    """What the mark of an event keeps of it."""
    text = redactor.text
    detail: dict[str, Any] = {}
    if kind in ("sent", "received"):
        detail["retries"] = event.retries or 0
        if event.eta is not None and (eta := moment(event.eta)) is not None:
            detail["eta"] = eta
    elif kind == "succeeded":
        detail["result"] = None if event.result is None else text(event.result)
        if event.runtime is not None:
            detail["runtime"] = event.runtime
    elif kind in ("failed", "retried"):
        if event.exception is not None:
            detail["exception"] = clean(text(event.exception), EXCEPTION_LIMIT)
        if event.traceback is not None:
            detail["traceback"] = clean(text(event.traceback), TRACEBACK_LIMIT)
    elif kind == "revoked":
        detail = {"terminated": bool(event.terminated), "expired": bool(event.expired)}
        if event.signum is not None:
            detail["signum"] = event.signum
    elif kind == "rejected":
        detail["requeue"] = bool(event.requeue)
    elif kind != "started" and event.extra is not None:
        detail = redactor.value(event.extra)
    return detail or None


def moment(raw: Any) -> float | None:
    """Unix seconds of an ISO text or number; None when it is neither or out of range."""
    if isinstance(raw, str):
        try:
            at = datetime.fromisoformat(raw)
            raw = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw < LATEST:
        return None
    return float(raw)


def has(event: Any, expires: float | None, eta: float | None = None) -> str:
    """The letters of the fields that the event carries; ``expires`` and ``eta`` as moments."""
    letters = ""
    if event.name:
        letters += "n"
    if event.args:
        letters += "a"
    if event.kwargs:
        letters += "k"
    if eta is not None:
        letters += "t"
    if expires is not None:
        letters += "x"
    if event.root_id:
        letters += "r"
    if event.parent_id:
        letters += "p"
    if event.__class__ is Sent:
        if event.queue:
            letters += "q"
        if event.routing_key:
            letters += "o"
    return letters


LEAST: Rank = (-1, -1, 0.0, ("", "", 0, 0, 0.0))


def rank_of(mark: Mark) -> Rank:
    # The latest attempt, a worker's word before a client's, then time.
    retries = (mark.detail or {}).get("retries") or 0
    return (retries, 1 if mark.kind == "received" else 0, mark.at, mark.key)
