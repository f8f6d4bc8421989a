"""The bench is an instrument: its events are Celery's to the byte, its ledger is true, its checker sees."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as whole
from bench import events, ledger, load, report
from bench.events import Sender
from bench.generator import EVENTS_A_TASK, Plan, Stream, disordered
from demo import valkey as valkey_server
from monitor.cluster import Cluster
from monitor.events import decode
from monitor.records import TaskRecord

RECORDINGS = Path(__file__).parent / "recordings"
START = 1_795_361_237.0


def made(plan: Plan) -> tuple[list[bytes], ledger.Ledger]:
    stream, commands = Stream(plan, START), []
    while not stream.done:
        commands += stream.upto(stream.simulated + 1)
    return commands, stream.close()


def payload_of(command: bytes) -> bytes:
    return command.split(b"\r\n", 6)[6][:-2]


@pytest.fixture(scope="module")
def captured() -> list[tuple[str, str]]:
    """Channel and payload of real messages."""
    return [message for path in sorted(RECORDINGS.glob("wire_*.json")) for message in _messages(path)]


class TestBytes:
    """Every kind of event, rebuilt from the values of a real one, is the real one's bytes."""

    def test_an_event_is_celerys_to_the_byte(self, captured: list[tuple[str, str]]) -> None:
        seen = set()
        for _, payload in captured:
            if (body := _json_body(payload)) is None:
                continue
            listed = json.loads(body)
            for event in listed if isinstance(listed, list) else [listed]:
                if (text := rebuilt(event)) is None:
                    continue
                seen.add(event["type"])
                assert text == json.dumps(event)
                assert text in body
        assert seen >= {
            "task-sent", "task-received", "task-started", "task-succeeded", "task-failed", "task-retried",
            "task-revoked", "task-rejected", "worker-online", "worker-heartbeat", "worker-offline",
        }  # fmt: skip

    def test_an_envelope_is_kombus_to_the_byte(self, captured: list[tuple[str, str]]) -> None:
        checked = 0
        for channel, payload in captured:
            envelope = json.loads(payload)
            properties = envelope["properties"]
            key = properties["delivery_info"]["routing_key"]
            exchange = properties["delivery_info"]["exchange"]
            if not channel.startswith("/0.celeryev/") or exchange != "celeryev" or key == "task.progress":
                continue
            if (body := _json_body(payload)) is None:
                continue
            sender = Sender(envelope["headers"]["hostname"], 1)
            assert events.payload(sender, key, body, properties["delivery_tag"]) == payload.encode()
            checked += 1
        assert checked > 20

    def test_a_list_is_joined_as_json_joins_it(self) -> None:
        commands, _ = made(Plan(tasks=200))
        lists = 0
        for command in commands:
            body = base64.b64decode(json.loads(payload_of(command))["body"]).decode()
            assert json.dumps(json.loads(body)) == body
            lists += body.startswith("[")
        assert lists > 100


class TestStream:
    def test_its_events_are_read_without_a_fault(self) -> None:
        commands, truth = made(Plan(tasks=1_000, rate=10_000))
        found = [decode(payload_of(command)) for command in commands]
        assert sum(len(decoded.events) for decoded in found) == truth.events
        assert not any(decoded.malformed or decoded.ignored for decoded in found)

    def test_its_sizes_and_lists_are_those_of_real_workers(self) -> None:
        commands, truth = made(Plan(tasks=3_000, rate=20_000))
        assert 1.5 <= truth.events / truth.messages <= 2.4
        size = sum(len(base64.b64decode(json.loads(payload_of(c))["body"])) for c in commands) / truth.events
        assert 400 <= size <= 650
        assert truth.events / truth.total == pytest.approx(EVENTS_A_TASK, rel=0.05)

    def test_processed_is_what_was_started_before(self) -> None:
        started: dict[str, int] = {}
        beats = 0
        for command in made(Plan(tasks=2_000, rate=2_000))[0]:
            for event in decode(payload_of(command)).events:
                if event.type == "task-started":
                    started[event.hostname] = started.get(event.hostname, 0) + 1
                elif event.type == "worker-heartbeat":
                    beats += 1
                    assert event.processed == started.get(event.hostname, 0)  # type: ignore[attr-defined]
        assert beats > 20

    def test_fed_by_credit_no_clock_goes_back(self) -> None:
        stream, last = Stream(Plan(tasks=600, rate=2_000), START), {}
        for turn in range(200):
            # Now slower than the life it tells, now faster.
            stream.catch_up(START + turn * (0.01 if turn % 20 < 10 else 0.05))
            for command in stream.upto(stream.simulated + 0.04):
                for event in decode(payload_of(command)).events:
                    assert event.timestamp >= last.get(event.hostname, 0.0)
                    last[event.hostname] = event.timestamp
        assert len(last) > 10

    def test_the_same_seed_gives_the_same_bytes(self) -> None:
        assert made(Plan(tasks=300, seed=7)) == made(Plan(tasks=300, seed=7))
        assert made(Plan(tasks=300, seed=7))[0] != made(Plan(tasks=300, seed=8))[0]


