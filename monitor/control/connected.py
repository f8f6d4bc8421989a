"""A live connection to the broker, for what is done there itself and not by a worker: purged, or sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from monitor.broker import CONNECT_TIMEOUT, Broker
from monitor.control.asking import Unreachable

BROKER = "the broker"  # who answers
NO_ROUTE = 312  # of AMQP


@contextmanager
def connected(broker: Broker, done: list[str]) -> Iterator[tuple[Any, Any]]:
    """A connection and a channel of it that has just answered.

    ``done`` is what the caller has begun with it, so that an error is known to come before or after. Raises
    ``Unreachable``.
    """
    errors: tuple[type[BaseException], ...] = (OSError, KombuError, RedisError)
    try:
        connection = broker.app.pool.acquire(block=True, timeout=CONNECT_TIMEOUT)
    except errors as error:
        raise unreachable(broker, error, sent=False) from error
    try:
        errors += tuple(connection.connection_errors) + tuple(connection.channel_errors)
        try:
            channel = _alive(connection)
        except errors:
            connection.collect(0.1)  # it died in the pool: made again once, before anything is done
            channel = _alive(connection)
        with channel:
            yield connection, channel
    except errors as error:
        connection.collect(0.1)  # made anew by whoever takes it next
        if getattr(error, "reply_code", None) == NO_ROUTE:
            text = "The broker gave the message back: it has no such queue any more."
            raise Unreachable(text, sent=len(done) > 1) from error
        raise unreachable(broker, error, sent=bool(done)) from error
    finally:
        connection.release()


def unreachable(broker: Broker, error: BaseException, *, sent: bool) -> Unreachable:
    return Unreachable(f"The broker cannot be reached: {broker.explain(error)}", sent=sent)


def _alive(connection: Any) -> Any:
    """A channel of a connection that has just answered: nothing is to be done a second time."""
    channel = connection.channel()  # on Redis it pings, on RabbitMQ it waits for an answer
    if hasattr(channel, "basic_publish_confirm"):
        # RabbitMQ says that it has a message, or that it has no such queue.
        channel.confirm_select()
        channel._confirm_selected = True
        channel.basic_publish = channel.basic_publish_confirm
    return channel
