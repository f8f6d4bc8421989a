"""The decoder never raises, opens nothing it must not, and one bad event costs only itself."""

from __future__ import annotations

import base64
import json
import pickle
import random
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitor.cluster import Cluster
from monitor.events import (
    MESSAGE_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    Decoded,
    decode,
    decode_body,
    event_from_dict,
)

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("wire_*.json"))
STARTED = {
    "type": "task-started",
    "hostname": "w@h",
    "pid": 1,
    "clock": 2,
    "timestamp": 1795361239.5,
    "uuid": "u1",
}
RECEIVED = STARTED | {
    "type": "task-received",
    "name": "shop.pay",
    "args": "(1,)",
    "kwargs": "{}",
    "retries": 0,
    "eta": None,
    "expires": None,
    "root_id": "u1",
    "parent_id": None,
    "utcoffset": -5.5,
}
HEARTBEAT = {
    "type": "worker-heartbeat",
    "hostname": "w@h",
    "pid": 1,
    "clock": 3,
    "timestamp": 1795361239.5,
    "freq": 2.0,
    "active": 0,
    "processed": 4,
    "loadavg": [0.1, 0.2, 0.3],
    "sw_ident": "py-celery",
    "sw_ver": "5.7.0",
    "sw_sys": "Linux",
}


def envelope(body: Any, kind: str = "application/json", encoding: str = "base64") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    text = base64.b64encode(raw).decode() if encoding == "base64" else raw.decode()
    return json.dumps(
        {
            "body": text,
            "content-type": kind,
            "content-encoding": "utf-8",
            "properties": {"body_encoding": encoding},
        }
    ).encode()


def wire(path: Path) -> list[bytes]:
    messages = json.loads(path.read_text())["messages"]
    return [p.encode() for _, channel, p in messages if "celeryev" in channel or "myevents" in channel]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recorded_event_is_decoded(path: Path) -> None:
    types: dict[str, int] = {}
    for payload in wire(path):
        decoded = decode(payload)
        assert (decoded.malformed, decoded.ignored) == (0, 0)
        for event in decoded.events:
            types[event.type] = types.get(event.type, 0) + 1
    assert types == json.loads(path.read_text())["types"]


@pytest.mark.parametrize("encoding", ["base64", "utf-8"])
def test_one_event_and_a_list_are_read_alike(encoding: str) -> None:
    one = decode(envelope(RECEIVED, encoding=encoding)).events
    two = decode(envelope([RECEIVED, STARTED], encoding=encoding)).events
    assert one[0] == two[0] == event_from_dict(RECEIVED)
    assert (one[0].name, one[0].args, one[0].retries, one[0].utcoffset) == ("shop.pay", "(1,)", 0, -5.5)
    assert two[1].uuid == "u1"


def test_the_fast_and_the_slow_way_agree_on_recordings() -> None:
    for path in RECORDINGS:
        for payload in wire(path):
            for event in decode(payload).events:
                d = {
                    k: v
                    for k, v in msgspec.to_builtins(event).items()
                    if v is not None and k != "extra" and k[0] != "_"
                }
                assert event_from_dict(d | (getattr(event, "extra", None) or {})) == event


def test_msgpack_bodies_are_read() -> None:
    body = msgspec.msgpack.encode([RECEIVED, HEARTBEAT])
    assert len(decode(envelope(body, "application/x-msgpack")).events) == 2
    assert decode_body(body, "application/msgpack").events[1].processed == 4


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("application/x-python-serialize", "content type pickle is not opened"),
        ("application/x-yaml", "content type yaml is not opened"),
        ("application/unheard-of", "content type unknown is not opened"),
        ("", "content type unknown is not opened"),
    ],
)
def test_other_content_types_are_refused_with_the_reason(kind: str, reason: str) -> None:
    decoded = decode(envelope(RECEIVED, kind))
    assert (decoded.events, decoded.malformed, decoded.reasons) == ([], 1, [reason])


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "opened"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (canary,))

    raw = pickle.dumps(Bomb())
    decode(envelope(raw, "application/x-python-serialize"))
    decode(envelope(raw))
    decode_body(raw, "application/x-python-serialize")
    decode_body(raw, "application/json")
    assert not canary.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"17",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe\x00",
        b"\x00" * 50,
        b'{"body": 5, "content-type": "application/json"}',
        b'{"body": "e30=", "content-type": 5}',
        b'{"body": "e30=", "content-type": "application/json", "properties": 3}',
        b'{"body": "%%%", "content-type": "application/json", "properties": {"body_encoding": "base64"}}',
        b'{"body": "abc", "content-type": "application/json", "properties": {"body_encoding": "base64"}}',
        b'{"body": null, "content-type": "application/json"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        envelope(b"[" * 100_000),
        envelope(b'{"a":' * 100_000),
        envelope(b"\xff\xfe"),
        envelope(b""),
        envelope(b"\x93\x8f\xa8host", "application/x-msgpack"),
        envelope(b"\x91" * 100_000, "application/x-msgpack"),
        envelope(b"9" * 10_000),
    ],
)
def test_a_broken_envelope_or_body_is_one_malformed_and_nothing_more(payload: bytes) -> None:
    decoded = decode(payload)
    assert (decoded.events, decoded.malformed, len(decoded.reasons)) == ([], 1, 1)