@pytest.fixture(scope="module")
def life() -> tuple[list[bytes], ledger.Ledger]:
    return made(Plan(tasks=1_000, rate=8_000, seed=3, unfinished=0.02))


class TestLedger:
    """What the cluster and its store end with is what the ledger says, in any order."""

    @pytest.mark.parametrize("order", ["as sent", "shuffled and twice", "split over a restart"])
    @pytest.mark.django_db(transaction=True)
    def test_history_ends_as_the_ledger_says(
        self, order: str, life: tuple[list[bytes], ledger.Ledger]
    ) -> None:
        from monitor.store import Store

        commands, truth = life
        assert {line[1] for line in truth.tasks} == {"SUCCESS", "FAILURE", "REVOKED", "REJECTED", "STARTED"}
        if order == "shuffled and twice":
            commands = list(disordered(commands, random.Random(5)))
        store = Store()
        half = len(commands) // 2 if order == "split over a restart" else len(commands)
        for part in (commands[:half], commands[half:]):
            _through(Cluster(), store, part)
        verdict = ledger.check(truth, _stored())
        assert str(verdict) == "1,000 tasks, all right", verdict.examples
        names, workers = ledger.counts(_stored())
        assert (names, workers) == (truth.by_name, truth.by_worker)

    @pytest.mark.django_db(transaction=True)
    def test_a_load_that_is_cut_short_is_told_as_it_stands(self) -> None:
        from monitor.store import Store

        stream = Stream(Plan(rate=8_000, seed=3), START)
        commands = stream.upto(START + 1.0)
        truth = stream.close()
        # Some are back in their queue: Celery's State has them rejected for good.
        assert {"PENDING", "RECEIVED", "STARTED", "RETRY"} < {line[1] for line in truth.tasks}
        _through(Cluster(), Store(), commands)
        verdict = ledger.check(truth, _stored())
        # How often one was retried is told by what its next attempt says, which is yet to come.
        assert not verdict.missing and set(verdict.kinds) <= {"retries"}, verdict

    def test_the_checker_sees_each_kind_of_fault(self, life: tuple[list[bytes], ledger.Ledger]) -> None:
        truth = life[1]
        rows: list[Any] = [tuple(line) for line in truth.tasks]
        assert ledger.check(truth, rows).exact
        uuid, _, name, worker, retries = rows[0]
        planted = [(uuid, "PENDING", name, worker, retries), *rows[2:], rows[5], ("x", "SUCCESS", "", "", 0)]
        verdict = ledger.check(truth, planted)
        found = (verdict.right, verdict.wrong, verdict.missing, verdict.extra, verdict.repeated)
        assert found == (998, 1, 1, 1, 1)
        assert verdict.kinds == {f"state: PENDING for {rows[0][1]}": 1}
        assert "1 wrong, 1 missing, 1 extra" in str(verdict)

    def test_counts_differ_by_as_many_tasks_as_are_wrong(
        self, life: tuple[list[bytes], ledger.Ledger]
    ) -> None:
        truth = life[1]
        assert ledger.check_counts(truth, *ledger.counts(truth.tasks)) == 0
        assert ledger.check_counts(truth, *ledger.counts(truth.tasks[3:])) == 3


