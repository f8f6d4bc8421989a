"""Ends of tasks out of a Redis result backend: read as JSON text, never through ``AsyncResult``, redacted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import redis

from monitor.records import ENDED, Settled
from monitor.redact import Redactor

# Longest result text parsed, in bytes: a larger one is not worth the stall.
RESULT_LIMIT = 4 * 1024 * 1024
AT_ONCE = 500  # results in one MGET
# Bounds of one search: keys looked at, ends taken, seconds.
MOST_KEYS, MOST_ENDS, MOST_SECONDS = 500_000, 50_000, 20.0

T = TypeVar("T")
_META = "celery-task-meta-"
# Of celery.contrib.abortable; no end, so what a task writes at its own end takes its place.
ABORTED = "ABORTED"
TRIES = 5


class Inputs(msgspec.Struct):
    """What a result says its task was sent with, where ``result_extended`` is on; not redacted."""

    args: list[Any]
    kwargs: dict[str, Any]
    name: str = ""
    queue: str = ""  # the routing key, which most often is the queue


class Search(msgspec.Struct):
    """What a search of the result backend found, and whether it was cut short by a bound."""

    ends: list[Settled] = []
    keys: int = 0  # results that it looked at
    cut: bool = False


class Results:
    """The results of one cluster behind ``client``; ``prefix`` is its ``result_key_prefix``."""

    def __init__(self, client: redis.Redis, prefix: str, redactor: Redactor) -> None:
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        self._client, self._redactor = client, redactor
        self._prefix = f"{prefix}{_META}"

    def read(self, uuids: Iterable[str]) -> list[Settled]:
        """The ends of these tasks, as far as they are there. Raises ``redis.RedisError``."""
        return list(self._each(uuids, lambda uuid, text: _settled(uuid, text, self._redactor)).values())

    def inputs(self, uuids: Iterable[str]) -> dict[str, Inputs]:
        """What these tasks were sent with, for sending them again; never for a page.

        Raises ``redis.RedisError``.
        """
        return self._each(uuids, lambda _, text: _inputs(text))

    def search(
        self,
        since: float,
        until: float,
        is_known: Callable[[str], bool],
        *,
        most_seconds: float = MOST_SECONDS,
    ) -> Search:
        """Ends with a ``date_done`` in this time, of tasks that are not known: SCAN, bounded in all it does.

        A result is only looked at for its date unless it lies in the time. Raises ``redis.RedisError``.
        """
        search = Search()
        deadline = time.monotonic() + most_seconds
        cursor: Any = 0
        escaped = "".join("\\" + c if c in "*?[]^\\" else c for c in self._prefix)
        start = len(self._prefix)
        while True:
            cursor, keys = self._scan(cursor, f"{escaped}*")
            names = [key.decode(errors="replace") for key in keys]
            names = [name for name in names if not is_known(name[start:])]
            search.keys += len(keys)
            for name, text in zip(names, self._texts(names) if names else [], strict=True):
                if _is_within(text, since, until):
                    settled = _settled(name[start:], text, self._redactor)
                    if settled is not None:
                        search.ends.append(settled)
            if not cursor:
                return search
            if search.keys >= MOST_KEYS or len(search.ends) >= MOST_ENDS or time.monotonic() > deadline:
                search.cut = True
                return search

    def metas(self, uuids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is stored of these tasks, not redacted. Raises ``redis.RedisError``."""
        return self._each(uuids, lambda _, text: _meta(text))

    def abort(self, uuid: str, expires: int) -> str:
        """Write ABORTED as ``AbortableAsyncResult.abort`` does, unless an end is there; the state it has now.

        A key that is there keeps its time to live; a new one has ``expires`` seconds, 0 for ever. Raises
        ``redis.RedisError``.
        """
        key = self._prefix + uuid
        meta = {"status": ABORTED, "result": None, "traceback": None, "children": None, "date_done": None}
        text = json.dumps({**meta, "task_id": uuid})
        for _ in range(TRIES):
            with self._client.pipeline() as pipe:
                try:
                    pipe.watch(key)
                    there: Any = pipe.get(key)
                    ttl: Any = pipe.pttl(key)
                    state = str((_meta(there) or {}).get("status", "")) if there is not None else ""
                    if state in ENDED:
                        return state
                    pipe.multi()
                    if ttl > 0:
                        pipe.set(key, text, px=ttl)
                    elif there is None and expires:
                        pipe.set(key, text, ex=expires)
                    else:
                        pipe.set(key, text)
                    # Who waits for the result is told, as Celery's backend tells them.
                    pipe.publish(key, text)
                    pipe.execute()
                    return ABORTED
                except redis.WatchError:
                    continue
        raise redis.RedisError(f"The result of {uuid} changed {TRIES} times while it was written.")

    def _scan(self, cursor: Any, pattern: str) -> tuple[Any, list[bytes]]:
        found: Any = self._client.scan(cursor, match=pattern, count=AT_ONCE)
        return found[0], list(found[1])

    def _each(self, uuids: Iterable[str], of: Callable[[str, Any], T | None]) -> dict[str, T]:
        """What is told of each, by id; those of which nothing is are left out."""
        names = list(uuids)
        found: dict[str, T] = {}
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            for uuid, text in zip(part, self._texts([self._prefix + uuid for uuid in part]), strict=True):
                if (told := of(uuid, text)) is not None:
                    found[uuid] = told
        return found

    def _texts(self, keys: list[str]) -> list[Any]:
        texts: Any = self._client.mget(keys)
        return list(texts)


