"""Real servers, workers and browsers for tests; all of them end with the test run, however it ends."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from demo import valkey as valkey_server
from demo.guard import Guarded, guarded
from tests.order import (  # noqa: F401 pytest looks for its hooks here
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_runtest_protocol,
    pytest_xdist_make_scheduler,
)

if TYPE_CHECKING:
    from channels.layers import InMemoryChannelLayer

    from tests.clusters import Cluster
    from tests.faults import Rig
    from tests.product import Product

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("UMBEL_CI") == "1"

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Deadlines are written for an idle machine; a busy one has this many times as long.
PATIENCE = 3


def wait_until(
    true: Callable[[], Any], timeout: float = 10.0, every: float = 0.05, what: str = "what was waited for"
) -> Any:
    """Polls until ``true()`` is true and answers its value; fails the test at the deadline."""
    timeout *= PATIENCE
    until = time.monotonic() + timeout
    while True:
        if value := true():
            return value
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come within {timeout:g} s (last answer: {value!r})")
        time.sleep(every)


def never(true: Callable[[], Any], seconds: float, every: float = 0.05) -> None:
    """Fails the test if ``true()`` becomes true within this time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not true()
        time.sleep(every)


def not_here(reason: str) -> None:
    """A tool is missing: in CI that is a failure, elsewhere a skip with its reason."""
    if CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need_program(*names: str, package: str) -> str:
    """The path of the first program found; Debian keeps some of them off the PATH."""
    places = os.pathsep.join(
        [
            os.environ.get("PATH", ""),
            "/usr/sbin",
            *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))),
        ]
    )
    for name in names:
        if found := shutil.which(name, path=places):
            return found
    not_here(f"{names[0]} is not installed (on Debian: apt install {package}).")
    raise AssertionError


@pytest.fixture
def now(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """``NOW`` of the test's module is when the test began: the module may have been read half an hour ago."""
    moment = time.time()
    monkeypatch.setattr(request.module, "NOW", moment)
    return moment


# Valkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey_server.Server]:
    """One server for all tests that do not restart it; take queue names of your own."""
    server = _start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[valkey_server.Server]:
    """An empty server for one test, which may restart or kill it; its data survive a restart."""
    server = _start_valkey(tmp_path / "valkey", appendonly=True)
    yield server
    server.stop()


def _start_valkey(folder: Path, appendonly: bool = False) -> valkey_server.Server:
    try:
        return valkey_server.start(folder, appendonly=appendonly)
    except valkey_server.ValkeyMissing as missing:
        not_here(str(missing))
        raise


# RabbitMQ


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one node for all tests that do not restart it; take names of your own."""
    from tests.rabbitmq import Node

    with Node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node.url


# Workers


class Worker:
    """A real ``celery worker``: ``hostname`` is its full name, ``process`` its guarded program."""

    def __init__(self, hostname: str, process: Guarded, broker: str) -> None:
        self.hostname = hostname
        self.process = process
        self.broker = broker

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Warm stop: the worker says goodbye."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL: no goodbye; its pool processes are ended as well."""
        self.process.kill()


WorkerFactory = Callable[..., Worker]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerFactory]:
    """``worker(broker, pool="prefork", concurrency=2, queues=("celery",), name="w1", options=())``.

    ``broker`` is a URL; the result backend is the same URL when it is Redis and no other is given. Answers
    once the worker does. ``grace``: seconds that a stop may take before the worker is killed.
    """
    with _workers(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFactory]:
    """As ``worker``, for those that all tests of a file share and leave as they were."""
    with _workers(tmp_path_factory.mktemp("workers")) as start:
        yield start


@contextmanager
def _workers(folder: Path) -> Iterator[WorkerFactory]:
    started: list[Worker] = []
    numbers = itertools.count(1)

    def start(
        broker: str,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Sequence[str] = ("celery",),
        name: str = "",
        app: str = "tests.shop",
        options: Sequence[str] = (),
        events: bool = True,
        timeout: float = 40.0,
        grace: float = 3.0,
        backend: str = "",
        gossip: bool = False,
    ) -> Worker:
        hostname = f"{name or f'w{next(numbers)}'}@{socket.gethostname()}"
        argv = [sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool, "-n", hostname]
        argv += ["-Q", ",".join(queues), "-c", str(concurrency), "-l", "INFO"]
        argv += [] if gossip else ["--without-gossip", "--without-mingle"]
        argv += [*(["-E"] if events else []), *options]
        backend = backend or (broker if broker.startswith("redis") else "")
        env = os.environ | {"SHOP_BROKER": broker, "SHOP_BACKEND": backend, "PYTHONPATH": str(ROOT)}
        env |= {"SHOP_EVENTS": "1" if events else "0"}
        env.pop("DJANGO_SETTINGS_MODULE", None)  # else Celery takes the shop for a Django site
        process = guarded(argv, folder / f"{hostname}.log", env=env, cwd=ROOT, grace=grace)
        running = Worker(hostname, process, broker)
        started.append(running)
        _wait_for_ping(running, timeout)
        return running

    try:
        yield start
    finally:
        for one in started:
            one.process.ask_to_stop()
        for one in started:
            one.stop()


