"""The shop's customers: sends the tasks of a believable day, seeded, at a given rate.

``python -m demo.shop.traffic --rate 5 --seed 7``. Rates up to ten a second scale the whole shop, above that
stock counts fill up: a shop with more customers has more small work, not longer nights.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from celery import chain, chord, group
from celery.exceptions import OperationalError

from demo.shop import tasks

STORY_RATE = 10.0  # tasks a second that the pools can carry beside stock counts
REGIONS = ("north", "south", "east", "west")
BANKS = ("north.example", "union.example")
SUPPLIERS = ("Acme", "Contoso", "Ølberg & Søn", "Initech")
# A report nobody has read in half an hour is not worth writing: keeps the slow queue from growing for ever.
REPORT_EXPIRES = 1800
SETTLES_EVERY = 25.0  # seconds; each tenth settlement hangs for five minutes, so one can always be found
HANGS_EACH = 10

Scene = Callable[[random.Random], int]


def receipt(chance: random.Random) -> int:
    order = chance.randrange(10_000, 99_999)
    tasks.send_receipt.delay(order, email=f"customer{order}@shop.example")
    return 1


def newsletter(chance: random.Random) -> int:
    for _ in range(3):
        tasks.send_newsletter.delay("spring", f"reader{chance.randrange(9999)}@shop.example")
    return 3


def cart(chance: random.Random) -> int:
    tasks.remind_cart.apply_async([chance.randrange(9999)], countdown=chance.choice([20, 45, 90, 240]))
    return 1


def order(chance: random.Random) -> int:
    number = chance.randrange(10_000, 99_999)
    chain(tasks.place.s(number, items=chance.randrange(1, 6)), tasks.pack.s(), tasks.ship.s()).delay()
    return 3


def payment(chance: random.Random) -> int:
    number = chance.randrange(10_000, 99_999)
    amount = f"{chance.randrange(5, 400)}.{chance.randrange(100):02d} EUR"
    card = (
        f"4929 {chance.randrange(1000, 9999)} {chance.randrange(1000, 9999)} {chance.randrange(1000, 9999)}"
    )
    tasks.charge.apply_async([number, amount], {"card_number": card}, priority=chance.choice([0, 3, 6]))
    return 1


def refund(chance: random.Random) -> int:
    tasks.refund.apply_async([chance.randrange(10_000, 99_999), "came broken"], priority=9)
    return 1


def settlement(chance: random.Random, hangs: bool = False) -> int:
    tasks.settle_day.delay(_day(chance), bank="never.example" if hangs else chance.choice(BANKS))
    return 1


def product(chance: random.Random) -> int:
    number = chance.randrange(1, 5000)
    chord(
        [tasks.resize.s(number, width) for width in (200, 400, 800, 1600)], tasks.gallery.s(product=number)
    ).delay()
    return 5


def cutout(chance: random.Random) -> int:
    tasks.remove_background.delay(chance.randrange(1, 5000))
    return 1


def catalog(chance: random.Random) -> int:
    supplier = chance.choice(SUPPLIERS)
    week = chance.randrange(1, 53)
    group(tasks.fetch_catalog.s(supplier, page, week) for page in range(1, 4)).delay()
    tasks.merge_rows.apply_async([supplier], countdown=8)
    return 4


def report(chance: random.Random) -> int:
    tasks.sales_report.apply_async(
        [chance.randrange(1, 53)], {"region": chance.choice(REGIONS)}, expires=REPORT_EXPIRES
    )
    return 1


def stock(chance: random.Random) -> int:
    number = chance.randrange(1, 5000)
    if chance.random() < 0.1:
        tasks.reorder.delay(number)
    else:
        tasks.count.delay(number, change=-1, api_token=f"st_{chance.randrange(10**9):09d}")
    return 1


# How often each scene is played, in parts of the whole.
SCENES: tuple[tuple[Scene, float], ...] = (
    (receipt, 20),
    (stock, 26),
    (payment, 16),
    (order, 8),
    (newsletter, 2),
    (cart, 3),
    (refund, 2),
    (product, 2.5),
    (cutout, 1.6),
    (catalog, 1.2),
    (report, 10),
)


def warm_up(chance: random.Random) -> None:
    """Thirty runs of many tasks at once: from then on Umbel knows what is usual. The last one hangs."""
    for _ in range(34):
        receipt(chance)
        tasks.count.delay(chance.randrange(1, 5000), change=1)
        tasks.reorder.delay(chance.randrange(1, 5000))
    for _ in range(31):
        order(chance)
        payment(chance)
        settlement(chance)
    for _ in range(10):
        product(chance)
        catalog(chance)
    settlement(chance, hangs=True)


@click.command()
@click.option("--rate", default=5.0)
@click.option("--seed", default=7)
def main(rate: float, seed: int) -> None:
    """Sends until it is told to stop; waits while the broker is away."""
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    chance = random.Random(seed)
    scenes, weights = [scene for scene, _ in SCENES], [weight for _, weight in SCENES]
    _patiently(lambda: warm_up(chance))
    began, sent, story = time.monotonic(), 0, 0
    settled, settles_at = 0, began + SETTLES_EVERY
    while going:
        if time.monotonic() >= settles_at:
            settled += 1
            settles_at += SETTLES_EVERY
            hangs = settled % HANGS_EACH == 0
            _patiently(lambda hangs=hangs: settlement(chance, hangs))  # type: ignore[misc]
        passed = time.monotonic() - began
        behind = rate * passed - sent
        if behind < 1:
            time.sleep(min(0.25, max(0.002, 1 / rate)))
            continue
        if behind > 5 * rate + 50:  # the broker was away, or this machine is too slow: no flood after it
            began, sent, story = time.monotonic(), 0, 0
            continue
        scene = chance.choices(scenes, weights)[0] if story < STORY_RATE * passed + 1 else stock
        count = _patiently(lambda scene=scene: scene(chance)) or 1  # type: ignore[misc]
        sent += count
        story += 0 if scene is stock else count
    # Celery's connections have nothing to say any more, and much to trip over while Python ends.
    sys.stdout.flush()
    os._exit(0)


def _day(chance: random.Random) -> str:
    return f"2026-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}"


def _patiently(send: Callable[[], Any]) -> Any:
    try:
        return send()
    except (OperationalError, OSError) as error:
        print(f"The broker does not answer: {error}", flush=True)
        time.sleep(1)
        return None


if __name__ == "__main__":
    main()
