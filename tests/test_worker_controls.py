"""Controls of a worker: who may, what is sent, and what is refused before anything is."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from monitor import control as engine
from monitor import models
from monitor.control import Actor, Command

pytestmark = pytest.mark.django_db


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """The commands that reach the engine, which here only takes notes."""
    commands: list[Command] = []

    def perform(command: Command, actor: Actor, **more: Any) -> models.ControlRecord:
        commands.append(command)
        return models.ControlRecord.objects.create(
            at=time.time(),
            user_id=actor.user_id,
            username=actor.username,
            role=actor.role,
            command=command.name,
            targets=list(command.targets),
            arguments=command.arguments,
        )

    monkeypatch.setattr(engine, "perform", perform)
    return commands


@pytest.fixture
def row() -> models.Worker:
    now = time.time()
    return models.Worker.objects.create(
        hostname="a@h", status="online", pool="prefork", size=8, first_seen_at=now, heartbeat_at=now
    )


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


def post(client: Client, name: str, row: models.Worker, /, **data: Any) -> Any:
    return client.post(reverse(name, args=[row.pk]), data)


@pytest.mark.parametrize(("size", "name", "n"), [(12, "pool_grow", 4), (5, "pool_shrink", 3)])
def test_a_size_becomes_growth_or_shrinkage(  # noqa: PLR0917
    operator: Client, row: models.Worker, sent: list[Command], size: int, name: str, n: int
) -> None:
    answer = post(operator, "worker-grow", row, size=size)
    assert answer.status_code == 302
    assert [(c.name, c.targets, c.arguments) for c in sent] == [(name, ("a@h",), {"n": n, "to": size})]


@pytest.mark.parametrize("size", ["", "0", "-3", "abc", "2.5", "501", "9" * 20, "٣", "<b>"])
def test_a_bad_size_is_refused_with_its_value_and_sends_nothing(
    operator: Client, row: models.Worker, sent: list[Command], size: str
) -> None:
    answer = post(operator, "worker-grow", row, size=size)
    assert answer.status_code == 409
    html = answer.content.decode()
    assert "Nothing was sent" in html
    assert "<b>”" not in html
    assert not sent


def test_the_size_it_has_and_a_size_not_known_send_nothing(
    operator: Client, row: models.Worker, sent: list[Command]
) -> None:
    assert "has 8 pool processes already" in post(operator, "worker-grow", row, size=8).content.decode()
    row.size = None
    row.save()
    assert "not known yet" in post(operator, "worker-grow", row, size=8).content.decode()
    assert not sent


def test_shrink_by_a_number_is_sent_as_asked(
    operator: Client, row: models.Worker, sent: list[Command]
) -> None:
    post(operator, "worker-shrink", row, n=2)
    assert [(c.name, c.arguments) for c in sent] == [("pool_shrink", {"n": 2})]


def test_autoscale_takes_two_numbers_in_order(
    operator: Client, row: models.Worker, sent: list[Command]
) -> None:
    post(operator, "worker-autoscale", row, max=9, min=2)
    assert [(c.name, c.arguments) for c in sent] == [("autoscale", {"max": 9, "min": 2})]
    assert "swap them" in post(operator, "worker-autoscale", row, max=2, min=9).content.decode()
    assert "The most is empty" in post(operator, "worker-autoscale", row, min=9).content.decode()
    assert len(sent) == 1


def test_events_are_enabled_on_that_worker_only(
    operator: Client, row: models.Worker, sent: list[Command]
) -> None:
    post(operator, "worker-enable-events", row)
    assert [(c.name, c.targets) for c in sent] == [("enable_events", ("a@h",))]


@pytest.mark.parametrize(
    ("name", "data", "command", "arguments"),
    [
        ("worker-ping", {}, "ping", {}),
        ("worker-restart-pool", {}, "pool_restart", {}),
        ("worker-disable-events", {}, "disable_events", {}),
        ("worker-rate-limit", {"task": " shop.add ", "rate": "10/m"}, "rate_limit",
         {"task": "shop.add", "rate": "10/m"}),
        ("worker-rate-limit", {"task": "shop.add", "rate": "0"}, "rate_limit",
         {"task": "shop.add", "rate": "0"}),
        ("worker-rate-limit", {"task": "shop.add", "rate": "ab/x", "soft": "9"}, "rate_limit",
         {"task": "shop.add", "rate": "ab/x"}),
        ("worker-time-limit", {"task": "shop.add", "soft": "30", "hard": "60.5"}, "time_limit",
         {"task": "shop.add", "soft": "30", "hard": "60.5"}),
        ("worker-time-limit", {"task": "shop.add", "soft": "", "hard": "60", "rate": "1/s"}, "time_limit",
         {"task": "shop.add", "hard": "60"}),
        ("worker-time-limit", {"task": "shop.add", "soft": "0", "hard": "None"}, "time_limit",
         {"task": "shop.add", "soft": "", "hard": ""}),
        ("worker-time-limit", {"task": "shop.add", "soft": "soon"}, "time_limit",
         {"task": "shop.add", "soft": "soon"}),
        ("worker-add-consumer", {"queue": " mail\0 "}, "add_consumer", {"queue": "mail"}),
        ("worker-cancel-consumer", {"queue": "mail"}, "cancel_consumer", {"queue": "mail"}),
        ("worker-cancel-consumer", {"queue": "mail", "last": "yes"}, "cancel_consumer",
         {"queue": "mail", "last": True}),
        ("worker-shutdown", {"name": "a@h"}, "shutdown", {}),
        ("worker-shutdown", {"name": " a@h\n"}, "shutdown", {}),
    ],
)  # fmt: skip
def test_what_is_typed_is_sent_to_that_worker_only(  # noqa: PLR0917
    operator: Client,
    row: models.Worker,
    sent: list[Command],
    name: str,
    data: dict[str, str],
    command: str,
    arguments: dict[str, Any],
) -> None:
    assert post(operator, name, row, **data, reason="to see").status_code == 302
    assert [(c.name, c.targets, c.arguments, c.reason) for c in sent] == [
        (command, ("a@h",), arguments, "to see")
    ]


def test_the_last_queue_is_asked_for_first(operator: Client, row: models.Worker, sent: list[Command]) -> None:
    row.queues = ["mail"]
    row.save()
    html = post(operator, "worker-cancel-consumer", row, queue="mail").content.decode()
    assert "Stop consuming mail on a@h?" in html and "only queue of this worker" in html
    assert 'name="last"' in html and not sent
    # Another one than it is known to consume is the engine's to refuse.
    assert post(operator, "worker-cancel-consumer", row, queue="other").status_code == 302
    assert post(operator, "worker-cancel-consumer", row, queue="mail", last="yes").status_code == 302
    assert [c.arguments for c in sent] == [{"queue": "other"}, {"queue": "mail", "last": True}]


def test_a_question_that_a_stale_button_gets_is_a_dialog(
    operator: Client, row: models.Worker, sent: list[Command]
) -> None:
    row.queues = ["mail"]
    row.save()
    path = reverse("worker-cancel-consumer", args=[row.pk])
    answer = operator.post(path, {"queue": "mail"}, headers={"HX-Request": "true"})
    assert answer["HX-Retarget"] == "#dialog" and "<dialog" in answer.content.decode()
    assert operator.get(path).status_code == 409
    assert not sent


@pytest.mark.parametrize("name", ["", " ", "a@H", "a@h2", "A@h", "yes", "<b>\0", "x" * 300])
def test_a_wrong_name_shuts_nothing_down(
    operator: Client, row: models.Worker, sent: list[Command], name: str
) -> None:
    answer = post(operator, "worker-shutdown", row, name=name)
    html = answer.content.decode()
    assert answer.status_code == 409 and "type a@h to shut it down" in html and "<b>”" not in html
    assert not sent
    ((command, targets, _, who, _),) = refused()
    assert (command, targets, who) == ("shutdown", ["a@h"], "olga")


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_shutdown_without_a_name_asks_what_it_would_end(
    operator: Client, row: models.Worker, sent: list[Command], method: str
) -> None:
    answer = getattr(operator, method)(reverse("worker-shutdown", args=[row.pk]))
    assert answer.status_code == 200 and "Shut down a@h?" in answer.content.decode()
    assert not sent and refused() == []


def test_off_and_on_again_is_meant(operator: Client, row: models.Worker, sent: list[Command]) -> None:
    for name in ("worker-disable-events", "worker-enable-events", "worker-disable-events"):
        post(operator, name, row)
    for name in ("worker-add-consumer", "worker-cancel-consumer", "worker-add-consumer"):
        post(operator, name, row, queue="mail")
    assert len(sent) == 6
    post(operator, "worker-add-consumer", row, queue="mail")
    post(operator, "worker-disable-events", row)
    assert len(sent) == 6, "the same once more is a second click"
    post(operator, "worker-add-consumer", row, queue="other")
    assert len(sent) == 7


ASKS = ("worker-cancel-consumer", "worker-shutdown")
NAMES = (
    "worker-grow", "worker-shrink", "worker-autoscale", "worker-rate-limit", "worker-time-limit",
    "worker-add-consumer", "worker-enable-events", "worker-disable-events", "worker-restart-pool",
    "worker-ping", *ASKS,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_viewer_a_stranger_a_get_and_read_only_send_nothing(
    client: Client, row: models.Worker, sent: list[Command], settings: Any, name: str
) -> None:
    data = {"size": 9, "n": 1, "max": 4, "min": 1, "task": "shop.add", "rate": "1/s", "soft": "1"}
    data |= {"queue": "mail", "last": "yes", "name": "a@h"}
    assert post(client, name, row, **data).status_code == 302
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert post(client, name, row, **data).status_code == 403
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    get = client.get(reverse(name, args=[row.pk]), data)
    assert get.status_code == (200 if name in ASKS else 405)
    settings.UMBEL_READ_ONLY = True
    assert post(client, name, row, **data).status_code == 403
    assert client.get(reverse(name, args=[row.pk]), data).status_code in (403, 405)
    settings.UMBEL_READ_ONLY = False
    assert client.post(reverse(name, args=[row.pk + 1]), data).status_code == 404
    assert not sent


def test_a_form_without_its_token_is_refused(row: models.Worker, sent: list[Command]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    assert post(client, "worker-grow", row, size=9).status_code == 403
    assert not sent


def test_a_refusal_in_the_page_is_a_toast(operator: Client, row: models.Worker, sent: list[Command]) -> None:
    path = reverse("worker-grow", args=[row.pk])
    answer = operator.post(path, {"size": "many"}, headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert "toast" in html
    assert "“many” is none" in html
    assert not sent


def refused() -> list[tuple[Any, ...]]:
    rows = models.ControlRecord.objects.order_by("at").filter(effect="refused")
    return [(r.command, r.targets, r.arguments, r.username, r.reason) for r in rows]


@pytest.mark.parametrize(
    ("name", "data", "command", "arguments"),
    [
        ("worker-grow", {"size": "0"}, "pool_grow", {"to": "0"}),
        ("worker-grow", {"size": "8"}, "pool_grow", {"to": "8"}),
        ("worker-grow", {"size": "<b>\0"}, "pool_grow", {"to": "<b>\ufffd"}),
        ("worker-grow", {"n": "9" * 99}, "pool_grow", {"n": "9" * 40}),
        ("worker-shrink", {"n": "-1"}, "pool_shrink", {"n": "-1"}),
        ("worker-shrink", {}, "pool_shrink", {"n": ""}),
        ("worker-autoscale", {"max": "2", "min": "9"}, "autoscale", {"max": "2", "min": "9"}),
        ("worker-rate-limit", {"task": "a", "rate": " "}, "rate_limit", {"task": "a", "rate": " "}),
        ("worker-time-limit", {"task": "a", "soft": ""}, "time_limit", {"task": "a", "soft": "", "hard": ""}),
        ("worker-shutdown", {"name": "b@h"}, "shutdown", {"name": "b@h"}),
    ],
)
def test_what_is_refused_at_once_is_in_the_audit_log(  # noqa: PLR0917
    operator: Client,
    row: models.Worker,
    sent: list[Command],
    name: str,
    data: dict[str, str],
    command: str,
    arguments: dict[str, str],
) -> None:
    answer = post(operator, name, row, **data, reason="to see")
    assert answer.status_code == 409 and not sent
    assert refused() == [(command, ["a@h"], arguments, "olga", "to see")]
    record = models.ControlRecord.objects.get()
    assert record.evidence.endswith("Nothing was sent.")
    assert record.sent_at is None and record.completed_at == record.at
    log = operator.get("/audit/?effect=refused").content.decode()
    assert str(record.pk) in log and "to <b>" not in log
    assert operator.get(f"/audit/{record.pk}/").status_code == 200


def test_who_may_not_control_leaves_no_refusal(
    client: Client, row: models.Worker, sent: list[Command]
) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert post(client, "worker-grow", row, size="0").status_code == 403
    assert refused() == []
