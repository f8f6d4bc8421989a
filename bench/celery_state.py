"""Celery's own Receiver with its State, as its documentation uses them. Needs Celery and no Umbel."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.events.receiver import EventReceiver


class Listener(EventReceiver):  # type: ignore[misc]  # Celery has no types
    """Celery's own receiver, that knows when it has begun to listen."""

    listens = False

    def on_consume_ready(self, *args: Any, **kwargs: Any) -> None:
        super().on_consume_ready(*args, **kwargs)
        self.listens = True


def tell(receiver: Any, seen: Callable[[], int]) -> None:
    while not receiver.should_stop:
        status = {"seen": seen(), "waiting": 0, "lost": 0, "cpu": time.process_time(), "at": time.time()}
        print(json.dumps(status | {"extra": {"connected": receiver.listens}}), flush=True)
        time.sleep(0.25)  # a line each quarter of a second, as the others say it


def main(url: str, final: str) -> None:
    app = Celery(broker=url)
    state = app.events.State(max_tasks_in_memory=10_000_000)
    seen = 0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal seen
        state.event(event)
        seen += 1

    # Cut off by the broker it raises: what it knew then is its last word.
    with (
        suppress(OSError, *app.connection_for_read().connection_errors),
        app.connection_for_read() as connection,
    ):
        receiver = Listener(connection, handlers={"*": on_event}, app=app)
        signal.signal(signal.SIGTERM, lambda *_: setattr(receiver, "should_stop", True))
        threading.Thread(target=tell, args=(receiver, lambda: seen), daemon=True).start()
        receiver.capture(limit=None, timeout=None, wakeup=False)
    rows = [
        (uuid, task.state, task.name, task.worker.hostname if task.worker else "", task.retries or 0)
        for uuid, task in state.tasks.items()
    ]
    with open(final, "w") as file:  # noqa: PTH123 - this file stands alone
        json.dump(rows, file)


if __name__ == "__main__":
    main(os.environ["BENCH_BROKER"], sys.argv[1])