class _Done(msgspec.Struct):
    """As much of a result as tells when it was written."""

    status: str = ""
    date_done: str | None = None


_done = msgspec.json.Decoder(_Done)


def _is_within(text: Any, since: float, until: float) -> bool:
    if not isinstance(text, bytes | str) or len(text) > RESULT_LIMIT:
        return False
    try:
        done = _done.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    at = seconds(done.date_done)
    return done.status in ENDED and at is not None and since <= at <= until


def _inputs(text: Any) -> Inputs | None:
    if not isinstance(text, bytes | str) or len(text) > RESULT_LIMIT:
        return None
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        return None
    args, kwargs = (meta.get("args"), meta.get("kwargs")) if isinstance(meta, dict) else (None, None)
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return None
    name, queue = meta.get("name"), meta.get("queue")
    return Inputs(
        args, kwargs, name if isinstance(name, str) else "", queue if isinstance(queue, str) else ""
    )


def _meta(text: Any) -> dict[str, Any] | None:
    if not isinstance(text, bytes | str) or len(text) > RESULT_LIMIT:
        return None
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None


def _settled(uuid: str, text: Any, redactor: Redactor) -> Settled | None:
    meta = _meta(text)
    if meta is None or meta.get("status") not in ENDED:
        return None
    state = str(meta["status"])
    result = exception = trace = None
    if state == "SUCCESS":
        result = _text(meta.get("result"), redactor)
    else:
        exception = _exception(meta.get("result"), redactor)
        trace = redactor.text(meta["traceback"]) if isinstance(meta.get("traceback"), str) else None
    return Settled(
        uuid=uuid,
        state=state,
        ended_at=seconds(meta.get("date_done")),
        result=result,
        exception=exception,
        traceback=trace,
        name=redactor.text(str(meta.get("name") or ""))[:255],
        worker=str(meta.get("worker") or "")[:255],
        args=_text(meta["args"], redactor) if meta.get("args") is not None else None,
        kwargs=_text(meta["kwargs"], redactor) if meta.get("kwargs") is not None else None,
    )


def _text(value: Any, redactor: Redactor) -> str:
    clean = redactor.value(value)
    return redactor.text(clean if isinstance(clean, str) else repr(clean))


def _exception(value: Any, redactor: Redactor) -> str:
    if isinstance(value, dict) and isinstance(value.get("exc_type"), str):
        message = value.get("exc_message")
        shown = message if isinstance(message, list | tuple) else [message]
        inside = ", ".join(repr(part) for part in shown if part is not None)
        return redactor.text(f"{value['exc_type']}({inside})")
    return _text(value, redactor)


def seconds(value: Any) -> float | None:
    """Unix seconds of an ISO text; None when it is none."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            at = datetime.fromisoformat(value)
            # Celery writes UTC without saying so.
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return None
