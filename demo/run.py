"""``umbel demo``: the shop, its broker, its workers and the dashboard, all ended with this process."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo import valkey
from demo.guard import Guarded, guarded

ROOT = Path(__file__).resolve().parent.parent
MARK = "umbel-demo"  # the file that says a folder is the demo's, to be emptied at its start
START_WITHIN = 60.0
DIES_EVERY = (150.0, 260.0)  # seconds
STAYS_AWAY = 14.0


class CannotStart(RuntimeError):
    """Says in a sentence why the demo cannot run, and the way out."""


class Stopped(Exception):
    """Somebody has asked the demo to stop."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A worker of the shop: its name, queues, options, and what it shows."""

    name: str
    queues: str
    options: tuple[str, ...]
    shows: str
    dies: bool = False


WORKERS = (
    Kind("payments@shop", "payments", ("-P", "prefork", "-c", "4"), "prefork, 4 processes"),
    Kind("images@shop", "images", ("-P", "prefork", "--autoscale", "6,2"), "prefork, autoscale 2 to 6"),
    Kind("mail@shop", "emails,stock", ("-P", "threads", "-c", "8"), "threads, 8"),
    Kind("reports@shop", "reports", ("-P", "solo"), "solo, one at a time; its queue grows"),
    Kind(
        "imports@shop", "imports,stock", ("-P", "prefork", "-c", "2"), "prefork, 2; dies and comes back", True
    ),
)


def run(*, port: int, rate: float, seed: int, data: str, broker: str, browser: bool) -> int:
    """Runs until SIGINT or SIGTERM; answers the exit code."""
    os.umask(0o077)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _stop)
    try:
        with ExitStack() as stack:
            demo = Demo(port, rate, seed, broker)
            demo.run(stack, _data_folder(data), browser)
    except (CannotStart, valkey.ValkeyMissing) as error:
        print(f"umbel demo: {error}", file=sys.stderr, flush=True)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("Stopped: no process is left.", flush=True)
    return 0