@pytest.mark.live
class TestLoad:
    def test_all_is_published_and_counted(self, valkey: valkey_server.Server, tmp_path: Path) -> None:
        import redis

        client = redis.Redis.from_url(valkey.url)
        listening = client.pubsub()
        listening.psubscribe("/0.celeryev/*")
        listening.get_message(timeout=5)
        with load.Load(valkey.url, tmp_path, Plan(tasks=500, rate=20_000), ahead=True) as going:
            going.go()
            truth = going.wait(60)
        received = []
        while (message := listening.get_message(timeout=0.5)) is not None:
            received.append(message["data"])
        assert len(received) == truth.messages == truth.delivered
        assert sum(len(decode(data).events) for data in received) == truth.events
        assert truth.total == len(truth.tasks) == 500
        assert not truth.cut
        listening.close()
        client.close()

    def test_it_can_be_ended_and_still_knows_all(self, valkey: valkey_server.Server, tmp_path: Path) -> None:
        before = _published(valkey.url)
        with load.Load(valkey.url, tmp_path, Plan(rate=500)) as going:
            going.go()
            report.until(lambda: _published(valkey.url) > before + 200, 30, "some events")
            truth = going.stop()
        assert truth.events > 100
        assert {"RECEIVED", "SUCCESS"} <= {line[1] for line in truth.tasks}

    def test_by_credit_it_publishes_what_it_may_and_no_more(
        self, valkey: valkey_server.Server, tmp_path: Path
    ) -> None:
        before = _published(valkey.url)
        with load.Load(valkey.url, tmp_path, Plan(tasks=10_000, rate=5_000), credit=True) as going:
            going.go()
            going.allow(600)
            report.until(lambda: _published(valkey.url) > before + 250, 30, "what it may")
            truth = going.stop()
        # A helping is of four bins: 200 events.
        assert 250 <= truth.events <= 900


class TestTable:
    def test_a_row_says_the_bound_the_figures_and_whether_it_is_met(self) -> None:
        text = report.table(
            [
                report.Row(
                    "events per CPU-second", "15 × Flower", 98_765.4, "/s", True, "", 6_100, 210_000.0, 16.2
                ),
                report.Row("tasks page, p95", "50 ms", 61.5, "ms", False),
                report.Row("memory", "", None, "MB"),
            ]
        )
        lines = text.splitlines()
        assert lines[2].split("|")[1:-1] == [
            f" {cell.ljust(len(head) - 2)} "
            for cell, head in zip(
                [
                    "events per CPU-second",
                    "15 × Flower",
                    "98,765 /s",
                    "6,100 /s",
                    "210,000 /s",
                    "16.2 ×",
                    "yes",
                ],
                lines[0].split("|")[1:-1],
                strict=True,
            )
        ]
        assert "NO" in lines[3]
        assert "61.5 ms" in lines[3]
        assert len({len(line) for line in lines}) == 1

    def test_the_note_claims_nothing_that_was_not_measured(self) -> None:
        met, missed = report.Row("a", "1 ms", 0.5, "ms", True), report.Row("b", "1 ms", 5.0, "ms", False)
        assert "is met" not in whole.note({}, "")
        assert "Not measured: ingest, memory" in whole.note({}, "")
        some = {"push": {"at": "today", "seconds": 1, "rows": [met, missed]}}
        assert "Not met: b." in whole.note(some, "")
        all_of_it = {name: {"at": "today", "seconds": 1, "rows": [met]} for name in whole.PARTS}
        assert "Every bound is met.\n" in whole.note(all_of_it, "by hand")
        assert whole.note(all_of_it, "by hand").endswith(f"{whole.BY_HAND}\nby hand")

    def test_all_is_said_of_all_only(self) -> None:
        assert report.share(30_000, 30_000) == "100 %"
        assert report.share(29_999, 30_000) == "99.99 %"

    def test_percentiles_are_values_that_were_measured(self) -> None:
        values = [float(n) for n in range(1, 101)]
        assert report.percentile(values, 0.95) == 95
        assert report.percentile(values, 0.5) == 50
        assert report.percentile(values, 1) == 100
        assert report.percentile([3.0], 0.99) == 3.0