def _wait_for_ping(worker: Worker, timeout: float) -> None:
    app = shop(worker.broker)
    until = time.monotonic() + timeout * PATIENCE
    while time.monotonic() < until:
        if not worker.process.running():
            break
        if app.control.ping(destination=[worker.hostname], timeout=1.0):
            return
    pytest.fail(
        f"{worker.hostname} did not answer in {timeout:g} s. Its log ends:\n{worker.process.tail(30)}"
    )


def shop(broker: str) -> Any:
    """The test project's app bound to ``broker``: ``shop(url).send_task("shop.add", [1, 2], queue=…)``.

    One app for each broker: an app keeps pools of connections to the broker that it first met.
    """
    from celery import Celery

    from tests.shop import app

    if broker not in _shops:
        one = _shops[broker] = Celery("shop", broker=broker, set_as_current=False)
        backend = broker if broker.startswith("redis") else None
        one.conf.update(
            task_send_sent_event=True,
            result_backend=backend,
            broker_pool_limit=app.conf.broker_pool_limit,
            broker_transport_options=app.conf.broker_transport_options,
            # A result that is let go of after its server has ended would look for that for twenty seconds.
            result_backend_transport_options={"retry_policy": {"max_retries": 1, "interval_start": 0.1}},
        )
    return _shops[broker]


_shops: dict[str, Any] = {}


# Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for the tests of a file: while it is there, no other loop can run in this thread."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if not found:
        not_here("Chromium is not installed (on Debian: apt install chromium).")
    expect.set_options(timeout=5_000 * PATIENCE)
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        # Django would refuse its ORM in a thread that has a loop.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without cookies."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


# Faults


@pytest.fixture
def rig(own_valkey: valkey_server.Server) -> Iterator[Rig]:
    """An engine on a server that faults are done to."""
    from tests.faults import Rig

    one = Rig(own_valkey)
    yield one
    one.stop()
    one.broker.close()


# The channel layer


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> InMemoryChannelLayer:
    """The one that hubs of this test listen to."""
    from channels.layers import InMemoryChannelLayer

    from dashboard import listening

    layer = InMemoryChannelLayer()
    monkeypatch.setattr(listening, "get_channel_layer", lambda: layer)
    return layer


# The product


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One for all tests of this process: leave its workers and pools as they were."""
    from tests.product import running

    with running(tmp_path_factory.mktemp("product")) as one:
        yield one


@pytest.fixture
def signed_in(product: Product, browser: Browser) -> Iterator[Any]:
    """``signed_in("otto")`` is a page in a browser of its own; script errors and CSP reports fail.

    Who has signed in once is known by the cookie from then on.
    """
    from tests.product import sign_in

    contexts, wrong = [], []

    def signed_in(name: str = "otto", **options: Any) -> Page:
        if name not in product.sessions:
            with browser.new_context(base_url=product.url) as first:
                sign_in(first.new_page(), name)
                product.sessions[name] = first.storage_state()
        context = browser.new_context(base_url=product.url, storage_state=product.sessions[name], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: "Content Security" in said.text and wrong.append(said.text))
        page.goto("/")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        return page

    yield signed_in
    for context in contexts:
        context.close()
    assert wrong == []


# What was not run is said, and in CI it is a failure


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        verdict = "CI allows none: this run has failed" if CI else "install what they need to run them"
        terminalreporter.section(f"{len(skipped)} test(s) not run; {verdict}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if CI and reporter and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker of each pool on a broker of their own: leave them as they were.

    They run from the first test that is ``watched`` to the last one in a row (``pytest_runtest_teardown``).
    """
    from tests.clusters import Cluster

    folder = tmp_path_factory.mktemp("workers")
    server = _start_valkey(folder / "valkey")
    found = Cluster(server.url, folder)
    yield found
    found.down()
    server.stop()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Workers that the next test does not ask are ended: they would be heard, and cost time."""
    on = "watched"
    if on in getattr(item, "fixturenames", ()) and on not in getattr(nextitem, "fixturenames", ()):
        # Only tests that are functions have fixtures; the type is of all of them.
        item.funcargs["cluster"].down()  # type: ignore[attr-defined]


@pytest.fixture
def watched(cluster: Cluster) -> Iterator[Cluster]:
    """Their rows in the database, kept by their events."""
    from tests.clusters import watching

    with watching(cluster):
        yield cluster
