"""The demo: starts whole, answers, and leaves no process and no port behind, however it is ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.run import WORKERS, CannotStart, _emptied
from demo.shop import traffic
from demo.shop.app import app
from tests.conftest import ROOT, wait_until
from tests.test_cli import answer

START_WITHIN = 45


def start(data: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    log = data.parent / "demo.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UMBEL_", "DJANGO_"))}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "umbel", "demo", "--data", str(data), "--no-browser", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=data.parent,
            env=kept | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    return process, log


def processes_of(data: Path) -> list[str]:
    """Command lines of all processes whose working folder or arguments are in the demo's folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(data) in line or (place / "cwd").readlink().is_relative_to(data):
                found.append(f"{place.name}: {line}")
        except OSError:
            continue
    return found


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.live
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_it_runs_whole_and_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    data = tmp_path / "data"
    process, log = start(data, "--port", "0", "--rate", "3")
    try:
        wait_until(
            lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, START_WITHIN, what="the start"
        )
        text = log.read_text()
        address = re.search(r"Umbel +(http://127\.0\.0\.1:(\d+)/)", text)
        assert address, text
        for kind in WORKERS:
            assert f"{kind.name} is ready" in text
        assert re.search(r"Password +\S{12,}", text)
        assert str(data / "demo") in text
        assert answer(f"{address[1]}sign-in/").status == 200
        broker = int(re.search(r"Valkey runs on 127\.0\.0\.1:(\d+)", text)[1])  # type: ignore[index]
        assert listens(broker)
        assert len(processes_of(data)) >= len(WORKERS) + 3

        ended = time.monotonic()
        process.send_signal(how)
        process.wait(60)
        wait_until(lambda: not processes_of(data), 15, what="the end of every process")
        assert time.monotonic() - ended < 20
        assert not listens(int(address[2]))
        assert not listens(broker)
        assert process.returncode == (-9 if how is signal.SIGKILL else 0)
        assert {path.name for path in data.iterdir()} <= {"demo", "demo.lock"}
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.live
def test_a_taken_port_ends_it_in_words_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process, log = start(tmp_path / "data", "--port", str(port))
        assert process.wait(60) == 2
    assert f"Port {port} is taken" in log.read_text()
    assert "--port" in log.read_text()
    assert not (tmp_path / "data").exists()


def test_it_empties_only_a_folder_of_its_own(tmp_path: Path) -> None:
    own = _emptied(tmp_path / "demo")
    (own / "old").write_text("old")
    assert not (_emptied(own) / "old").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(CannotStart, match="not the demo's"):
        _emptied(other)
    assert (other / "thesis.txt").exists()


def test_the_shop_has_what_shops_have() -> None:
    names = [name for name in app.tasks if name.startswith("shop.")]
    assert len(names) >= 15
    limited = app.tasks["shop.images.remove_background"]
    assert (limited.soft_time_limit, limited.time_limit) == (6, 9)
    assert app.tasks["shop.mail.send_newsletter"].rate_limit == "2/s"
    assert app.conf.task_send_sent_event
    queues = {queue for kind in WORKERS for queue in kind.queues.split(",")}
    assert {route["queue"] for route in traffic.tasks.app.conf.task_routes.values()} == queues


def test_the_same_seed_sends_the_same_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    def play(seed: int) -> list[str]:
        sent: list[str] = []
        monkeypatch.setattr(
            "celery.app.task.Task.apply_async",
            lambda self, args=None, kwargs=None, **options: sent.append(f"{self.name} {args} {kwargs}"),
        )
        chance = random.Random(seed)
        for scene in (traffic.receipt, traffic.payment, traffic.stock, traffic.settlement, traffic.report):
            scene(chance)
        return sent

    assert play(7) == play(7)
    assert play(7) != play(8)
    assert len(play(7)) == 5