@pytest.mark.parametrize("field", ["type", "hostname", "timestamp", "uuid"])
@pytest.mark.parametrize("value", ["absent", None, 5, "", [], {}, True, 1e400])
def test_what_must_be_there_is_missing_or_wrong(field: str, value: Any) -> None:
    broken = {k: v for k, v in RECEIVED.items() if k != field}
    if value != "absent":
        broken[field] = value
    decoded = decode(envelope([STARTED, broken, HEARTBEAT]))
    if field == "timestamp" and value in (5, 1e400) and value is not True:
        assert len(decoded.events) == 3
        return
    assert [event.type for event in decoded.events] == ["task-started", "worker-heartbeat"]
    assert decoded.malformed == 1
    assert field in decoded.reasons[0]


WRONG: list[Any] = [
    None,
    True,
    5,
    -5,
    1.5,
    10**400,
    -(2**63),
    2**63,
    "",
    "x",
    "x" * 20_000,
    [],
    [1],
    {},
    {"a": [{}]},
]
OPTIONAL = sorted((set(RECEIVED) | set(HEARTBEAT)) - {"type", "hostname", "timestamp", "uuid"})


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
def test_a_wrong_optional_field_costs_only_itself(field: str, value: Any) -> None:
    base = HEARTBEAT if field in HEARTBEAT else RECEIVED
    decoded = decode(envelope([base | {field: value}, STARTED]))
    assert len(decoded.events) == 2
    cluster = Cluster()
    for event in decoded.events:
        cluster.apply(event, 1.0)
    cluster.absorb([])
    for record in cluster.drain(1.0):
        msgspec.json.encode(record)
        for name in ("pid", "clock", "processed", "retries", "busy"):
            number = getattr(record, name, None)
            assert number is None or -1 <= number < 2**63


@pytest.mark.parametrize("item", [None, 5, "x", [], [[]], True, {}, {"type": "task-started"}])
def test_items_that_are_no_events_are_counted_one_by_one(item: Any) -> None:
    decoded = decode(envelope([item, STARTED, item]))
    assert (len(decoded.events), decoded.malformed) == (1, 2)


@pytest.mark.parametrize(
    "stamp", ["NaN", "Infinity", "-Infinity", "-5", "0", "1795361237399", "1e308", "9" * 400]
)
def test_an_absurd_time_is_left_to_the_receipt(stamp: str) -> None:
    raw = json.dumps(STARTED).replace("1795361239.5", stamp).encode()
    (event,) = decode(envelope(raw)).events
    assert event.timestamp == 0.0


def test_nan_in_a_load_does_not_cost_the_heartbeat() -> None:
    raw = json.dumps(HEARTBEAT | {"loadavg": [float("nan"), 1.0, float("inf")]}).encode()
    (event,) = decode(envelope(raw)).events
    assert (event.loadavg, event.processed) == ([1.0], 4)


def test_nul_and_lone_surrogates_are_made_storable_and_sendable() -> None:
    hostile = "a\x00b\ud800c\udfff"
    raw = json.dumps([RECEIVED | dict.fromkeys(("name", "args", "hostname", "uuid"), hostile)]).encode()
    (event,) = decode(envelope(raw)).events
    for text in (event.name, event.args, event.hostname, event.uuid):
        assert text == "a\ufffdb\ufffdc\ufffd"
        sqlite3.connect(":memory:").execute("SELECT ?", [text])
    body = msgspec.msgpack.encode(RECEIVED | {"name": "a\x00b"})
    assert decode_body(body, "application/x-msgpack").events[0].name == "a\ufffdb"


def test_long_texts_are_cut_and_long_names_too() -> None:
    (event,) = decode(
        envelope(RECEIVED | {"args": "x" * 1_000_000, "name": "n" * 9000, "hostname": "h" * 9000})
    ).events
    assert event.args is not None
    assert event.name is not None
    assert (len(event.args), len(event.name), len(event.hostname)) == (TEXT_LIMIT, NAME_LIMIT, NAME_LIMIT)
    assert event.args.endswith("…")


