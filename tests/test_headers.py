"""Every response is sealed, errors and static files too; other sites cannot act; errors tell nothing."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_network
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import SuspiciousOperation
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse

from dashboard import access, middleware
from dashboard.views import errors

PASSWORD = "correct horse 9"


@pytest.fixture
def viewer(db: None, client: Client) -> Client:
    client.force_login(access.create_user("viewer", "viewer", PASSWORD))
    return client


def sealed(answer: Any) -> None:
    for header, value in middleware.HEADERS.items():
        assert answer[header] == value, header
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_the_policy_allows_nothing_unsafe() -> None:
    assert "unsafe" not in middleware.POLICY and "*" not in middleware.POLICY
    assert middleware.POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in middleware.POLICY


def test_a_page_is_sealed_and_never_kept(viewer: Client) -> None:
    answer = viewer.get(reverse("feed"))
    sealed(answer)
    assert answer["Cache-Control"] == "no-store"
    assert re.fullmatch(r"[0-9a-f]{4}-[0-9a-f]{4}", answer["X-Request-Id"])


@pytest.mark.parametrize(
    "path", ["/no/such/page/", "/sign-in/", "/feed/", "/sign-out/", "/static/no-such-file"]
)
def test_errors_and_redirects_are_sealed(db: None, client: Client, path: str) -> None:
    sealed(client.get(path))


def test_a_host_that_is_not_ours_is_refused_and_sealed(db: None, client: Client, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["umbel.example.net"]
    answer = client.get("/sign-in/", headers={"host": "evil.example"})
    assert answer.status_code == 400
    sealed(answer)
    assert "evil" not in answer.content.decode()


def _asked(application: Any, path: str) -> list[dict[str, Any]]:
    """What an ASGI application sends to a GET."""
    sent: list[dict[str, Any]] = []
    left = [{"type": "http.request", "body": b"", "more_body": False}]
    scope = {
        **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode()},
        **{"query_string": b"", "headers": [], "scheme": "http", "http_version": "1.1", "root_path": ""},
        **{"asgi": {"version": "3.0"}, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)},
    }

    async def receive() -> dict[str, Any]:
        return left.pop() if left else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    return sent


def test_a_static_file_is_sealed() -> None:
    from dashboard.asgi import application

    sent = _asked(application, "/static/css/base.css")
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[0]["status"] == 200
    for header, value in middleware.HEADERS.items():
        assert got.get(header.lower()) == value, header
    assert not [name for name in got if name.startswith("access-control-")]


def test_cross_origin_permission_is_taken_away_whoever_gave_it() -> None:
    def generous(request: Any) -> HttpResponse:
        return HttpResponse(
            headers={"Access-Control-Allow-Origin": "*", "access-control-allow-credentials": "true"}
        )

    sealed(middleware.headers(generous)(RequestFactory().get("/")))


def test_a_page_is_answered_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of thread waits for the interpreter: one to begin, one to answer, one to end."""
    from asgiref.sync import SyncToAsync

    from dashboard.asgi import pages

    changes: list[object] = []
    change = SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        changes.append(self.func)
        return await change(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)
    sent = _asked(pages, "/no/such/page/")
    assert sent[0]["status"] in (400, 404)
    assert len(changes) <= 3, changes


# Other sites


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 302), ("none", 302)]
)
def test_only_this_site_may_post(db: None, client: Client, site: str, status: int) -> None:
    answer = client.post(reverse("sign-out"), headers={"Sec-Fetch-Site": site})
    assert answer.status_code == status
    sealed(answer)


def test_a_post_of_another_site_does_nothing(viewer: Client) -> None:
    viewer.post(reverse("sign-out"), headers={"Sec-Fetch-Site": "cross-site"})
    assert viewer.get(reverse("feed")).status_code == 200