def rebuilt(event: dict[str, Any]) -> str | None:
    """The event's text by the bench's own builder from the real one's values; None for a custom event."""
    kind = event["type"].removeprefix("task-").removeprefix("worker-")
    sender = Sender(event["hostname"], event["pid"], event["utcoffset"])
    sender.clock = event["clock"] - 1
    uuid, at = event.get("uuid", ""), event["timestamp"]
    if event["type"].startswith("worker-"):
        sender.active, sender.processed = event["active"], event["processed"]
        return sender.state(kind, event["loadavg"], at)
    if kind in ("sent", "received"):
        call = events.call(event["name"], event["args"], event["kwargs"])
        kin = events.kin(event["root_id"], event["parent_id"])
        if event["expires"] is not None:
            return None  # the generator sends none
        common = (uuid, call, event["retries"], json.dumps(event["eta"]), kin)
        if kind == "sent":
            return sender.sent(*common, event["queue"], at)
        return sender.received(*common, at)
    match kind:
        case "started":
            return sender.started(uuid, at)
        case "succeeded":
            return sender.succeeded(uuid, json.dumps(event["result"]), event["runtime"], at)
        case "failed" | "retried":
            if "traceback" not in event:
                return None  # of a task that the worker does not know
            return sender.raised(kind, uuid, events.error(event["exception"], event["traceback"]), at)
        case "rejected":
            return sender.rejected(uuid, event["requeue"], at)
        case "revoked":
            how = {field: event[field] for field in ("terminated", "signum", "expired")}
            known = (events.REVOKED, events.EXPIRED, events.TERMINATED)
            return next(
                (sender.revoked(uuid, text, at) for text in known if json.loads(f"{{{text}}}") == how), None
            )
    return None


def _messages(path: Path) -> list[tuple[str, str]]:
    messages = json.loads(path.read_text())["messages"]
    return [(channel, payload) for _, channel, payload in messages if "celeryev" in channel]


def _json_body(payload: str) -> str | None:
    envelope = json.loads(payload)
    if envelope["content-type"] != "application/json" or envelope["properties"]["body_encoding"] != "base64":
        return None
    return base64.b64decode(envelope["body"]).decode()


def _through(cluster: Cluster, store: Any, commands: list[bytes]) -> None:
    """As the engine does it, a tick each 400 messages."""
    now = START
    for place in range(0, len(commands), 400):
        for command in commands[place : place + 400]:
            decoded = decode(payload_of(command))
            for event in decoded.events:
                cluster.apply(event, max(now, event.timestamp))
                now = max(now, event.timestamp)
        cluster.tick(now)
        if cold := cluster.cold():
            cluster.absorb(store.load(cold))
        store.write(cluster.drain(now), now)
    assert cluster.accounting.balanced


def _stored() -> list[ledger.Line]:
    from monitor import models

    assert set(ledger.FIELDS) <= {*TaskRecord.__struct_fields__}
    return list(models.Task.objects.values_list(*ledger.FIELDS))


def _published(url: str) -> int:
    import redis

    with redis.Redis.from_url(url) as client:
        return int(client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


def test_steps_have_a_cost_each() -> None:
    argv = [sys.executable, "-m", "bench.steps", "--tasks", "300", "--rounds", "2"]
    done = subprocess.run(argv, cwd=report.ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    costs = {
        line[:32].strip(): float(line[32:])
        for line in (done.stdout + done.stderr).splitlines()
        if line.startswith("  ")
    }
    assert len(costs) == 10 and min(costs.values()) > 0
    assert costs["together"] == pytest.approx(sum(list(costs.values())[:6]), abs=0.5)
