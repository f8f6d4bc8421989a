"""The one Celery client of Umbel: where the broker is, how to reach it, and how never to disturb it.

A kombu consumer on Redis puts other people's unacknowledged messages back by *its own* visibility timeout,
and so starts their tasks twice. Umbel therefore waits for replies without any kombu consumer (see
``control.asking``), and the app made here could not restore a message if it tried: its timeout is decades,
its limit none, its keys its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis
from celery import Celery
from kombu.connection import Connection
from redis.sentinel import Sentinel

from monitor.records import Settled
from monitor.redact import DEFAULT, Redactor
from monitor.results import Inputs, Results, Search

# Seconds; the least that is safe is ten years.
VISIBILITY_TIMEOUT = 20 * 365 * 24 * 3600
CONNECT_TIMEOUT = 4.0

_HARMLESS = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "unacked_restore_limit": 0,
    "unacked_restore_interval": 3600,
    "unacked_restore_throttle": 1_000_000_000,
    # Names that no worker uses: what kombu would look through is empty, and its mutex holds up nobody.
    "unacked_key": "umbel.unacked",
    "unacked_index_key": "umbel.unacked_index",
    "unacked_mutex_key": "umbel.unacked_mutex",
}
_REDIS = frozenset({"redis", "rediss", "redis+socket", "unix", "socket", "sentinel", "valkey", "valkeys"})


class EventChannel(NamedTuple):
    """Where a Redis broker publishes events: PSUBSCRIBE when ``pattern``, else SUBSCRIBE."""

    name: str
    pattern: bool


class Broker:
    """A broker by URL: redis, rediss, redis+socket (or unix), sentinel, amqp, amqps or memory.

    ``key_prefix`` is the cluster's ``global_keyprefix``; ``exchange`` its ``event_exchange``;
    ``control_exchange``, ``fanout_prefix`` and ``fanout_patterns`` are Celery's and kombu's settings of those
    names, as the workers have them.
    """

    def __init__(
        self,
        url: str,
        *,
        result_backend: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
        result_key_prefix: str = "",
        key_prefix: str = "",
        exchange: str = "celeryev",
        control_exchange: str = "celery",
        fanout_prefix: bool | str = True,
        fanout_patterns: bool = True,
        ssl: Mapping[str, Any] | bool | None = None,
        redactor: Redactor = DEFAULT,
    ) -> None:
        options = dict(transport_options or {})
        self.url = _kombu_url(url)
        self.scheme = urlsplit(url).scheme
        self.transport = "redis" if self.scheme in _REDIS else self.scheme.removesuffix("s") or "amqp"
        self.key_prefix = key_prefix or str(options.get("global_keyprefix", ""))
        self.exchange, self.control_exchange = exchange, control_exchange
        self.fanout_prefix = options.get("fanout_prefix", fanout_prefix)
        self.fanout_patterns = bool(options.get("fanout_patterns", fanout_patterns))
        self.result_backend = result_backend
        self.result_key_prefix = result_key_prefix
        self.ssl = ssl
        self.redactor = redactor
        # Where the cluster's workers keep what they have not acknowledged, and how they name priorities.
        self.unacked_key = str(options.get("unacked_key", "unacked"))
        self.unacked_index_key = str(options.get("unacked_index_key", "unacked_index"))
        self.unacked_mutex_key = str(options.get("unacked_mutex_key", "unacked_mutex"))
        self.priority_steps = _steps(options.get("priority_steps"))
        self.priority_separator = str(options.get("sep", "\x06\x16"))
        self.options = self._transport_options(options)
        self.app = self._app()
        self._results: redis.Redis | None = None
        self._client: redis.Redis | None = None

    @property
    def shown(self) -> str:
        """The URL as it may be shown: without its password."""
        return ";".join(self.redactor.url(part) for part in self.url.split(";"))

    @property
    def database(self) -> int:
        """The number of the Redis database."""
        parts = urlsplit(self.url)
        if parts.scheme == "redis+socket":
            name = dict(parse_qsl(parts.query)).get("virtual_host", "").strip("/")
        else:
            name = str(Connection(self.url).virtual_host or "").strip("/")
        if not name:
            return 0
        try:
            return int(name)
        except ValueError:
            raise ValueError(f"{self.shown} names the database {name!r}; on Redis it is a number.") from None

    def event_channel(self) -> EventChannel:
        """Where events are published on Redis, with the characters that a pattern would read escaped."""
        prefix = self.fanout_prefix if isinstance(self.fanout_prefix, str) else "/{db}."
        prefix = prefix.replace("{db}", str(self.database)) if self.fanout_prefix else ""
        name = f"{self.key_prefix}{prefix}{self.exchange}"
        if not self.fanout_patterns:
            return EventChannel(name, False)
        return EventChannel("".join("\\" + c if c in "*?[]^\\" else c for c in name) + "/*", True)

    def explain(self, error: BaseException) -> str:
        """One redacted line that says why the broker could not be used."""
        text = " ".join(str(error).split()) or type(error).__name__
        password = unquote(urlsplit(self.url).password or "")
        if len(password) > 3:
            text = text.replace(password, "[hidden]")
        return f"{self.redactor.text(text)[:300]}"

    @property
    def results_reason(self) -> str:
        """Why ``read_results`` cannot read: '' when it can."""
        if not self.result_backend:
            return "No result backend is set, so ends that were missed cannot be read (--result-backend)."
        scheme = urlsplit(self.result_backend).scheme
        if scheme not in _REDIS:
            return f"Results are in {scheme or 'an unknown place'}; Umbel reads them from Redis only."
        return ""

    def read_results(self, uuids: Iterable[str]) -> list[Settled]:
        """The ends of these tasks that the Redis result backend knows, redacted; [] for any other backend.

        Plain MGET and JSON text: no ``AsyncResult``, no pickle, no exception rebuilt. Raises
        ``redis.RedisError``.
        """
        names = list(uuids)
        if not names or self.results_reason:
            return []
        return self._read_from().read(names)

    def read_inputs(self, uuids: Iterable[str]) -> dict[str, Inputs]:
        """What these tasks were sent with, see ``Results.inputs``; {} for any backend but Redis."""
        names = list(uuids)
        return self._read_from().inputs(names) if names and not self.results_reason else {}

    def search_results(self, since: float, until: float, is_known: Callable[[str], bool]) -> Search:
        """Ends in this time of tasks not known, see ``Results.search``; none on other backends."""
        return Search() if self.results_reason else self._read_from().search(since, until, is_known)

    def result_metas(self, uuids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What the Redis result backend holds of these tasks, not redacted: for comparing, never for showing.

        Raises ``redis.RedisError``.
        """
        return {} if self.results_reason else self._read_from().metas(uuids)

    def result_states(self, uuids: Iterable[str]) -> dict[str, str]:
        """The state of each of these tasks that the backend knows. Raises ``redis.RedisError``."""
        return {uuid: str(meta.get("status", "")) for uuid, meta in self.result_metas(uuids).items()}

    def abort(self, uuid: str, expires: int) -> str:
        """Write ABORTED into the result backend, see ``Results.abort``; only after ``results_reason``."""
        return self._read_from().abort(uuid, expires)

    def close(self) -> None:
        """Let every connection go."""
        # kombu keeps one pool for all who use this URL: it stays open for them.
        self.app.pool.force_close_all(close_pool=False)
        for client in (self._results, self._client):
            if client is not None:
                client.close()
        self._results = self._client = None

    def client(self) -> redis.Redis:
        """A plain client of a Redis broker, for reading only; the key prefix is not applied."""
        if self._client is None:
            limits: dict[str, Any] = {
                "socket_timeout": 5.0,
                "socket_connect_timeout": CONNECT_TIMEOUT,
                "client_name": "umbel",
            }
            if isinstance(self.ssl, dict):
                limits.update(self.ssl)
            if urlsplit(self.url).scheme == "sentinel":
                self._client = sentinel_of(self.url, self.options, limits)
            else:
                self._client = redis.Redis.from_url(redis_url(self.url), **limits)
        return self._client

    def _read_from(self) -> Results:
        return Results(self._result_client(), self.result_key_prefix, self.redactor)

    def _result_client(self) -> redis.Redis:
        if self._results is None:
            url = self.result_backend or ""
            limits: dict[str, Any] = {"socket_timeout": 5.0, "socket_connect_timeout": CONNECT_TIMEOUT}
            if urlsplit(url).scheme == "sentinel":
                self._results = sentinel_of(url, self.options, limits)
            else:
                self._results = redis.Redis.from_url(redis_url(url), **limits)
        return self._results

    def _transport_options(self, given: dict[str, Any]) -> dict[str, Any]:
        if self.transport != "redis":
            return given
        return {
            "socket_timeout": 5.0,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_keepalive": True,
            "client_name": "umbel",
            # How kombu makes a connection: once, for who waits is a person. Asking again is our business.
            "max_retries": 1,
            "interval_start": 0,
            **given,
            "global_keyprefix": self.key_prefix,
            "fanout_prefix": self.fanout_prefix,
            "fanout_patterns": self.fanout_patterns,
            **_HARMLESS,
        }

    def _app(self) -> Celery:
        app = Celery("umbel", broker=self.url, backend="disabled", set_as_current=False, fixups=[])
        app.conf.update(
            accept_content=["json"],
            result_accept_content=["json"],
            task_serializer="json",
            event_serializer="json",
            result_serializer="json",
            broker_transport_options=self.options,
            broker_use_ssl=self.ssl,
            broker_connection_timeout=CONNECT_TIMEOUT,
            broker_connection_retry=False,
            broker_pool_limit=16,
            broker_heartbeat=10,
            event_exchange=self.exchange,
            control_exchange=self.control_exchange,
        )
        return app