def test_a_ten_megabyte_argument_is_refused_before_it_is_decoded() -> None:
    payload = envelope(RECEIVED | {"args": "x" * 10_000_000})
    assert len(payload) > MESSAGE_LIMIT
    assert decode(payload).reasons == ["message over 8 MiB"]
    assert decode_body(b" " * (MESSAGE_LIMIT + 1), "application/json").reasons == ["message over 8 MiB"]


def test_hostile_names_go_through_unharmed() -> None:
    for name in ("<img src=x onerror=alert(1)>", "a/../b", "'\"`", "{{ 7*7 }}", "%s%n", "\u202etxt", "é💥"):
        (event,) = decode(envelope(RECEIVED | {"name": name, "hostname": name})).events
        assert (event.name, event.hostname) == (name, name)


def test_custom_task_events_keep_their_extras_bounded() -> None:
    custom = STARTED | {
        "type": "task-progress",
        "current": 1,
        "deep": {"a": [1, 2]},
        "big": "x" * 9000,
        "nan": None,
    }
    custom |= {f"field{n}": n for n in range(1000)}
    (event,) = decode(envelope(custom)).events
    assert event.extra is not None
    assert (event.extra["current"], event.extra["deep"]) == (1, '{"a": [1, 2]}')
    assert len(event.extra) <= 32
    assert len(json.dumps(event.extra)) < 6_000


def test_unknown_groups_are_ignored_and_counted() -> None:
    events = [STARTED | {"type": t} for t in ("job-started", "worker-strange", "task-", "x", "task")]
    decoded = decode(envelope([*events, STARTED]))
    assert (len(decoded.events), decoded.ignored, decoded.malformed) == (1, 5, 0)
    assert len(decoded.reasons) == 5


def test_a_hundred_thousand_events_in_one_message_are_bounded() -> None:
    small = {"type": "x", "hostname": "h", "timestamp": 1}
    decoded = decode(envelope([small] * 100_000))
    assert decoded.ignored == 10_000
    assert decoded.malformed == 90_000
    assert len(decoded.reasons) <= 100_000


def test_a_decoded_body_is_taken_as_it_is() -> None:
    assert decode_body(dict(RECEIVED), "").events == [event_from_dict(RECEIVED)]
    assert len(decode_body([RECEIVED, 5], "").events) == 1
    assert decode_body(json.dumps(RECEIVED), "application/json; charset=utf-8").events[0].uuid == "u1"


def test_an_event_from_a_dict_says_why_it_is_none() -> None:
    with pytest.raises(ValueError, match="uuid is missing"):
        event_from_dict({k: v for k, v in STARTED.items() if k != "uuid"})


def mutate(rng: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(5)
        if how == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif how == 1:
            del data[at : at + rng.randint(1, 30)]
        elif how == 2:
            data[at:at] = rng.choice(
                [b'"', b"{", b"null", b"\x00", b"\\u0000", b"1e999", b"\xff", b"[", b"\\ud800"]
            )
        elif how == 3:
            data[at:at] = data[: rng.randint(0, 40)]
        else:
            data = data[:at]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_events_never_raise_and_always_balance(seed: int) -> None:
    rng = random.Random(seed)
    bodies = []
    for payload in wire(RECORDINGS[0]) + wire(next(p for p in RECORDINGS if p.stem == "wire_prefork_E")):
        outer = json.loads(payload)
        is_base64 = outer["properties"]["body_encoding"] == "base64"
        bodies.append(base64.b64decode(outer["body"]) if is_base64 else outer["body"].encode())
    cluster = Cluster()
    for n in range(1_500):
        body = mutate(rng, rng.choice(bodies))
        decoded: Decoded = rng.choice(
            [
                lambda body=body: decode(envelope(body)),
                lambda body=body: decode_body(body, "application/json"),
                lambda body=body: decode_body(body, "application/x-msgpack"),
                lambda body=body: decode(mutate(rng, envelope(body))),
            ]
        )()
        assert len(decoded.reasons) == decoded.malformed + decoded.ignored
        cluster.count(decoded)
        for event in decoded.events:
            cluster.apply(event, 1795361240.0 + n)
    cluster.tick(1795361240.0)
    cluster.absorb([])
    for record in cluster.drain(1795361240.0):
        json.loads(msgspec.json.encode(record))
        msgspec.json.encode(record).decode("utf-8")
    assert cluster.accounting.balanced
