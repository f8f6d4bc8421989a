"""Wire bytes become typed events; the only file that knows Celery's wire names.

Nothing here raises but ``event_from_dict``: what cannot be read is counted with its reason, and one bad
event in a list costs only itself. Pickle, YAML and unknown content types are refused unopened.

Choices:

- A message over 8 MiB is refused before it is decoded; texts are cut to the limits below.
- ``type``, ``hostname``, ``timestamp`` (and ``uuid`` of a task event) must be there and of the right type,
  else the event is malformed. Any other field of a wrong type is dropped and the event kept.
- A timestamp that is NaN, infinite, not positive or past the year 2100 (milliseconds, say) becomes 0.0, which
  means "use the time of receipt".
- NUL bytes and lone surrogates become U+FFFD: every text can be stored in SQLite and PostgreSQL, and sent.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec

MESSAGE_LIMIT = 8 * 1024 * 1024  # bytes of one message, before decoding
EVENTS_LIMIT = 10_000  # events in one message
NAME_LIMIT = 255  # characters of a task name, hostname, queue …
UUID_LIMIT = 155
TEXT_LIMIT = 8_192  # characters of args, kwargs, result, exception
TRACEBACK_LIMIT = 65_536
EXTRA_LIMIT = 4_096  # characters of a custom event's extra fields, as JSON
LATEST = 4_102_444_800.0  # 2100-01-01
_BIGGEST = 2**63 - 1

TASK_KINDS = frozenset(
    {"sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected"}
)
WORKER_TYPES = frozenset({"worker-online", "worker-heartbeat", "worker-offline"})
_KNOWN = frozenset(f"task-{kind}" for kind in TASK_KINDS) | WORKER_TYPES


class Event(msgspec.Struct, kw_only=True, gc=False):
    """One event as sent. ``timestamp`` 0.0 means the sender's was not usable."""

    type: str
    hostname: str
    timestamp: float
    pid: int = 0
    clock: int = 0
    utcoffset: float | None = None
    uuid: str = ""
    name: str | None = None
    args: str | None = None
    kwargs: str | None = None
    eta: str | float | None = None
    expires: str | float | None = None
    retries: int | None = None
    root_id: str | None = None
    parent_id: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    result: str | None = None
    runtime: float | None = None
    exception: str | None = None
    traceback: str | None = None
    terminated: bool | None = None
    signum: int | str | None = None
    expired: bool | None = None
    requeue: bool | None = None
    freq: float | None = None
    active: int | None = None
    processed: int | None = None
    loadavg: list[float] | None = None
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None
    extra: dict[str, Any] | None = None


class Decoded(msgspec.Struct):
    """What one message held. ``reasons`` has one entry for each malformed or ignored event."""

    events: list[Event] = []
    malformed: int = 0
    ignored: int = 0
    reasons: list[str] = []


def decode(payload: bytes) -> Decoded:
    """The events of a message as kombu's virtual transports publish it (Redis)."""
    if len(payload) > MESSAGE_LIMIT:
        return _refused("message over 8 MiB")
    kind: Any
    text: Any
    try:
        envelope = _fast_envelope(payload)
        kind, encoding, text = envelope.content_type, envelope.properties.body_encoding, envelope.body
    except (msgspec.MsgspecError, ValueError, RecursionError):
        try:
            loose = _loads(payload)
            if not isinstance(loose, dict):
                return _refused("envelope is not an object")
            kind, properties, text = loose.get("content-type"), loose.get("properties"), loose.get("body")
            encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
        except (ValueError, RecursionError, MemoryError):
            return _refused("envelope is not JSON")
    if not isinstance(text, str) or not isinstance(kind, str):
        return _refused("envelope without body or content-type")
    body: bytes | str = text
    if encoding == "base64":
        try:
            body = binascii.a2b_base64(text)
        except (binascii.Error, ValueError):
            return _refused("body is not base64")
    return decode_body(body, kind)


def decode_body(body: bytes | str | dict[str, Any] | list[Any], content_type: str) -> Decoded:
    """The events of a message body; a dict or list is taken as already decoded JSON."""
    if isinstance(body, dict | list):
        return _decode_loose(body)
    kind = content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else ""
    loads = _DECODERS.get(kind)
    if loads is None:
        return _refused(f"content type {_REFUSED_TYPES.get(kind, 'unknown')} is not opened")
    try:
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    except (ValueError, TypeError):
        return _refused("body is not text")
    if len(raw) > MESSAGE_LIMIT:
        return _refused("message over 8 MiB")
    fast, loose = loads
    try:
        events = fast(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError):
        events = None
    if events is not None:
        listed = events if isinstance(events, list) else [events]
        # The fast path holds when nothing has to be looked at twice: known types, no NUL, sane values.
        nul = _NUL_JSON in raw if loads is _JSON else b"\x00" in raw
        if not nul and len(listed) <= EVENTS_LIMIT and all(map(_is_sane, listed)):
            return Decoded(listed)
    return _decode_loose_bytes(raw, loose)