_current: list[Broker] = []


def configure(broker: Broker) -> None:
    """Make ``broker`` the one that this process talks to."""
    _current[:] = [broker]


def current() -> Broker:
    """The broker of this process; raises RuntimeError when none was configured."""
    if not _current:
        raise RuntimeError("No broker is configured: start Umbel with --broker URL.")
    return _current[0]


def redis_url(url: str) -> str:
    """A Celery URL of a Redis (or Valkey) in the form that redis-py reads."""
    parts = urlsplit(url)
    scheme = parts.scheme.replace("valkey", "redis")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "ssl_cert_reqs" in query:
        query["ssl_cert_reqs"] = query["ssl_cert_reqs"].lower().removeprefix("cert_")
    if scheme in ("redis+socket", "socket", "unix"):
        scheme = "unix"
        database = query.pop("virtual_host", "").strip("/")
        if database:
            query["db"] = database
    for name in ("credential_provider", "health_check_interval"):
        query.pop(name, None)
    tail = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{parts.netloc}{parts.path}{tail}"


def sentinel_of(url: str, options: Mapping[str, Any], limits: Mapping[str, Any]) -> redis.Redis:
    """A client of the master that the sentinels of a ``sentinel://`` URL name."""
    hosts, master, kwargs = sentinel_parts(url, options)
    found = Sentinel(
        hosts, sentinel_kwargs={**limits, **dict(options.get("sentinel_kwargs") or {})}, **limits, **kwargs
    )
    client: redis.Redis = found.master_for(master)
    return client


