"""The embedded Valkey: a real server behind a password, that never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from demo import valkey
from tests.conftest import ROOT, WorkerFactory, shop, wait_until

PARENT = """
import sys, time
from pathlib import Path
from demo import valkey
server = valkey.start(Path(sys.argv[1]))
print(server.pid, server.port, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_answers_only_to_its_password(own_valkey: valkey.Server) -> None:
    assert redis.Redis.from_url(own_valkey.url).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=own_valkey.port).ping()


def test_its_configuration_is_for_the_owner_alone(own_valkey: valkey.Server) -> None:
    mode = stat.S_IMODE((own_valkey.folder / "valkey.conf").stat().st_mode)
    assert mode == 0o600
    command_line = Path(f"/proc/{own_valkey.pid}/cmdline").read_text()
    assert own_valkey.password not in command_line


def test_it_listens_on_loopback_only(own_valkey: valkey.Server) -> None:
    assert redis.Redis.from_url(own_valkey.url).config_get("bind") == {"bind": "127.0.0.1"}


def test_a_restart_keeps_address_password_and_data(own_valkey: valkey.Server) -> None:
    url, before = own_valkey.url, own_valkey.pid
    redis.Redis.from_url(url).set("kept", "yes")
    own_valkey.restart()
    assert own_valkey.url == url
    assert own_valkey.pid != before
    assert redis.Redis.from_url(url).get("kept") == b"yes"


def test_a_taken_port_is_refused_in_words(own_valkey: valkey.Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"did not start on 127.0.0.1:{own_valkey.port}"):
        valkey.start(tmp_path / "second", port=own_valkey.port)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_parent(tmp_path: Path, valkey: valkey.Server, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "v")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout
    pid, _port = map(int, parent.stdout.readline().split())
    assert alive(pid)
    parent.send_signal(how)
    parent.wait(15)
    parent.stdout.close()
    wait_until(lambda: not alive(pid), 10, what="the end of Valkey")


@pytest.mark.live
def test_a_worker_works_and_its_pool_ends_with_a_kill(valkey: valkey.Server, worker: WorkerFactory) -> None:
    one = worker(valkey.url, queues=["valkey-test"], concurrency=2)
    result = shop(valkey.url).send_task("shop.add", [1, 2], queue="valkey-test")
    assert result.get(timeout=30) == 3
    pool = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    assert len(pool) >= 2
    one.kill()
    wait_until(lambda: not any(alive(int(pid)) for pid in pool), 5, what="the end of the pool processes")
