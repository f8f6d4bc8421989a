"""What the shop does: quick and slow, sound and faulty, in runtimes drawn from each task's own habit."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from celery import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from demo.shop.app import app


class CardDeclined(Exception):
    """The bank says no."""


class GatewayTimeout(Exception):
    """The bank says nothing."""


class TemplateMissing(LookupError):
    """A mail in a language that nobody has written."""


SEED = os.environ.get("SHOP_SEED", "7")


def work(usual: float, spread: float = 0.35) -> None:
    """Takes about ``usual`` seconds, now and then twice that."""
    time.sleep(usual * random.lognormvariate(0, spread))


def luck(*of: object) -> float:
    """From 0 to 1, and for the same arguments and seed always the same: who is unlucky is in the seed."""
    return random.Random(f"{SEED} {of}").random()


# Mail


@app.task(name="shop.mail.send_receipt", ignore_result=False)
def send_receipt(order: int, email: str) -> str:
    work(0.12)
    return f"sent to {email}"


@app.task(name="shop.mail.send_newsletter", rate_limit="2/s")
def send_newsletter(campaign: str, email: str) -> str:
    work(0.2)
    if luck(email) < 0.04:
        raise TemplateMissing(f"newsletter_{campaign}_fi.html")
    return "sent"


@app.task(name="shop.mail.remind_cart")
def remind_cart(customer: int) -> str:
    """Sent with an ETA: an hour after the basket was left, here half a minute to some minutes."""
    work(0.15)
    return f"customer {customer} reminded"


# Payments


@app.task(name="shop.payments.charge", bind=True, max_retries=4, acks_late=True)
def charge(self: Task, order: int, amount: str, card_number: str = "", **options: Any) -> dict[str, Any]:
    work(0.5)
    chance = luck(order, self.request.retries)
    if chance < 0.12:
        wait = 2 * 2**self.request.retries
        raise self.retry(exc=GatewayTimeout("bank.example did not answer in 3 s"), countdown=wait)
    if chance < 0.16:
        raise CardDeclined(f"order {order}: insufficient funds")
    return {"order": order, "charged": amount, "authorization": f"a{order:08x}"}


@app.task(name="shop.payments.refund")
def refund(order: int, reason: str) -> str:
    work(0.8)
    return f"order {order} refunded: {reason}"


@app.task(name="shop.payments.settle_day", bind=True)
def settle_day(self: Task, day: str, bank: str) -> str:
    """Hangs on a bank that keeps the line open: the task to find and terminate."""
    if bank == "never.example":
        time.sleep(300)
    work(1.2)
    return f"{day} settled with {bank}"


# Orders: links of chains and groups


@app.task(name="shop.orders.place")
def place(order: int, items: int) -> int:
    work(0.1)
    return order


@app.task(name="shop.orders.pack")
def pack(order: int) -> int:
    work(0.6)
    return order


@app.task(name="shop.orders.ship", bind=True, max_retries=3)
def ship(self: Task, order: int) -> str:
    work(0.4)
    if luck(order, self.request.retries) < 0.08:
        raise self.retry(exc=ConnectionError("carrier.example refused the connection"), countdown=5)
    return f"parcel {order * 7919 % 1_000_000:06d}"


# Images


@app.task(name="shop.images.resize")
def resize(image: int, width: int) -> str:
    work(0.3 + width / 2000)
    return f"{image}-{width}.webp"


@app.task(name="shop.images.gallery")
def gallery(files: list[str], product: int) -> str:
    """The body of a chord: waits for every size."""
    work(0.2)
    return f"product {product}: {len(files)} pictures"


@app.task(name="shop.images.remove_background", bind=True, soft_time_limit=6, time_limit=9)
def remove_background(self: Task, image: int) -> str:
    """Has a soft and a hard limit: most end, some are asked to, a few do not listen."""
    chance = luck(image)
    seconds = 30 if chance < 0.08 else 1 + 3 * chance
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        if chance < 0.03:
            time.sleep(30)
        raise
    return f"{image}-cut.png"


# Imports


@app.task(name="shop.imports.fetch_catalog", bind=True, acks_late=True)
def fetch_catalog(self: Task, supplier: str, page: int, week: int) -> dict[str, Any]:
    work(1.8)
    if luck(supplier, page, week) < 0.03:
        raise ValueError(f"{supplier}: page {page} is no CSV: 'utf-8' codec can't decode byte 0xe9")
    return {"supplier": supplier, "page": page, "rows": random.randrange(200, 900)}


@app.task(name="shop.imports.merge_rows", bind=True)
def merge_rows(self: Task, supplier: str) -> str:
    if random.random() < 0.02:  # a race, as locks are
        raise Reject(f"{supplier} is locked", requeue=False)
    work(0.9)
    return f"{supplier} merged"


# Reports: more are asked for than the one worker can write


@app.task(name="shop.reports.sales")
def sales_report(week: int, region: str) -> str:
    work(3.2)
    if luck(week, region) < 0.05:
        raise ZeroDivisionError("division by zero")
    return f"sales-{region}-{week}.pdf"


@app.task(name="shop.reports.total")
def total(numbers: list[Any]) -> int:
    work(0.2)
    return len(numbers)


# Stock: small and many


@app.task(name="shop.stock.count", ignore_result=True)
def count(product: int, change: int, api_token: str = "") -> None:
    work(0.008)


@app.task(name="shop.stock.reorder", ignore_result=True)
def reorder(product: int) -> None:
    work(0.02)
    if luck(product) < 0.005:
        raise KeyError(f"product {product}")