def test_a_link_from_another_site_may_be_followed(viewer: Client) -> None:
    assert viewer.get(reverse("feed"), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_a_form_without_its_token_is_refused_with_a_way_out(db: None) -> None:
    answer = Client(enforce_csrf_checks=True).post(reverse("sign-out"))
    assert answer.status_code == 403
    assert "Load the page again" in answer.content.decode()


# Error pages


def test_a_missing_page_does_not_repeat_the_address(db: None, client: Client) -> None:
    answer = client.get("/no/<script>alert(1)</script>/")
    assert answer.status_code == 404
    page = answer.content.decode()
    assert "alert(1)" not in page and "There is nothing here" in page


def test_a_failure_names_itself_and_nothing_of_the_inside(
    viewer: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    from dashboard.queries import search

    def failing(text: str) -> list[object]:
        raise RuntimeError("redis://:hunter2@broker/0")

    monkeypatch.setattr(search, "hits", failing)
    viewer.raise_request_exception = False
    answer = viewer.get(reverse("search"), {"q": "x"})
    page = answer.content.decode()
    assert answer.status_code == 500
    sealed(answer)
    assert answer["X-Request-Id"] in page
    for inside in ("hunter2", "RuntimeError", "Traceback", settings.SECRET_KEY, "dashboard/"):
        assert inside not in page


def test_an_error_behind_htmx_is_a_toast(viewer: Client) -> None:
    answer = viewer.get("/no/such/page/", headers={"HX-Request": "true"})
    assert answer.status_code == 404
    assert answer["HX-Retarget"] == "#toasts"
    assert 'class="toast"' in answer.content.decode() and "<html" not in answer.content.decode()


def test_a_request_that_makes_no_sense_is_not_echoed() -> None:
    request = RequestFactory().get("/")
    answer = errors.bad_request(request, SuspiciousOperation("<script>secret</script>"))
    assert answer.status_code == 400 and "secret" not in answer.content.decode()


def test_a_refusal_names_the_role_that_is_needed_and_the_one_held(db: None) -> None:
    request = RequestFactory().get("/")
    request.user = access.create_user("v", "viewer")
    page = errors.forbidden(request, access.Forbidden("operator")).content.decode()
    assert "needs the operator role" in page and "You have the viewer role" in page


def test_no_page_needs_an_inline_style_or_script(viewer: Client) -> None:
    User.objects.filter(username="viewer").update(is_superuser=True)
    for name in ("feed", "search", "users", "user-add", "overview", "tasks", "workers", "audit"):
        page = viewer.get(reverse(name)).content.decode()
        assert " style=" not in page and "<style" not in page, name
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", page), name
        assert not re.search(r"<[^>]*\son[a-z]+=", page), name


# Who sent it


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # nobody trusts that peer
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # the first was written by the sender
        ("127.0.0.1", "203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", "10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "<script>", "127.0.0.1"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
    ],
)
def test_a_sender_is_known_behind_trusted_proxies_only(
    settings: Any, peer: str, said: str, address: str
) -> None:
    settings.UMBEL_TRUSTED_PROXIES = [ip_network("127.0.0.1"), ip_network("10.0.0.0/8")]
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=said)
    middleware.Sender(lambda _: HttpResponse())(request)
    assert request.META["REMOTE_ADDR"] == address


def test_without_trusted_proxies_nobody_can_choose_an_address(settings: Any) -> None:
    assert settings.UMBEL_TRUSTED_PROXIES == []
    request = RequestFactory().get("/", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.9")
    middleware.Sender(lambda _: HttpResponse())(request)
    assert request.META["REMOTE_ADDR"] == "127.0.0.1"


# No database


@pytest.mark.parametrize("part", [False, True])
def test_a_database_that_is_locked_is_not_told_as_a_fault_of_the_page(
    viewer: Client, monkeypatch: pytest.MonkeyPatch, part: bool
) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("database is locked at /secret/place")

    monkeypatch.setattr("dashboard.views.tasks.many.choices", locked)
    answer = viewer.get(reverse("tasks"), headers={"HX-Request": "true"} if part else {})
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    sealed(answer)
    html = answer.content.decode()
    assert "database does not answer" in html
    assert "fault is in Umbel" not in html and "/secret/place" not in html


def test_a_form_that_came_through_a_proxy_under_another_name_says_what_to_mend(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["umbel.example"]
    strict = Client(enforce_csrf_checks=True)
    values = {"HTTP_HOST": "umbel.example", "HTTP_ORIGIN": "https://umbel.example:8443"}
    answer = strict.post("/sign-in/", {"username": "ada", "password": "x"}, **values)
    assert answer.status_code == 403
    html = answer.content.decode()
    assert "https://umbel.example:8443" in html and "was asked as umbel.example without HTTPS" in html
    assert "--origins" in html
    evil = strict.post("/sign-in/", {}, HTTP_HOST="umbel.example", HTTP_ORIGIN="https://<script>")
    assert "<script>" not in evil.content.decode()
