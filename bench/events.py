"""Celery 5.7's events as bytes on the wire, from prepared pieces: the same bytes as ``json.dumps`` gives.

An event is a JSON text in the order of fields that Celery uses; a message is kombu's envelope around one
event or a list of them; a command is the RESP of its PUBLISH. Real workers' bytes are held against them
in tests/test_bench.py.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from json import dumps

EXCHANGE = "celeryev"


class Sender:
    """One process that sends events: its texts that never change, and its Lamport clock."""

    __slots__ = ("active", "buffer", "clock", "head", "hostname", "left", "pid", "processed", "tails")

    def __init__(self, hostname: str, pid: int, utcoffset: float = 0.0) -> None:
        self.hostname, self.pid = hostname, pid
        self.clock = self.processed = self.active = 0
        self.buffer: list[str] = []  # task events that wait for their message
        self.left = 1  # events until that message goes
        self.head = f'{{"hostname": {dumps(hostname)}, "utcoffset": {utcoffset!r}, "pid": {pid}, "clock": '
        self.tails = {key: _tail(hostname, key) for key in ("task.multi", "task.sent", *WORKER_KEYS)}

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    # Texts are given as JSON already: the pools of the generator encode theirs once.

    def sent(self, uuid: str, call: str, retries: int, eta: str, kin: str, queue: str, at: float) -> str:
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", {kin}, {call}, "retries": {retries}, "eta": {eta}, '
            f'"expires": null, "queue": "{queue}", "exchange": "", "routing_key": "{queue}", '
            f'"timestamp": {at!r}, "type": "task-sent"}}'
        )

    def received(self, uuid: str, call: str, retries: int, eta: str, kin: str, at: float) -> str:
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", {call}, {kin}, "retries": {retries}, "eta": {eta}, '
            f'"expires": null, "timestamp": {at!r}, "type": "task-received"}}'
        )

    def started(self, uuid: str, at: float) -> str:
        return f'{self.head}{self.tick()}, "uuid": "{uuid}", "timestamp": {at!r}, "type": "task-started"}}'

    def succeeded(self, uuid: str, result: str, runtime: float, at: float) -> str:
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", "result": {result}, "runtime": {runtime!r}, '
            f'"timestamp": {at!r}, "type": "task-succeeded"}}'
        )

    def raised(self, kind: str, uuid: str, error: str, at: float) -> str:
        """``kind``: failed or retried; ``error`` holds exception and traceback."""
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", {error}, "timestamp": {at!r}, '
            f'"type": "task-{kind}"}}'
        )

    def revoked(self, uuid: str, how: str, at: float) -> str:
        """``how``: one of ``REVOKED``, ``EXPIRED``, ``TERMINATED``."""
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", {how}, "timestamp": {at!r}, '
            '"type": "task-revoked"}'
        )

    def rejected(self, uuid: str, requeue: bool, at: float) -> str:
        return (
            f'{self.head}{self.tick()}, "uuid": "{uuid}", "requeue": {"true" if requeue else "false"}, '
            f'"timestamp": {at!r}, "type": "task-rejected"}}'
        )

    def state(self, kind: str, load: Sequence[float], at: float) -> str:
        """``kind``: online, heartbeat or offline."""
        return (
            f'{self.head}{self.tick()}, "freq": 2.0, "active": {self.active}, "processed": {self.processed}, '
            f'"loadavg": {dumps([*load])}, "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux", '
            f'"timestamp": {at!r}, "type": "worker-{kind}"}}'
        )


WORKER_KEYS = ("worker.online", "worker.heartbeat", "worker.offline")
REVOKED = '"terminated": false, "signum": null, "expired": false'
EXPIRED = '"terminated": false, "signum": null, "expired": true'
TERMINATED = '"terminated": true, "signum": 15, "expired": false'


def call(name: str, args: str, kwargs: str) -> str:
    return f'"name": {dumps(name)}, "args": {dumps(args)}, "kwargs": {dumps(kwargs)}'


def kin(root: str, parent: str | None) -> str:
    return f'"root_id": "{root}", "parent_id": ' + (f'"{parent}"' if parent else "null")


def error(exception: str, traceback: str) -> str:
    return f'"exception": {dumps(exception)}, "traceback": {dumps(traceback)}'


def payload(sender: Sender, key: str, body: str, tag: str) -> bytes:
    """The message that is published: the envelope with the body in base64."""
    encoded = b2a_base64(body.encode(), newline=False)
    return b'{"body": "' + encoded + sender.tails[key] + tag.encode() + b'"}}'


def command(sender: Sender, key: str, body: str, tag: str, prefix: str = "/0.") -> bytes:
    """RESP of ``PUBLISH {prefix}celeryev/{key} {payload}``."""
    message = payload(sender, key, body, tag)
    channel = f"{prefix}{EXCHANGE}/{key}"
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (
        len(channel),
        channel.encode(),
        len(message),
        message,
    )


def _tail(hostname: str, key: str) -> bytes:
    return (
        '", "content-encoding": "utf-8", "content-type": "application/json", '
        f'"headers": {{"hostname": {dumps(hostname)}}}, "properties": {{"delivery_mode": 1, '
        f'"delivery_info": {{"exchange": "{EXCHANGE}", "routing_key": "{key}"}}, "priority": 0, '
        '"body_encoding": "base64", "delivery_tag": "'
    ).encode()
