"""Who may ask the API: people by password, scrapers, this machine when it is opened, and nobody else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from dashboard.api import callers
from dashboard.models import SignInAttempt
from tests.viewers import PASSWORD
from tests.viewers import nothing_known as nothing_known
from tests.viewers import vera as vera
from tests.viewers import viewer as viewer

pytestmark = pytest.mark.django_db


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


PATHS = ("/api/workers", "/api/tasks", "/api/task/types", "/metrics")


@pytest.mark.parametrize("path", [*PATHS, "/api/task/info/a"])
def test_a_stranger_is_told_flowers_sentence(client: Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.content.decode()) == (401, callers.CLOSED)
    assert answer["Content-Type"] == "text/plain; charset=UTF-8"
    assert answer["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", PATHS)
def test_a_user_comes_in_by_basic(client: Client, vera: User, path: str) -> None:
    assert client.get(path, headers=basic("vera", PASSWORD)).status_code == 200
    wrong = client.get(path, headers=basic("vera", "wrong"))
    assert (wrong.status_code, wrong.content.decode()) == (401, callers.WRONG)


@pytest.mark.parametrize(
    "said",
    ["Basic", "Basic !!!", "Bearer x", "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Basic Og==",
     basic("vera\0", "x\0")["Authorization"], "Basic " + "A" * 9000, basic("é", "ü")["Authorization"]],
)  # fmt: skip
def test_odd_credentials_are_wrong_and_never_a_fault(client: Client, vera: User, said: str) -> None:
    assert client.get("/api/tasks", headers={"Authorization": said}).status_code == 401


def test_wrong_passwords_are_throttled_and_then_the_right_one_too(client: Client, vera: User) -> None:
    codes = [client.get("/api/tasks", headers=basic("vera", f"no{n}")).status_code for n in range(11)]
    assert codes == [401] * 10 + [429]
    late = client.get("/api/tasks", headers=basic("vera", PASSWORD))
    assert late.status_code == 429
    assert int(late["Retry-After"]) > 0


def test_a_scraper_that_was_let_in_is_not_shut_out_by_others_guesses(client: Client, vera: User) -> None:
    assert client.get("/metrics", headers=basic("vera", PASSWORD)).status_code == 200
    for n in range(12):
        client.get("/metrics", headers=basic("vera", f"no{n}"))
    before = SignInAttempt.objects.count()
    assert client.get("/metrics", headers=basic("vera", PASSWORD)).status_code == 200
    assert SignInAttempt.objects.count() == before


def test_a_password_that_changed_or_a_person_who_left_is_out_at_once(client: Client, vera: User) -> None:
    assert client.get("/metrics", headers=basic("vera", PASSWORD)).status_code == 200
    vera.set_password("another horse 8")
    vera.save()
    assert client.get("/metrics", headers=basic("vera", PASSWORD)).status_code == 401
    assert client.get("/metrics", headers=basic("vera", "another horse 8")).status_code == 200
    User.objects.filter(pk=vera.pk).update(is_active=False)
    assert client.get("/metrics", headers=basic("vera", "another horse 8")).status_code == 401


def test_an_account_without_a_role_reads_nothing(client: Client) -> None:
    User.objects.create_user("without", password=PASSWORD)
    answer = client.get("/api/tasks", headers=basic("without", PASSWORD))
    assert answer.status_code == 403
    client.force_login(User.objects.get(username="without"))
    assert client.get("/api/tasks").status_code == 403


@pytest.fixture
def opened(settings: Any) -> None:
    settings.UMBEL_OPEN_API = True


OWN = {"Host": "localhost:8000"}


def test_opened_it_answers_this_machine_without_any_cors_header(opened: None, client: Client) -> None:
    for headers in (
        {}, {"Origin": "http://localhost:8000"}, {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
    ):  # fmt: skip
        answer = client.get("/api/tasks", headers=OWN | headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    options = client.options("/api/tasks", headers=OWN | {"Origin": "http://evil.example"})
    assert options.status_code == 204
    assert not [name for name in options.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "https://[bad"},
        {"Referer": "http://evil.example/page"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "something-new"},
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_opened_it_refuses_what_a_page_of_another_site_asks(
    opened: None, client: Client, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(path, headers=OWN | headers)
    assert (answer.status_code, answer.content.decode()) == (403, callers.FOREIGN)


@pytest.mark.parametrize("header", callers.PROXIED)
def test_opened_it_is_not_open_behind_a_proxy(opened: None, client: Client, header: str) -> None:
    assert client.get("/api/tasks", headers=OWN | {header: "127.0.0.1"}).status_code == 401


@pytest.mark.parametrize("address", ["10.0.0.7", "", "::ffff:10.0.0.7", "umbel"])
def test_opened_it_is_not_open_to_other_machines(opened: None, client: Client, address: str) -> None:
    assert client.get("/api/tasks", headers=OWN, REMOTE_ADDR=address).status_code == 401


@pytest.mark.parametrize("address", ["::1", "127.0.0.9", "::ffff:127.0.0.1"])
def test_opened_it_knows_every_way_to_say_this_machine(opened: None, client: Client, address: str) -> None:
    assert client.get("/api/tasks", headers=OWN, REMOTE_ADDR=address).status_code == 200


def test_opened_it_is_not_open_under_a_public_name(opened: None, client: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["umbel.example", "localhost"]
    assert client.get("/api/tasks", headers={"Host": "umbel.example"}).status_code == 401
    assert client.get("/api/tasks", headers={"Host": "rebound.example"}).status_code == 400


def test_opened_it_still_refuses_a_wrong_password(opened: None, client: Client, vera: User) -> None:
    assert client.get("/api/tasks", headers=OWN | basic("vera", "wrong")).status_code == 401


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_nothing_is_written_here(method: str, vera: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(vera)
    answer = getattr(strict, method)("/api/workers")
    assert (answer.status_code, answer["Allow"]) == (405, "GET, HEAD, OPTIONS")
