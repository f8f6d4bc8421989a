"""What stuck tasks have in common is said when it says something."""

from __future__ import annotations

import time

import pytest

from dashboard.queries import attention
from dashboard.queries.stuck import Traits, common, first_argument
from monitor import models, rates
from tests.test_workers_page import history, task, worker


@pytest.mark.parametrize(
    ("args", "first"),
    [
        ("('acme', 3)", "'acme'"),
        ("(7,)", "7"),
        ("['a, b', 1]", "'a, b'"),
        ('("it\'s",)', '"it\'s"'),
        ("(<Order: 12>, 1)", "<Order: 12>"),
        ("('cut off in the mid...", ""),
        ("({'a': 1}, 2)", ""),
        ("('[hidden]', 1)", ""),
        ("('',)", ""),
        ("()", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_first_argument_is_read_where_it_can_be(args: str | None, first: str) -> None:
    assert first_argument(args) == first


W3, W4 = "w3@host", "w4@host"


@pytest.mark.parametrize(
    ("found", "workers", "queues", "said"),
    [
        ([Traits(W3)] * 4, 3, 1, "All 4 run on w3@host."),
        ([Traits(W3)] * 2, 3, 1, "Both run on w3@host."),
        ([Traits(W3)] * 4, 1, 1, ""),
        ([Traits(W3)], 3, 3, ""),
        ([], 3, 3, ""),
        ([Traits(W3)] * 3 + [Traits(W4)], 3, 1, "3 of 4 run on w3@host."),
        ([Traits(W3)] * 2 + [Traits(W4)], 3, 1, ""),
        ([Traits(W3, "pay"), Traits(W4, "pay")], 3, 4, "Both came through the queue pay."),
        ([Traits(W3, "pay"), Traits(W4, "pay")], 3, 1, ""),
        ([Traits(W3, "", "'acme'"), Traits(W4, "", "'acme'")], 3, 1, "Both have 'acme' as first argument."),
        (
            [Traits(W3, "pay", "'acme'")] * 4,
            3,
            3,
            "All 4 run on w3@host, came through the queue pay and have 'acme' as first argument.",
        ),
        # What all share goes before what most share.
        ([Traits(W3, "pay")] * 3 + [Traits(W4, "pay")], 3, 3, "All 4 came through the queue pay."),
        ([Traits(), Traits()], 3, 3, ""),
    ],
)
def test_what_is_shared_is_said(found: list[Traits], workers: int, queues: int, said: str) -> None:
    assert common(found, workers, queues) == said


@pytest.mark.django_db
def test_the_attention_line_has_the_evidence_and_the_common_cause() -> None:
    now = time.time()
    counts: dict[int, int] = {}
    for n in range(100):
        rates.add(counts, 1 + n / 100)
    history(histogram={str(k): v for k, v in counts.items()})
    worker("w3@host")
    worker("w4@host")
    for n in range(4):
        task(f"u{n}", worker="w3@host", started_at=now - 7200 - n, args=f"('acme', {n})")
    (item,) = attention.current()
    assert item.title == "4 tasks look stuck"
    assert "Longest <b>2\u00a0h\u00a000\u00a0min</b>; " in item.text
    assert "all 100 runs of pay ended within about 2.0\u00a0s." in item.text
    assert "All 4 run on w3@host and have &#x27;acme&#x27; as first argument." in item.text


@pytest.mark.django_db
def test_without_a_histogram_the_usual_time_is_told_as_before() -> None:
    history()
    worker("w3@host")
    task("u1", worker="w3@host", started_at=time.time() - 900)
    (item,) = attention.current()
    assert "pay usually takes 1.0\u00a0s to 10\u00a0s" in item.text
    assert models.TaskType.objects.get().histogram == {}
