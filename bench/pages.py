"""Every page and its live window over many stored tasks, as whole requests: `python -m bench.pages --quick`.

A page is a GET of someone who has signed in, until its last byte. A window is a live socket from its opening
to the last of the page's own regions, each under an address of its own, so that none is drawn already.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from bench.generator import Plan
from bench.load import Load
from bench.report import ROOT, Options, Row, percentile, python, say, table, umbel_env, valkey
from bench.site import Site, live_socket, site

SIZES = (100_000, 1_000_000, 10_000_000)
QUICK = (100_000,)
RATE = 5_000.0
WARM = 8.0  # seconds of load before it is measured under load
ROUNDS = 12  # requests of each address
BOUNDS = {"one filter": (50.0, 120.0), "a text": (150.0, 150.0)}  # ms: idle, under load
LASTS = 30.0  # seconds until a window is given up
KEEP = {"UMBEL_RETENTION_ROWS": str(10**9), "UMBEL_RETENTION_DAYS": "3650"}

Address = tuple[str, str]  # path, query


@dataclass(frozen=True)
class Subject:
    """What is measured together: the p95 is over all of its addresses."""

    name: str
    addresses: list[Address]
    page: bool = True
    window: bool = True


@dataclass
class Times:
    """Milliseconds by address."""

    of: dict[Address, list[float]] = field(default_factory=dict)

    def add(self, address: Address, seconds: float) -> None:
        self.of.setdefault(address, []).append(seconds * 1000)

    @property
    def every(self) -> list[float]:
        return [one for times in self.of.values() for one in times]

    def worst(self) -> str:
        """The slowest address and its median."""
        path, query = max(self.of, key=lambda address: percentile(self.of[address], 0.5))
        return f"{path}{'?' + query if query else ''} {percentile(self.of[path, query], 0.5):.0f} ms"


def run(options: Options) -> list[Row]:
    rows: list[Row] = []
    for size in QUICK if options.quick else SIZES:
        folder = options.part(f"pages-{size}")
        rows += measured(folder, size, ROUNDS // 2 if options.quick else ROUNDS)
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def measured(folder: Path, size: int, rounds: int, filled: bool = False, server: str = "umbel") -> list[Row]:
    """At one size, idle and then under load; ``server`` as in ``bench.site.site``."""
    if not filled:
        began = time.monotonic()
        subprocess.run(
            python("-m", "bench.fill", str(folder / "data"), "--tasks", str(size)), cwd=ROOT, check=True
        )
        say(f"pages: {size:,} tasks stored in {time.monotonic() - began:.0f} s")
    rows: list[Row] = []
    with valkey(folder) as broker, site(folder, broker.url, more=KEEP, server=server) as umbel:
        subjects = _subjects(folder)
        regions = _regions(folder)
        for rate in (0.0, RATE):
            with ExitStack() as load:
                if rate:
                    plan = Plan(rate=rate, names=40, keep=False)
                    load.enter_context(Load(broker.url, folder / "load", plan)).go()
                    time.sleep(WARM)  # the load is under way, the first bursts of it over
                for subject in subjects:
                    rows += _measure(umbel, subject, regions, rounds, (size, rate))
    return rows


def _measure(
    umbel: Site, subject: Subject, regions: dict[str, list[str]], rounds: int, at: tuple[int, float]
) -> Iterator[Row]:
    kinds = [("page", _page)] * subject.page + [("window", _window)] * subject.window
    for kind, ask in kinds:
        times, numbers = Times(), itertools.count()
        for _ in range(rounds):
            for path, query in subject.addresses:
                times.add((path, query), ask(umbel, path, query, regions, next(numbers)))
        yield _row(kind, subject, times, at)


def _row(kind: str, subject: Subject, times: Times, at: tuple[int, float]) -> Row:
    size, rate = at
    p50, p95 = (percentile(times.every, share) for share in (0.5, 0.95))
    bound = BOUNDS[subject.name][bool(rate)] if subject.name in BOUNDS else None
    load = f"at {rate:,.0f} events/s" if rate else "idle"
    note = f"p50 {p50:.0f} ms of {len(times.every)}; slowest: {times.worst()}"
    name = f"{kind}, {subject.name}, {_short(size)} tasks, {load}, p95"
    say(f"pages: {name} {p95:.0f} ms, {note}")
    return Row(
        name=name,
        must=f"under {bound:.0f} ms" if bound else "",
        measured=p95,
        unit="ms",
        met=p95 < bound if bound else None,
        note=note,
    )


def _short(size: int) -> str:
    return f"{size // 1_000_000} M" if size >= 1_000_000 else f"{size // 1000} k"


# One request


def _page(umbel: Site, path: str, query: str, regions: dict[str, list[str]], number: int) -> float:
    with closing(http.client.HTTPConnection("127.0.0.1", umbel.port, timeout=LASTS)) as connection:
        connection.connect()
        began = time.perf_counter()
        address = f"{path}?{query}" if query else path
        connection.request("GET", address, headers={"Cookie": umbel.cookies[0]})
        answer = connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
    whole = b"</html>" if path.endswith("/") else b"# TYPE "
    if answer.status != 200 or whole not in body:
        raise RuntimeError(f"{address} answered {answer.status}: {body[:300]!r}")
    return took


def _window(umbel: Site, path: str, query: str, regions: dict[str, list[str]], number: int) -> float:
    own = f"{query}&{urlencode({'n': f'{number}-{time.time_ns()}'})}".lstrip("&")
    awaited = set(regions[path])
    began = time.perf_counter()
    with closing(live_socket(umbel.url, umbel.cookies[0], path, quote(own))) as opened:
        opened.settimeout(LASTS)
        for text in _frames(opened):
            awaited -= {frame["region"] for frame in json.loads(text).get("frames", ())}
            if not awaited:
                return time.perf_counter() - began
    raise RuntimeError(f"The window of {path}?{query} ended without {', '.join(sorted(awaited))}.")


def _frames(opened: socket.socket) -> Iterator[bytes]:
    """Text messages of a server: never masked, and here never in pieces."""
    buffer = bytearray()

    def need(count: int) -> bytes:
        while len(buffer) < count:
            data = opened.recv(65_536)
            if not data:
                raise RuntimeError("The server closed the live socket.")
            buffer.extend(data)
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken

    while True:
        head, length = need(2)
        length &= 127
        if length >= 126:
            length = int.from_bytes(need(2 if length == 126 else 8), "big")
        body = need(length)
        if head & 15 == 1:
            yield body


# What there is to ask for


def _subjects(folder: Path) -> list[Subject]:
    found = _asked(folder, _EXAMPLES)
    dice = random.Random(1)
    uuids: list[str] = found["uuids"]
    town = found["town"]
    filters: list[dict[str, Any]] = [
        {},
        *({"state": state} for state in ("SUCCESS", "FAILURE", "STARTED", "REVOKED")),
        *({"name": name} for name in dice.sample(found["names"], 3)),
        {"name": "shop.mail.*"},
        *({"worker": worker} for worker in dice.sample(found["workers"], 2)),
        *({"queue": queue} for queue in dice.sample(found["queues"], 2)),
        {"error": "ValueError"},
        *({"in": span} for span in ("15m", "24h", "7d")),
        {"before": found["middle"]},
        {"state": "FAILURE", "before": found["middle"]},
    ]
    texts: list[dict[str, Any]] = [
        *({"q": str(number)} for number in found["orders"]),
        {"q": town},
        {"q": f"{town} {found['orders'][0]}"},
        {"q": "TimeoutError gateway"},
        {"q": f"sku-{dice.randrange(5000)}"},
        {"q": f"{str(found['orders'][0])[:5]}*"},
        {"q": uuids[0][:8]},
        {"q": town, "state": "FAILURE"},
        {"q": "nowhere"},
    ]
    slower: list[dict[str, Any]] = [
        {"stuck": "1"},
        {"sort": "ran"},
        {"state": "FAILURE", "name": found["names"][0]},
        {"worker": found["workers"][0], "queue": found["queues"][0]},
    ]
    task = [(f"/tasks/{uuid}/", "") for uuid in uuids]
    others = {"overview": "/", "workers": "/workers/", "audit": "/audit/", "feed": "/feed/"}
    return [
        Subject("one filter", [("/tasks/", urlencode(one)) for one in filters]),
        Subject("a text", [("/tasks/", urlencode(one)) for one in texts]),
        Subject("two filters, stuck, longest", [("/tasks/", urlencode(one)) for one in slower]),
        Subject("one task", task),
        Subject("one worker", [(f"/workers/{found['worker']}/", "")]),
        *(Subject(name, [(path, "")]) for name, path in others.items()),
        Subject("search", [("/search/", urlencode({"q": q})) for q in ("mail", uuids[1][:6])], window=False),
        Subject("settings", [("/settings/", "")], window=False),
        Subject("metrics", [("/metrics", "")], window=False),
    ]


def _regions(folder: Path) -> dict[str, list[str]]:
    """The regions that a page has of its own, by path."""

    class ByPath(dict[str, list[str]]):
        def __missing__(self, path: str) -> list[str]:
            return self[f"/{path.split('/')[1]}/*"]

    return ByPath(_asked(folder, _OWN))


def _asked(folder: Path, script: str) -> Any:
    """What a script prints as JSON that runs beside the site, on its database."""
    made = subprocess.run(
        python("-c", script),
        env=umbel_env(folder, "redis://unused"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"The site's own code failed: {made.stderr[-800:]}")
    return json.loads(made.stdout)


_OWN = """
import django, json
django.setup()
from dashboard import fragments
fragments.load()
paths = {"overview": "/", "tasks": "/tasks/", "task": "/tasks/*", "workers": "/workers/",
         "worker": "/workers/*", "audit": "/audit/", "feed": "/feed/"}
