"""How long until the first page: `python -m bench.start`, on an empty history and on a million tasks."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from bench.report import ROOT, Options, Row, median, python, running, say, shown, table, umbel_env, valkey
from bench.site import signed_in
from demo.valkey import free_port

TASKS = 1_000_000
TIMES = 3  # the median counts
PAGES = ("/", "/tasks/")
LONGEST = 120.0  # seconds


def run(options: Options) -> list[Row]:
    stored = 100_000 if options.quick else TASKS
    with valkey(options.part("start")) as broker:
        return [row for tasks in (0, stored) for row in _rows(options, broker.url, tasks)]


def _rows(options: Options, broker: str, tasks: int) -> list[Row]:
    folder = options.part(f"start-{tasks}")
    env = umbel_env(folder, broker)
    (folder / "data").mkdir()
    first_ever = _first_pages(folder, env, "") if not tasks else None
    if tasks:
        filling = python("-m", "bench.fill", str(folder / "data"), "--tasks", str(tasks))
        subprocess.run(filling, env=env, cwd=ROOT, check=True)
    cookie = signed_in(env, 1)[0]
    rounds = [_first_pages(folder, env, cookie) for _ in range(TIMES)]
    name = f"{shown(tasks)} stored tasks" if tasks else "empty history"
    rows = []
    for place, page in enumerate(PAGES):
        seconds = median([one[place] for one in rounds])
        say(f"start, {name}: {page} after {seconds:.2f} s")
        rows.append(Row(f"start to {page}, {name}", "", seconds, "s"))
    if first_ever is not None:
        note = "tables and key made as well; answered with the way to the sign-in"
        rows.append(Row("first start ever", "", first_ever[0], "s", note=note))
    return rows


def _first_pages(folder: Path, env: dict[str, str], cookie: str) -> list[float]:
    """Seconds from the command until each page has been answered, one after the other."""
    port = free_port()
    began = time.monotonic()
    with running(python("-m", "umbel", "--port", str(port)), folder / "umbel.log", env=env) as process:
        seconds = []
        for page in PAGES:
            while not _answered(f"http://127.0.0.1:{port}{page}", cookie):
                if not process.running() or time.monotonic() - began > LONGEST:
                    raise RuntimeError(f"Umbel did not start: {process.tail(30)}")
                time.sleep(0.01)
            seconds.append(time.monotonic() - began)
        return seconds


def _answered(url: str, cookie: str) -> bool:
    """Whether a whole page came; raises RuntimeError when it is not the one asked for."""
    request = urllib.request.Request(url, headers={"Cookie": cookie} if cookie else {})
    with (
        suppress(urllib.error.URLError, ConnectionError),
        urllib.request.urlopen(request, timeout=60) as answer,
    ):
        if cookie and answer.geturl() != url:
            raise RuntimeError(f"{url} answered with {answer.geturl()}: the session of the bench is refused.")
        return bool(answer.read()) and answer.status == 200
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(run(Options(quick=asked.quick, folder=Path(folder)))))


if __name__ == "__main__":
    main()