class Demo:
    """The processes of one run, in the order they start; they stop together."""

    def __init__(self, port: int, rate: float, seed: int, broker: str) -> None:
        self.port, self.rate, self.seed, self.broker = port, rate, seed, broker
        self.chance = random.Random(seed)
        self.processes: dict[str, Guarded] = {}
        self.began = time.monotonic()

    def run(self, stack: ExitStack, data: Path, browser: bool) -> None:
        _check_port(self.port)
        stack.enter_context(_the_only_one(data))
        self.folder = _emptied(data / "demo")
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.say(f"Data of this run: {self.folder}")
        self._start_broker(stack)
        stack.callback(self._stop_all)
        for kind in WORKERS:
            self._start_worker(kind)
        self.say(f"{len(WORKERS)} workers are starting.")
        password = self._make_login()
        address = self._start_dashboard()
        self._wait_for_workers()
        self._start("customers", ["-m", "demo.shop.traffic", f"--rate={self.rate}", f"--seed={self.seed}"])
        self.say(f"The shop is open: about {self.rate:g} tasks a second.")
        print(
            f"\n  Umbel      {address}\n  Sign in    demo (admin, for this run only)\n  Password   {password}"
            "\n  Stop       Ctrl-C\n",
            flush=True,
        )
        if browser and sys.stdout.isatty():
            webbrowser.open(address)
        self._watch()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)

    def _start_broker(self, stack: ExitStack) -> None:
        if self.broker:
            shown = self.broker.rpartition("@")[2]
            self.say(f"Broker: {shown}")
            return
        try:
            server = valkey.start(self.folder / "valkey")
        except RuntimeError as error:
            raise CannotStart(str(error)) from error
        stack.callback(server.stop)
        self.broker = server.url
        self.say(f"Valkey runs on 127.0.0.1:{server.port} ({valkey.binary().name}, random password).")

    def _start_worker(self, kind: Kind) -> None:
        arguments = ["-m", "celery", "-A", "demo.shop", "worker", "-n", kind.name, "-Q", kind.queues, "-E"]
        self._start(kind.name, [*arguments, *kind.options, "-l", "INFO"])

    def _start(self, name: str, arguments: list[str], **environment: str) -> Guarded:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("UMBEL_", "CELERY_"))}
        env.pop("DJANGO_SETTINGS_MODULE", None)
        env |= {"SHOP_BROKER": self.broker, "SHOP_SEED": str(self.seed), "PYTHONPATH": str(ROOT)}
        env |= {"PYTHONUNBUFFERED": "1", "C_FORCE_ROOT": "1"} | environment
        log = self.logs / f"{name.partition('@')[0]}.log"
        argv = [sys.executable, "-P", *arguments]
        self.processes[name] = guarded(argv, log, env=env, cwd=self.folder, grace=2.5)
        return self.processes[name]

    def _dashboard_environment(self) -> dict[str, str]:
        return {
            "UMBEL_BROKER": self.broker,
            "UMBEL_RESULT_BACKEND": self.broker,
            "UMBEL_DATA": str(self.folder),
            "UMBEL_PORT": str(self.port),
        }

    def _make_login(self) -> str:
        """Adds the user of this run, in this process while the workers boot; answers the password."""
        password = "-".join(secrets.token_hex(2) for _ in range(4))
        for name in [name for name in os.environ if name.startswith("UMBEL_")]:
            del os.environ[name]
        os.environ |= self._dashboard_environment() | {"DJANGO_SETTINGS_MODULE": "dashboard.settings"}
        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        call_command("migrate", verbosity=0, interactive=False)
        from dashboard import access

        access.create_user("demo", "admin", password)
        connections.close_all()
        return password

    def _start_dashboard(self) -> str:
        process = self._start("umbel", ["-m", "umbel"], **self._dashboard_environment())
        until = time.monotonic() + START_WITHIN
        while time.monotonic() < until and process.running():
            found = re.search(r"Umbel is on (http://\S+)", process.tail(60))
            if found and _answers(found[1]):
                self.say("The dashboard answers.")
                return found[1]
            time.sleep(0.1)
        raise CannotStart(f"The dashboard did not start. Its last words:\n{process.tail()}")

    def _wait_for_workers(self) -> None:
        missing = {kind.name for kind in WORKERS}
        until = time.monotonic() + START_WITHIN
        while missing and time.monotonic() < until:
            for name in sorted(missing):
                process = self.processes[name]
                if not process.running():
                    raise CannotStart(f"The worker {name} has ended:\n{process.tail()}")
                if f"{name} ready" in process.tail(200):
                    missing.discard(name)
                    shows = next(kind.shows for kind in WORKERS if kind.name == name)
                    self.say(f"Worker {name} is ready ({shows}).")
            time.sleep(0.1)
        if missing:
            raise CannotStart(f"Not ready within {START_WITHIN:g} s: {', '.join(sorted(missing))}.")

    def _watch(self) -> None:
        """Kills the worker that dies now and then, brings it back; says so when anything else ends."""
        parent = os.getppid() if "MAKELEVEL" in os.environ else 0
        mortal = next(kind for kind in WORKERS if kind.dies)
        dies_at = time.monotonic() + self.chance.uniform(*DIES_EVERY)
        back_at = 0.0
        gone: set[str] = set()
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            if parent and os.getppid() != parent:  # make was killed, and with it the reader of our lines
                raise Stopped
            if not back_at and now >= dies_at:
                self.say(f"{mortal.name} dies (as workers do) and comes back in {STAYS_AWAY:g} s.")
                self.processes[mortal.name].kill()
                back_at = now + STAYS_AWAY
            elif back_at and now >= back_at:
                self._start_worker(mortal)
                back_at, dies_at = 0.0, now + self.chance.uniform(*DIES_EVERY)
            for name, process in self.processes.items():
                if name not in gone and not process.running() and not (back_at and name == mortal.name):
                    gone.add(name)
                    self.say(f"{name} has ended by itself; its log: {process.log}")
                    if name == "umbel":
                        raise CannotStart(f"The dashboard has ended. Its last words:\n{process.tail()}")

    def _stop_all(self) -> None:
        print("Stopping the shop …", flush=True)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # it is under way; the guards see to the rest
        for process in self.processes.values():
            process.ask_to_stop()
        for process in self.processes.values():
            process.stop(8)


def _stop(*_: object) -> None:
    raise Stopped


def _data_folder(given: str) -> Path:
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return (Path(given) if given else Path(home) / "umbel").expanduser().absolute()


@contextmanager
def _the_only_one(data: Path) -> Iterator[None]:
    """One demo a data folder: holds a lock that the system lets go whatever happens to us."""
    import fcntl

    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (data / "demo.lock").open("a")
    except OSError as error:
        raise CannotStart(
            f"{data} cannot be used ({error.strerror}): give another folder with --data."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotStart(
                f"Another demo runs in {data}: stop it, or give a folder with --data."
            ) from None
        yield


def _emptied(folder: Path) -> Path:
    """The demo starts from nothing, in a folder that it has made itself."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARK).exists():
            raise CannotStart(
                f"{folder} holds files that are not the demo's: give another folder with --data."
            )
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / MARK).write_text("Umbel's demo empties this folder whenever it starts.\n")
    return folder


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(
                f"Port {port} is taken ({error.strerror}): choose another with --port (make demo PORT=9000)."
            ) from error


def _answers(address: str) -> bool:
    opener: Callable[..., object] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        opener(f"{address}sign-in/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
