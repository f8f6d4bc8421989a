"""Wire bytes become typed events; the only room that knows Celery's wire names.

Nothing here raises but ``event_from_dict``: what cannot be read is counted with its reason, and one bad
event in a list costs only itself. Pickle, YAML and unknown content types are refused unopened.

Two ways: ``shapes`` parses and checks a whole message at once; what does not fit there goes through
``loose``, field by field. Both end in the same structs. Choices:

- A message over 8 MiB is refused before it is decoded; texts are cut to the limits of ``shapes``.
- ``type``, ``hostname``, ``timestamp`` (and ``uuid`` of a task event) must be there and of the right type,
  else the event is malformed. Any other field of a wrong type is dropped and the event kept.
- A timestamp that is NaN, infinite, not positive or past the year 2100 (milliseconds, say) becomes 0.0, which
  means "use the time of receipt".
- NUL bytes and lone surrogates become U+FFFD: every text can be stored in SQLite and PostgreSQL, and sent.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from monitor.events.loose import clean, event_from_dict, is_known, loads
from monitor.events.shapes import (
    EVENTS_LIMIT,
    EXTRA_LIMIT,
    LATEST,
    NAME_LIMIT,
    TEXT_LIMIT,
    TRACEBACK_LIMIT,
    UUID_LIMIT,
    Custom,
    Event,
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

__all__ = [
    "EXTRA_LIMIT",
    "LATEST",
    "MESSAGE_LIMIT",
    "NAME_LIMIT",
    "TASK_KINDS",
    "TEXT_LIMIT",
    "TRACEBACK_LIMIT",
    "UUID_LIMIT",
    "WORKER_TYPES",
    "Custom",
    "Decoded",
    "Event",
    "Failed",
    "Heartbeat",
    "Received",
    "Rejected",
    "Retried",
    "Revoked",
    "Sent",
    "Started",
    "Succeeded",
    "TaskEvent",
    "WorkerEvent",
    "clean",
    "decode",
    "decode_body",
    "event_from_dict",
]

MESSAGE_LIMIT = 8 * 1024 * 1024  # bytes of one message, before decoding

TASK_KINDS = frozenset(
    {"sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected"}
)
WORKER_TYPES = frozenset({"worker-online", "worker-heartbeat", "worker-offline"})


class Decoded(msgspec.Struct, gc=False):
    """What one message held. ``reasons`` has one entry for each malformed or ignored event."""

    events: Sequence[TaskEvent | WorkerEvent] = ()
    malformed: int = 0
    ignored: int = 0
    reasons: Sequence[str] = ()


def decode(payload: bytes) -> Decoded:
    """The events of a message as kombu's virtual transports publish it (Redis)."""
    if len(payload) > MESSAGE_LIMIT:
        return _refused("message over 8 MiB")
    try:
        # As Celery sends it by default: JSON in base64 in JSON, undone in two steps of one pass each.
        envelope = _base64_envelope(payload)
        body = envelope.body
        if (
            envelope.content_type == "application/json"
            and envelope.properties.body_encoding == "base64"
            and _NUL_JSON not in body
        ):
            events = _fast_json(body)
            if events.__class__ is not list:
                return Decoded([events])
            if len(events) <= EVENTS_LIMIT:
                return Decoded(events)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError):
        pass
    return _decode_any(payload)


def decode_body(body: bytes | str | dict[str, Any] | list[Any], content_type: str) -> Decoded:
    """The events of a message body; a dict or list is taken as already decoded JSON."""
    if isinstance(body, dict | list):
        return _decode_loose(body)
    kind = content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else ""
    decoders = _DECODERS.get(kind)
    if decoders is None:
        return _refused(f"content type {_REFUSED_TYPES.get(kind, 'unknown')} is not opened")
    try:
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    except (ValueError, TypeError):
        return _refused("body is not text")
    if len(raw) > MESSAGE_LIMIT:
        return _refused("message over 8 MiB")
    fast, loose, nul = decoders
    if nul not in raw:
        try:
            events = fast(raw)
            listed = events if isinstance(events, list) else [events]
            if len(listed) <= EVENTS_LIMIT:
                return Decoded(listed)
        except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError):
            pass
    try:
        return _decode_loose(loose(raw))
    except RecursionError:
        return _refused("body is nested too deep")
    except (msgspec.MsgspecError, ValueError, MemoryError):
        return _refused("body cannot be decoded")


# private, in the order of use

_NUL_JSON = b"\\u0000"


class _Properties(msgspec.Struct, gc=False):
    body_encoding: str | None = None


class _Envelope(msgspec.Struct, rename={"content_type": "content-type"}, gc=False):
    body: bytes  # as bytes, so that its base64 is undone while the envelope is parsed
    content_type: str
    properties: _Properties = msgspec.field(default_factory=_Properties)


_base64_envelope = msgspec.json.Decoder(_Envelope).decode

_Standard = (
    Received
    | Sent
    | Started
    | Succeeded
    | Failed
    | Retried
    | Revoked
    | Rejected
    | Online
    | Heartbeat
    | Offline
)
_Loads = Callable[[bytes], Any]
_fast_json: _Loads = msgspec.json.Decoder(list[_Standard] | _Standard).decode
_fast_msgpack: _Loads = msgspec.msgpack.Decoder(list[_Standard] | _Standard).decode
# The fast way, the slow way, and what sends a body from the first to the second.
_JSON: tuple[_Loads, _Loads, bytes] = (_fast_json, loads, _NUL_JSON)
_MSGPACK: tuple[_Loads, _Loads, bytes] = (_fast_msgpack, msgspec.msgpack.Decoder().decode, b"\x00")
_DECODERS = {
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
    return Decoded([], 1, 0, [reason])


def _decode_any(payload: bytes) -> Decoded:
    try:
        envelope = loads(payload)
    except (ValueError, RecursionError, MemoryError):
        return _refused("envelope is not JSON")
    if not isinstance(envelope, dict):
        return _refused("envelope is not an object")
    kind, properties, text = envelope.get("content-type"), envelope.get("properties"), envelope.get("body")
    if not isinstance(text, str) or not isinstance(kind, str):
        return _refused("envelope without body or content-type")
    body: bytes | str = text
    if isinstance(properties, dict) and properties.get("body_encoding") == "base64":
        try:
            body = binascii.a2b_base64(text)
        except (binascii.Error, ValueError):
            return _refused("body is not base64")
    return decode_body(body, kind)


def _decode_loose(body: Any) -> Decoded:
    events: list[TaskEvent | WorkerEvent] = []
    reasons: list[str] = []
    malformed = ignored = 0
    listed = body if isinstance(body, list) else [body]
    for item in listed[:EVENTS_LIMIT]:
        try:
            event = event_from_dict(item)
        except ValueError as reason:
            malformed += 1
            reasons.append(str(reason))
            continue
        except RecursionError:
            malformed += 1
            reasons.append("event is nested too deep")
            continue
        if is_known(event):
            events.append(event)
        else:
            ignored += 1
            reasons.append("unknown type of event")
    if (over := len(listed) - EVENTS_LIMIT) > 0:
        malformed += over
        reasons.extend(["more than 10,000 events in one message"] * over)
    return Decoded(events, malformed, ignored, reasons)
