"""The shop's Celery app: events on, results kept for an hour, a queue for each kind of work."""

from __future__ import annotations

import os

from celery import Celery

ROUTES = {
    "shop.mail.*": {"queue": "emails"},
    "shop.images.*": {"queue": "images"},
    "shop.imports.*": {"queue": "imports"},
    "shop.reports.*": {"queue": "reports"},
    "shop.stock.*": {"queue": "stock"},
    "shop.*": {"queue": "payments"},
}
PRIORITIES = list(range(0, 10, 3))

app = Celery("shop", include=["demo.shop.tasks"])
app.conf.update(
    broker_url=os.environ.get("SHOP_BROKER", "redis://127.0.0.1:6379/0"),
    result_backend=os.environ.get("SHOP_BROKER", "redis://127.0.0.1:6379/0"),
    broker_transport_options={"visibility_timeout": 12 * 3600, "priority_steps": PRIORITIES},
    broker_connection_retry_on_startup=True,
    task_send_sent_event=True,
    task_track_started=True,
    task_default_queue="payments",
    task_routes=ROUTES,
    result_expires=3600,
    result_extended=True,
    worker_prefetch_multiplier=2,
    worker_send_task_events=True,
    worker_proc_alive_timeout=20,
)