def sentinel_parts(url: str, options: Mapping[str, Any]) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """``(sentinels, master name, client arguments)`` of a ``sentinel://`` URL, as kombu reads it."""
    connection = Connection(url)
    hosts = []
    for part in url.split(";"):
        at = urlsplit(part if "://" in part else f"sentinel://{part}")
        hosts.append((at.hostname or "127.0.0.1", at.port or 26379))
    master = options.get("master_name")
    if not master:
        raise ValueError("A sentinel:// URL needs the transport option master_name: the group to ask for.")
    kwargs: dict[str, Any] = {"db": int(str(connection.virtual_host or "0").strip("/") or 0)}
    if connection.userid:
        kwargs["username"] = connection.userid
    if connection.password:
        kwargs["password"] = connection.password
    return hosts, str(master), kwargs


def _kombu_url(url: str) -> str:
    """The URL with forms of redis-py and valkey turned into kombu's."""
    parts = urlsplit(url)
    if not parts.scheme:
        raise ValueError(f"{DEFAULT.url(url)!r} is no broker URL; one looks like redis://host:6379/0.")
    if parts.scheme == "unix":
        query = dict(parse_qsl(parts.query))
        database = query.pop("db", "")
        if database:
            query["virtual_host"] = database
        user = ""
        if parts.username or parts.password:
            user = f"{quote(parts.username or '')}:{quote(parts.password or '')}@"
        tail = f"?{urlencode(query)}" if query else ""
        return f"redis+socket://{user}{parts.path}{tail}"
    if parts.scheme in ("valkey", "valkeys"):
        return url.replace("valkey", "redis", 1)
    return url


def _steps(given: Any) -> tuple[int, ...]:
    """The priorities that have a list of their own beside the queue's; kombu's are 3, 6 and 9."""
    steps = given if isinstance(given, list | tuple) else (0, 3, 6, 9)
    return tuple(step for step in steps if isinstance(step, int) and step > 0)[:16]