def event_from_dict(d: dict[str, Any]) -> Event:
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
    event = Event(type=kind, hostname=hostname, timestamp=timestamp)
    if kind.startswith("task-"):
        event.uuid = _required(d, "uuid", UUID_LIMIT)
    for field, read in _READERS.items():
        if (raw := d.get(field)) is not None:
            setattr(event, field, read(raw))
    event.pid, event.clock = event.pid or 0, event.clock or 0
    if kind.startswith("task-") and kind not in _KNOWN:
        event.extra = _extra(d)
    return event


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """A text that can be stored and sent anywhere: cut, without NUL and lone surrogates."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _UNSAFE.sub("\ufffd", text) if _UNSAFE.search(text) else text


# private, in the order of use

_UNSAFE = re.compile("[\x00\ud800-\udfff]")


_NUL_JSON = b"\\u0000"


class _Properties(msgspec.Struct, gc=False):
    body_encoding: str | None = None


class _Envelope(msgspec.Struct, rename={"content_type": "content-type"}, gc=False):
    body: str
    content_type: str
    properties: _Properties = msgspec.field(default_factory=_Properties)


_fast_envelope = msgspec.json.Decoder(_Envelope).decode
_Loads = Callable[[bytes], Any]


def _loads(raw: bytes) -> Any:
    # The stdlib's decoder takes NaN, Infinity and lone surrogates, which Python's own encoder writes.
    return json.loads(raw.decode("utf-8", "replace"))


_JSON: tuple[_Loads, _Loads] = (msgspec.json.Decoder(list[Event] | Event).decode, _loads)
_MSGPACK: tuple[_Loads, _Loads] = (
    msgspec.msgpack.Decoder(list[Event] | Event).decode,
    msgspec.msgpack.Decoder().decode,
)
_DECODERS: dict[str, tuple[_Loads, _Loads]] = {
    "application/json": _JSON,
    "application/x-msgpack": _MSGPACK,
    "application/msgpack": _MSGPACK,
}
_REFUSED_TYPES = {
    "application/x-python-serialize": "pickle",
    "application/x-yaml": "yaml",
    "application/data": "raw",
    "application/text": "text",
}


def _refused(reason: str) -> Decoded:
    return Decoded(malformed=1, reasons=[reason])


def _is_sane(e: Event) -> bool:
    # True only when ``event_from_dict`` would leave the event as it is.
    if not (
        0.0 < e.timestamp < LATEST
        and 0 < len(e.hostname) <= UUID_LIMIT
        and 0 <= e.pid < 2**31
        and 0 <= e.clock <= _BIGGEST
        and e.extra is None
        and (e.utcoffset is None or -48 <= e.utcoffset <= 48)
    ):
        return False
    limits = _FAST_TEXTS.get(e.type)
    if limits is None:
        return e.type in WORKER_TYPES and _is_sane_worker(e)
    if not 0 < len(e.uuid) <= UUID_LIMIT:
        return False
    for field, limit in limits:
        text = getattr(e, field)
        if text is not None and (text.__class__ is not str or len(text) > limit):
            return False
    return (
        (e.retries is None or 0 <= e.retries < 2**31)
        and (e.runtime is None or 0 <= e.runtime < LATEST)
        and (e.signum is None or (e.signum.__class__ is int and 0 <= e.signum < 256))
    )


# Only the fields that Celery sends with each type: the others are not read from it.
_SHORT = [("eta", 64), ("expires", 64), ("root_id", UUID_LIMIT), ("parent_id", UUID_LIMIT)]
_CALL = [("name", UUID_LIMIT), ("args", TEXT_LIMIT), ("kwargs", TEXT_LIMIT), *_SHORT]
_ROUTE = [("queue", UUID_LIMIT), ("exchange", UUID_LIMIT), ("routing_key", UUID_LIMIT)]
_RAISED = [("exception", TEXT_LIMIT), ("traceback", TRACEBACK_LIMIT)]
_FAST_TEXTS: dict[str, list[tuple[str, int]]] = {
    "task-sent": _CALL + _ROUTE,
    "task-received": _CALL,
    "task-started": [],
    "task-succeeded": [("result", TEXT_LIMIT)],
    "task-failed": _RAISED,
    "task-retried": _RAISED,
    "task-revoked": [],
    "task-rejected": [],
}


def _is_sane_worker(e: Event) -> bool:
    return (
        (e.processed is None or 0 <= e.processed <= _BIGGEST)
        and (e.active is None or 0 <= e.active < 2**31)
        and (e.freq is None or 0 <= e.freq < LATEST)
        and (e.loadavg is None or len(e.loadavg) <= 3)
        and all(len(text or "") <= NAME_LIMIT for text in (e.sw_ident, e.sw_ver, e.sw_sys))
    )


def _decode_loose_bytes(raw: bytes, loads: _Loads) -> Decoded:
    try:
        return _decode_loose(loads(raw))
    except RecursionError:
        return _refused("body is nested too deep")
    except (msgspec.MsgspecError, ValueError, MemoryError):
        return _refused("body cannot be decoded")


def _decode_loose(body: Any) -> Decoded:
    decoded = Decoded()
    listed = body if isinstance(body, list) else [body]
    for item in listed[:EVENTS_LIMIT]:
        try:
            event = event_from_dict(item)
        except ValueError as reason:
            decoded.malformed += 1
            decoded.reasons.append(str(reason))
            continue
        except RecursionError:
            decoded.malformed += 1
            decoded.reasons.append("event is nested too deep")
            continue
        if event.type in _KNOWN or (event.type.startswith("task-") and len(event.type) > len("task-")):
            decoded.events.append(event)
        else:
            decoded.ignored += 1
            decoded.reasons.append("unknown type of event")
    if (over := len(listed) - EVENTS_LIMIT) > 0:
        decoded.malformed += over
        decoded.reasons.extend(["more than 10,000 events in one message"] * over)
    return decoded


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
    "pid": _count(2**31 - 1),
    "clock": _count(_BIGGEST),
    "utcoffset": _offset,
    "name": _name,
    "args": _text,
    "kwargs": _text,
    "eta": _moment,
    "expires": _moment,
    "retries": _count(2**31 - 1),
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
    "active": _count(2**31 - 1),
    "processed": _count(_BIGGEST),
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
        elif isinstance(raw, int | float) and isfinite(raw) and abs(raw) <= _BIGGEST:
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
