"""Faults of RabbitMQ under load: rows, gaps and losses are compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.valkey import Server
from monitor import models
from tests.conftest import wait_until
from tests.engines import feed
from tests.faults import QUICK, Load, Rig, gaps
from tests.rabbitmq import Node

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

ENDED = ("SUCCESS", "FAILURE")


ALLOW = (
    'rabbit_auth_backend_internal:set_permissions(<<"umbel">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<>>).'
)
FORBID = 'rabbit_auth_backend_internal:clear_permissions(<<"umbel">>, <<"/">>, <<>>), '
CLOSE = (
    'lists:sum([begin rabbit_networking:close_connection(Pid, "{why}"), 1 end || '
    "[{{pid, Pid}}, {{peer_port, {port}}}] <- rabbit_networking:connection_info_all([pid, peer_port])])."
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node, which every test leaves running; each takes a queue of its own."""
    with Node(tmp_path_factory.mktemp("node")) as one:
        one.evaluate('rabbit_auth_backend_internal:add_user(<<"umbel">>, <<"sees-all">>, <<>>), ' + ALLOW)
        yield one


@pytest.fixture
def rig(node: Node, valkey: Server) -> Iterator[Rig]:
    """An engine that signs in as a user of its own; results are in Redis."""
    one = Rig(valkey, node.url.replace("guest:guest", "umbel:sees-all"))
    yield one
    one.stop()
    one.broker.close()


def close(rig: Rig, node: Node, why: str, before: str = "") -> None:
    """RabbitMQ ends the connection on which Umbel listens, and no other."""
    source: Any = rig.engine._source
    port = source.connection.connection.transport.sock.getsockname()[1]
    assert node.evaluate(before + CLOSE.format(why=why, port=port)).strip() == "1"


def test_a_restart_of_rabbitmq_is_a_gap_after_which_every_end_is_found(
    rig: Rig, node: Node, worker: Any
) -> None:
    """R14. What the backend never learnt (RabbitMQ had not kept the message) no row may claim."""
    one = worker(node.url, backend=rig.server.url, name="hop", queues=("hop",), options=QUICK).hostname
    rig.online(one)
    with Load(node.url, ["hop"], rate=30) as load:
        time.sleep(1.0)
        node.stop()
        wait_until(lambda: not rig.engine.feed.connected, what="the loss")
        node.start()
        wait_until(lambda: rig.engine.feed.connected, 30, what="the connection")
        back = models.Worker.objects.filter(hostname=one, status="online")
        wait_until(back.exists, 60, what="the worker")
        time.sleep(1.0)

    def wrong() -> dict[str, tuple[str | None, str]]:
        found = rig.wrong(load.uuids)
        return {uuid: pair for uuid, pair in found.items() if pair[1] in ENDED or pair[0] in ENDED}

    def still_moves() -> bool:
        return list(rig.truth(load.uuids).values()).count("PENDING") < len(load.uuids) // 4

    wait_until(still_moves, 30, what="the true ends")
    wait_until(lambda: not wrong(), 30, every=0.25, what=f"{wrong()} set right")
    assert [end is not None and end > start and bool(why) for start, end, why in gaps()] == [True]
    assert feed().accounting.balanced
    rig.missed_is_exact(one, load.uuids)


def test_when_rabbitmq_closes_our_connection_nothing_is_missing_or_wrong(
    rig: Rig, node: Node, worker: Any
) -> None:
    """R15: and each is a gap, named in RabbitMQ's words, and the lost starts are counted exactly."""
    one = worker(node.url, backend=rig.server.url, name="shut", queues=("shut",), options=QUICK).hostname
    rig.online(one)
    with Load(node.url, ["shut"], rate=30) as load:
        for number in range(2):
            time.sleep(0.5)
            close(rig, node, "enough of this")
            wait_until(lambda n=number: len([end for _, end, _ in gaps() if end]) == n + 1, what="a gap")
    rig.all_right(load.uuids)
    rig.missed_is_exact(one, load.uuids)
    assert all("enough of this" in why for _, _, why in gaps())


@pytest.mark.parametrize("seconds", [6.0, pytest.param(15.0, marks=pytest.mark.soak)])
def test_what_is_sent_while_the_engine_stands_still_waits_for_it(
    rig: Rig, node: Node, worker: Any, seconds: float
) -> None:
    """R16: longer than the five seconds after which Celery's own event queues drop messages."""
    one = worker(node.url, backend=rig.server.url, name="nods", queues=("nods",), options=QUICK).hostname
    rig.online(one)
    with Load(node.url, ["nods"], rate=30) as load:
        time.sleep(0.3)
        with rig.held():
            time.sleep(seconds)
        time.sleep(0.3)
    rig.all_right(load.uuids)
    assert gaps() == []
    assert not models.Task.objects.filter(known="inferred").exists()  # all of it was heard
    rig.missed_is_exact(one, load.uuids)
    assert models.Worker.objects.get(hostname=one).missed == 0


def test_without_permission_umbel_says_so_and_comes_back_with_it(rig: Rig, node: Node, worker: Any) -> None:
    """R17: the vhost is closed to Umbel's user while its cluster works on."""
    one = worker(node.url, backend=rig.server.url, name="bars", queues=("bars",), options=QUICK).hostname
    rig.online(one)
    with Load(node.url, ["bars"], rate=30) as load:
        time.sleep(0.3)
        close(rig, node, "no longer yours", before=FORBID)
        refused = "access to vhost '/' refused for user 'umbel'"
        wait_until(lambda: refused in rig.engine.feed.error, what=f"why: {rig.engine.feed.error}")
        assert not rig.engine.feed.connected
        assert models.Worker.objects.get(hostname=one).status != "offline"
        node.evaluate(ALLOW)
        wait_until(lambda: rig.engine.feed.connected, 30, what="the connection")
        time.sleep(0.3)
    rig.all_right(load.uuids)
    rig.missed_is_exact(one, load.uuids)
    assert len(gaps()) == 1
