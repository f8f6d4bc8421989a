"""From a publish to the browser's document: `python -m bench.push`.

Beside a load of 5,000 events a second, probes: a task of a name of their own is received, at moments that
have nothing to do with any clock of Umbel's. Real Chromium shows the list of that name, and an observer in
the page notes when each probe's row is there. A second page shows the overview: all of it is drawn as well.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import events
from bench.events import Sender
from bench.generator import Plan
from bench.load import Load, Publisher
from bench.report import Options, Row, percentile, program, say, table, until, valkey
from bench.site import Site, site

NAME = "bench.probe"
RATES = (0.0, 5_000.0)
PROBES = 240
BETWEEN = (0.15, 0.45)  # seconds, at random: no step with a tick
HEARTBEAT = 2.0
MUST = 600.0  # ms
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

# The time at which each row came, by its id. A page in the background would be told late.
WATCH = """
window.came = {};
new MutationObserver(() => {
  for (const row of document.querySelectorAll("tr[data-row]")) came[row.id] ??= Date.now() / 1000;
}).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["id"] });
"""


@dataclass(slots=True)
class Probes:
    """A worker that receives probes, and when each was published."""

    publisher: Publisher
    worker: Sender = field(default_factory=lambda: Sender("celery@probe", 4_711))
    published: dict[str, float] = field(default_factory=dict)
    _beat: float = 0.0

    def send(self) -> None:
        self.breathe()
        task, now = str(uuid.uuid4()), time.time()
        call = events.call(NAME, "(1,)", "{}")
        text = self.worker.received(task, call, 0, "null", events.kin(task, None), now)
        command = events.command(self.worker, "task.multi", f"[{text}]", uuid.uuid4().hex)
        self.published[task] = time.time()
        self.publisher.publish([command])

    def breathe(self) -> None:
        """A heartbeat when it is time for one."""
        now = time.time()
        if now - self._beat < HEARTBEAT:
            return
        kind = "heartbeat" if self._beat else "online"
        self._beat = now
        text = self.worker.state(kind, (0.1, 0.1, 0.1), now)
        self.publisher.publish([events.command(self.worker, f"worker.{kind}", text, uuid.uuid4().hex)])


def run(options: Options) -> list[Row]:
    probes = 60 if options.quick else PROBES
    return [_row(rate, _measured(options, rate, probes), probes) for rate in RATES]


def _row(rate: float, waits: list[float], probes: int) -> Row:
    # What never came took longer than any.
    waits = waits + [math.inf] * (probes - len(waits))
    p50, p95, p99 = (percentile(waits, share) * 1000 for share in (0.5, 0.95, 0.99))
    lost = waits.count(math.inf)
    note = f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, largest {max(waits) * 1000:.0f} ms of {probes} probes"
    say(f"push at {rate:,.0f} events/s: p99 {p99:.0f} ms, {note}")
    loaded = rate > 0
    return Row(
        name=f"publish to DOM, p99, at {rate:,.0f} events/s",
        must=f"under {MUST:g} ms" if loaded else "",
        measured=p99,
        unit="ms",
        met=(p99 < MUST and not lost) if loaded else None,
        note=f"{lost} probes never came; {note}" if lost else note,
    )


def _measured(options: Options, rate: float, probes: int) -> list[float]:
    """Seconds from publish to the document, of each probe that came."""
    folder = options.part(f"push-{rate:.0f}")
    with valkey(folder) as broker, site(folder, broker.url) as umbel:
        sender = Probes(Publisher(broker.url))
        if not rate:
            return _probed(umbel, sender, probes, options.seed)
        with Load(broker.url, folder, Plan(rate=rate, seed=options.seed, keep=False)) as load:
            load.go()
            return _probed(umbel, sender, probes, options.seed)


def _probed(umbel: Site, sender: Probes, probes: int, seed: int) -> list[float]:
    # Only this bench needs a browser.
    from playwright.sync_api import sync_playwright

    rng = random.Random(seed)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        try:
            other = _page(browser, umbel, "/")
            page = _page(browser, umbel, f"/tasks/?name={NAME}")
            _until_first(page, sender)
            sender.published.clear()
            for _ in range(probes):
                end = time.monotonic() + rng.uniform(*BETWEEN)
                sender.send()
                sender.breathe()
                time.sleep(max(0.0, end - time.monotonic()))
            came: dict[str, float] = {}

            def all_came() -> bool:
                came.update(page.evaluate("window.came"))
                return all(_row_id(one) in came for one in sender.published)

            _try(lambda: until(all_came, 15, "the last probe"))
            assert other.is_visible("main")
        finally:
            browser.close()
    return [came[_row_id(task)] - at for task, at in sender.published.items() if _row_id(task) in came]


def _page(browser: Any, umbel: Site, path: str) -> Any:
    """In a window of its own: pages in the background are slowed down."""
    name, _, value = umbel.cookies[0].partition("=")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_cookies([{"name": name, "value": value, "url": umbel.url}])
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(umbel.url + path)
    return page


def _until_first(page: Any, sender: Probes) -> None:
    """Probes until one is seen: from then on everything runs."""
    end = time.monotonic() + 60
    while not page.evaluate("Object.keys(window.came).length"):
        if time.monotonic() > end:
            raise TimeoutError("No probe was seen in the page within 60 s.")
        sender.send()
        time.sleep(1.0)  # one that was not drawn needs a successor, not many
    # The load's first seconds are not what is asked about.
    for _ in range(10):
        sender.breathe()
        time.sleep(0.5)


def _row_id(task: str) -> str:
    """As the list of tasks names the row."""
    return f"t-{hashlib.blake2b(task.encode(), digest_size=6).hexdigest()}"


def _try(what: Callable[[], object]) -> None:
    try:
        what()
    except TimeoutError as problem:
        say(str(problem))


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return program("chromium", "chromium")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(run(Options(quick=asked.quick, folder=Path(folder)))))


if __name__ == "__main__":
    main()
