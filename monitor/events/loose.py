"""Events read field by field, for what the fast way refuses: wrong types, long texts, NaN, custom events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from monitor.events.shapes import (
    BIGGEST,
    BIGGEST_SMALL,
    EXTRA_LIMIT,
    LATEST,
    NAME_LIMIT,
    TEXT_LIMIT,
    TRACEBACK_LIMIT,
    UUID_LIMIT,
    Custom,
    Failed,
    Heartbeat,
    Offline,
    Online,
    Received,
    Rejected,
    Retried,
    Revoked,
    Sent,
    Started,
    Succeeded,
    TaskEvent,
    WorkerEvent,
)


def loads(raw: bytes) -> Any:
    """JSON as Python's own encoder writes it: with NaN, Infinity and lone surrogates."""
    return json.loads(raw.decode("utf-8", "replace"))


def event_from_dict(d: dict[str, Any]) -> TaskEvent | WorkerEvent:
    """An event from its decoded fields; raises ValueError with the reason. Custom ones keep their extras."""
    if not isinstance(d, dict):
        raise ValueError("event is not an object")
    kind = _required(d, "type", NAME_LIMIT)
    hostname = _required(d, "hostname", NAME_LIMIT)
    stamp = d.get("timestamp")
    if isinstance(stamp, bool) or not isinstance(stamp, int | float):
        raise ValueError("timestamp is missing" if stamp is None else "timestamp is not a number")
    try:
        timestamp = float(stamp)
    except OverflowError:
        timestamp = 0.0
    if not (isfinite(timestamp) and 0.0 < timestamp < LATEST):
        timestamp = 0.0
    shape = _SHAPES.get(kind)
    fields: dict[str, Any] = {"hostname": hostname, "timestamp": timestamp}
    if shape is None:
        fields |= {"type": kind, "extra": _extra(d) if kind.startswith("task-") else None}
        shape = Custom
    if kind.startswith("task-"):
        fields["uuid"] = _required(d, "uuid", UUID_LIMIT)
    elif shape is Custom:
        fields["uuid"] = ""
    for field in shape.__struct_fields__:
        read = _READERS.get(field)
        if read is not None and (raw := d.get(field)) is not None and (value := read(raw)) is not None:
            fields[field] = value
    return shape(**fields)


def is_known(event: TaskEvent | WorkerEvent) -> bool:
    """Whether it is Celery's own event, or a custom one of a task."""
    return event.__class__ is not Custom or (event.type.startswith("task-") and event.type != "task-")


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """A text that can be stored and sent anywhere: cut, without NUL and lone surrogates."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _UNSAFE.sub("\ufffd", text) if _UNSAFE.search(text) else text


# private, in the order of use

_UNSAFE = re.compile("[\x00\ud800-\udfff]")

_STANDARD: tuple[type[TaskEvent | WorkerEvent], ...] = (
    Sent,
    Received,
    Started,
    Succeeded,
    Failed,
    Retried,
    Revoked,
    Rejected,
    Online,
    Heartbeat,
    Offline,
)
_SHAPES: dict[str, type[TaskEvent | WorkerEvent]] = {shape.type: shape for shape in _STANDARD}


def _required(d: dict[str, Any], field: str, limit: int) -> str:
    raw = d.get(field)
    if raw is None or raw == "":
        raise ValueError(f"{field} is missing")
    if not isinstance(raw, str):
        raise ValueError(f"{field} is not a text")
    return clean(raw, limit)


def _name(raw: Any) -> str | None:
    return clean(raw) if isinstance(raw, str) else None


def _identifier(raw: Any) -> str | None:
    return clean(raw, UUID_LIMIT) if isinstance(raw, str) else None


def _text(raw: Any) -> str | None:
    # Celery sends repr strings; other senders may send the values themselves.
    return clean(raw if isinstance(raw, str) else _as_json(raw), TEXT_LIMIT)


def _traceback(raw: Any) -> str | None:
    return clean(raw, TRACEBACK_LIMIT) if isinstance(raw, str) else None


def _moment(raw: Any) -> str | float | None:
    if isinstance(raw, str):
        return raw if len(raw) <= 64 else None
    return _number(raw)


def _number(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    try:
        number = float(raw)
    except OverflowError:
        return None
    return number if isfinite(number) and 0 <= number < LATEST else None


def _count(most: int) -> Callable[[Any], int | None]:
    def read(raw: Any) -> int | None:
        if isinstance(raw, float) and isfinite(raw) and raw == int(raw):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int):
            return None
        return raw if 0 <= raw <= most else None

    return read


def _offset(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not -48 <= raw <= 48:
        return None
    return float(raw)


def _flag(raw: Any) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _signal(raw: Any) -> int | str | None:
    if isinstance(raw, str):
        return clean(raw, 16)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 256 else None


def _load(raw: Any) -> list[float] | None:
    numbers = [_number(item) for item in raw[:3]] if isinstance(raw, list | tuple) else []
    return [number for number in numbers if number is not None] or None


_READERS: dict[str, Callable[[Any], Any]] = {
    "pid": _count(BIGGEST_SMALL),
    "clock": _count(BIGGEST),
    "utcoffset": _offset,
    "name": _name,
    "args": _text,
    "kwargs": _text,
    "eta": _moment,
    "expires": _moment,
    "retries": _count(BIGGEST_SMALL),
    "root_id": _identifier,
    "parent_id": _identifier,
    "queue": _name,
    "exchange": _name,
    "routing_key": _name,
    "result": _text,
    "runtime": _number,
    "exception": _text,
    "traceback": _traceback,
    "terminated": _flag,
    "signum": _signal,
    "expired": _flag,
    "requeue": _flag,
    "freq": _number,
    "active": _count(BIGGEST_SMALL),
    "processed": _count(BIGGEST),
    "loadavg": _load,
    "sw_ident": _name,
    "sw_ver": _name,
    "sw_sys": _name,
}
_OWN = frozenset(_READERS) | {"type", "hostname", "timestamp", "uuid", "local_received"}


def _extra(d: dict[str, Any]) -> dict[str, Any] | None:
    extra: dict[str, Any] = {}
    left = EXTRA_LIMIT
    for key, raw in d.items():
        if not isinstance(key, str) or key in _OWN:
            continue
        if raw is None or isinstance(raw, bool):
            kept: Any = raw
        elif isinstance(raw, int | float) and isfinite(raw) and abs(raw) <= BIGGEST:
            kept = raw
        else:
            kept = clean(raw if isinstance(raw, str) else _as_json(raw), 512)
        left -= len(key) + len(str(kept))
        if left < 0 or len(extra) >= 32:
            break
        extra[clean(key, 64)] = kept
    return extra or None


def _as_json(raw: Any) -> str:
    try:
        return json.dumps(raw, default=str, ensure_ascii=False)
    except (ValueError, RecursionError, TypeError):
        return "(not readable)"