own = {path: [r.name for r in fragments.PAGES.get(view, [])] for view, path in paths.items()}
print(json.dumps(own))
"""

_EXAMPLES = """
import django, json, re
django.setup()
from monitor.models import Task, TaskType, Worker
rows = list(Task.objects.order_by("seen_at").values("uuid", "args", "seen_at", "id")[:1])
last = Task.objects.filter(state="SUCCESS").order_by("-seen_at").first()
middle = (rows[0]["seen_at"] + last.seen_at) / 2
some = list(Task.objects.filter(seen_at__gte=middle).order_by("seen_at")[:5])
workers = list(Worker.objects.values_list("hostname", "pk", "queues"))
print(json.dumps({
    "uuids": [t.uuid for t in (last, *some)],
    "orders": [re.search(r"\\d+", t.args)[0] for t in (last, *some)],
    "town": re.search(r"[A-Z][a-z]+", last.args)[0],
    "middle": f"{middle!r}_0",
    "names": list(TaskType.objects.order_by("-runs").values_list("name", flat=True)[:12]),
    "workers": [name for name, _, _ in workers],
    "worker": workers[0][1],
    "queues": sorted({q for _, _, queues in workers for q in queues}),
}))
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--filled", type=Path, help="a folder whose data/ bench.fill has filled already")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--server",
        default="umbel",
        choices=("umbel", "umbel web", "uvicorn"),
        help="umbel: engine and pages in one process; the others: pages, beside a monitor of its own",
    )
    asked = parser.parse_args(argv)
    if asked.filled:
        size = int(_asked(asked.filled, _COUNT))
        print(table(measured(asked.filled, size, asked.rounds, filled=True, server=asked.server)))
        return
    with tempfile.TemporaryDirectory(prefix="umbel-pages-") as folder:
        print(table(run(Options(asked.quick, Path(folder)))))


_COUNT = """
import django
django.setup()
from monitor.models import Task
print(Task.objects.order_by("-id").values_list("id", flat=True).first() or 0)
"""


if __name__ == "__main__":
    main()
