"""The live socket: from this very site, for who may look, for as long as they may, and never a command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from dashboard import access, consumers, fragments, hub, rights
from dashboard.asgi import application
from dashboard.fragments import Page
from monitor import publish
from tests.hubs import Told

pytestmark = pytest.mark.django_db(transaction=True)

HOST = "umbel.example:8000"
ORIGIN = f"http://{HOST}"


@access.viewer
def here(request: HttpRequest, name: str = "") -> HttpResponse:
    return HttpResponse(fragments.named("board").draw(Page.of(request)))


@access.admin
def secrets(request: HttpRequest) -> HttpResponse:
    return HttpResponse("")


@access.everyone
def open_to_all(request: HttpRequest) -> HttpResponse:
    return HttpResponse("")


urlpatterns = [
    path("here/", here, name="here"),
    path("things/<str:name>/", here, name="thing"),
    path("secrets/", secrets, name="secrets"),
    path("open/", open_to_all, name="open"),
]

TEXT = {"": "one"}


def words(page: Page) -> Mapping[str, Any]:
    return {"text": f"{TEXT['']} {dict(page.kwargs)} {page.query} {page.role}"}


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    """A small site with one live region on each page."""
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    board = Told("board", words, ("tasks",), every=0.0)
    monkeypatch.setattr(fragments.EVERYWHERE, "regions", [])
    monkeypatch.setattr(fragments, "PAGES", {name: [board] for name in ("here", "thing", "secrets", "open")})
    monkeypatch.setitem(fragments._BY_NAME, "board", board)
    monkeypatch.setitem(TEXT, "", "one")
    yield
    publish.bind(None)


def someone(role: str = "viewer", name: str = "ann") -> Client:
    client = Client(headers={"host": HOST})
    client.force_login(access.create_user(name, role))
    return client


def socket(client: Client | None, where: str = "path=/here/", **headers: str | None) -> WebsocketCommunicator:
    sent = {"host": HOST, "origin": ORIGIN} | headers
    name = settings.SESSION_COOKIE_NAME
    if client is not None:
        sent["cookie"] = f"{name}={client.cookies[name].value}"
    pairs = [(name.encode(), value.encode()) for name, value in sent.items() if value is not None]
    return WebsocketCommunicator(application, f"/live/?{where}", headers=pairs)


@asynccontextmanager
async def opened(client: Client, where: str = "path=/here/") -> AsyncIterator[WebsocketCommunicator]:
    live = socket(client, where)
    accepted, code = await live.connect(timeout=15)
    assert accepted, code
    try:
        yield live
    finally:
        await live.disconnect()


async def frame(live: WebsocketCommunicator) -> dict[str, Any]:
    """The one frame of the next message, with the message's numbers."""
    got: dict[str, Any] = json.loads(await live.receive_from(timeout=15))
    (only,) = got["frames"]
    return got | only


async def close_code(live: WebsocketCommunicator) -> int:
    while True:
        message = await live.receive_output(timeout=15)
        if message["type"] == "websocket.close":
            return int(message["code"])


async def refused(live: WebsocketCommunicator) -> int:
    accepted, code = await live.connect(timeout=15)
    assert not accepted, "the socket was let in"
    return int(code or 0)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()
            await hub.current().stop()

    asyncio.run(bounded())


# From where


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "http://evil.example",
        "http://evil.example:8000",
        "http://umbel.example",  # another port: 80
        "http://umbel.example:8001",
        "https://umbel.example:8000",  # another scheme
        "ws://umbel.example:8000",
        "http://umbel.example:8000.evil.example",
        "http://evil-umbel.example:8000",
        "http://umbel.example:8000@evil.example",
        "http://evil.example#umbel.example:8000",
        "http://umbel.example:8000/",
        "http://umbel.example:8000, http://evil.example",
        "http://umbel.example:port",
        "http://[umbel.example:8000",
        "file://",
        "umbel.example:8000",
    ],
)
def test_another_site_is_refused_though_it_sends_the_cookie(origin: str | None) -> None:
    client = someone()

    async def story() -> None:
        accepted, code = await socket(client, origin=origin).connect(timeout=15)
        assert (accepted, code) == (False, consumers.FORBIDDEN)

    run(story)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("umbel.example:8000", "http://umbel.example:8000"),
        ("umbel.example", "http://umbel.example"),
        ("umbel.example:80", "http://umbel.example"),
        ("UMBEL.example:8000", "http://umbel.EXAMPLE:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_the_same_site_is_let_in(host: str, origin: str) -> None:
    scope = {"headers": [(b"host", host.encode()), (b"origin", origin.encode())]}
    assert consumers.is_same_origin(scope)


def test_two_origins_or_no_host_are_refused() -> None:
    twice = [(b"host", HOST.encode()), (b"origin", ORIGIN.encode()), (b"origin", b"http://evil.example")]
    assert not consumers.is_same_origin({"headers": twice})
    assert not consumers.is_same_origin({"headers": [(b"origin", ORIGIN.encode())]})


def test_a_host_that_is_not_ours_is_refused_even_from_itself() -> None:
    scope = {"headers": [(b"host", b"rebound.example:8000"), (b"origin", b"http://rebound.example:8000")]}
    with override_settings(ALLOWED_HOSTS=["umbel.example"]):
        assert not consumers.is_same_origin(scope)


def test_behind_a_proxy_that_ends_tls_the_scheme_is_the_browsers() -> None:
    def scope(origin: str, proto: str) -> dict[str, Any]:
        headers = {"host": "umbel.example", "origin": origin, "x-forwarded-proto": proto}
        return {"headers": [(name.encode(), value.encode()) for name, value in headers.items()]}

    with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert consumers.is_same_origin(scope("https://umbel.example", "https"))
        assert not consumers.is_same_origin(scope("http://umbel.example", "https"))
        assert not consumers.is_same_origin(scope("https://umbel.example", "http"))
    assert not consumers.is_same_origin(scope("https://umbel.example", "https")), (
        "an unasked header is no proof"
    )
    with override_settings(CSRF_TRUSTED_ORIGINS=["https://umbel.example"]):
        assert consumers.is_same_origin(scope("https://umbel.example", "http"))
        assert not consumers.is_same_origin(scope("https://umbel.example:8443", "http"))


# Who


def test_an_anonymous_browser_is_refused() -> None:
    async def story() -> None:
        assert await refused(socket(None)) == consumers.SIGNED_OUT
        made_up = socket(None, cookie=f"{settings.SESSION_COOKIE_NAME}=abcdefghijklmnopqrstuvwxyz012345")
        assert await refused(made_up) == consumers.SIGNED_OUT

    run(story)


def test_an_account_without_a_role_or_without_life_is_refused() -> None:
    client, sleeper = someone(), someone(name="bob")
    User.objects.get(username="ann").groups.clear()
    User.objects.filter(username="bob").update(is_active=False)

    async def story() -> None:
        assert await refused(socket(client)) == consumers.FORBIDDEN
        assert await refused(socket(sleeper)) == consumers.SIGNED_OUT

    run(story)


@pytest.mark.parametrize(
    "where",
    ["", "path=/nowhere/", "path=/secrets/", "path=/open/", "path=here", "path=/here/&query=" + "x" * 9000],
)
def test_a_page_that_is_not_there_or_not_for_this_role_is_refused(where: str) -> None:
    client = someone()

    async def story() -> None:
        assert await refused(socket(client, where)) == consumers.NO_PAGE

    run(story)


def test_an_admin_may_look_where_a_viewer_may_not() -> None:
    client = someone("admin")

    async def story() -> None:
        async with opened(client, "path=/secrets/") as live:
            assert "admin" in (await frame(live))["content"]

    run(story)


def test_another_address_is_refused_without_a_traceback() -> None:
    client = someone()

    async def story() -> None:
        live = socket(client)
        live.scope["path"] = "/elsewhere/"
        assert await refused(live) == consumers.NO_PAGE

    run(story)


def test_a_full_process_says_try_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SOCKETS", 0)
    client = someone()

    async def story() -> None:
        assert await refused(socket(client)) == consumers.TRY_LATER
        assert hub.current().counts.refused == 1

    run(story)


# What it says


def test_it_shows_what_the_page_shows_and_follows() -> None:
    client = someone("operator")

    async def story() -> None:
        publish.bind(asyncio.get_running_loop())
        async with opened(client, "path=/things/a%20b/&query=state%3Dfailed%26name%3Dx") as live:
            first = await frame(live)
            reload = await sync_to_async(client.get)("/things/a b/?name=x&state=failed")
            assert first["content"] == reload.content.decode().strip()
            assert "operator" in first["content"]
            TEXT[""] = "two"
            publish.announce({"tasks"})
            second = await frame(live)
            assert second["after"] == first["seq"]
            reload = await sync_to_async(client.get)("/things/a b/?name=x&state=failed")
            assert second["content"] == reload.content.decode().strip()

    run(story)


def test_under_a_prefix_the_page_is_the_same() -> None:
    client = someone()

    async def story() -> None:
        with override_settings(FORCE_SCRIPT_NAME="/umbel"):
            async with opened(client, "path=/umbel/here/") as live:
                assert (await frame(live))["region"] == "board"

    run(story)


def test_a_socket_that_leaves_is_forgotten() -> None:
    client = someone()

    async def story() -> None:
        async with opened(client) as live:
            await frame(live)
            assert hub.current().sockets == 1
        assert (hub.current().sockets, list(hub.current().lives())) == (0, [])

    run(story)


# What it hears


@pytest.mark.parametrize("sent", ["revoke", "{}", b"\x00", "x" * 70_000])
def test_a_socket_that_speaks_is_closed_and_forgotten(sent: str | bytes) -> None:
    client = someone("admin")

    async def story() -> None:
        async with opened(client) as live:
            await (live.send_to(text_data=sent) if isinstance(sent, str) else live.send_to(bytes_data=sent))
            assert await close_code(live) == consumers.COMMAND
            assert hub.current().sockets == 0

    run(story)


# For how long


def test_signing_out_closes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client, other = someone(), someone(name="bob")

    async def story() -> None:
        publish.bind(asyncio.get_running_loop())
        async with opened(client) as live, opened(other) as theirs:
            await frame(live)
            await frame(theirs)
            await sync_to_async(client.logout)()
            assert await close_code(live) == consumers.SIGNED_OUT
            assert await theirs.receive_nothing(timeout=0.1)

    run(story)


@pytest.mark.parametrize("end", ["session", "user", "password", "role"])
def test_who_may_no_longer_look_is_closed_within_the_recheck(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rights.LONGEST <= 60
    monkeypatch.setattr(rights, "RECHECK", 0.05)
    client = someone()

    def over() -> None:
        user = User.objects.get(username="ann")
        if end == "session":
            client.session.flush()
        elif end == "user":
            User.objects.update(is_active=False)
        elif end == "password":
            user.set_password("another")
            user.save()
        else:
            user.groups.clear()

    async def story() -> None:
        async with opened(client) as live:
            await frame(live)
            await sync_to_async(over)()
            assert await close_code(live) == consumers.SIGNED_OUT

    run(story)


def test_another_role_brings_the_browser_back_with_that_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "RECHECK", 0.05)
    client = someone()

    async def story() -> None:
        async with opened(client) as live:
            await frame(live)
            user = await sync_to_async(User.objects.get)(username="ann")
            await sync_to_async(access.set_role)(user, "operator")
            assert await close_code(live) == consumers.RESTART

    run(story)


def test_the_topic_of_a_session_does_not_give_its_key_away() -> None:
    assert "secret" not in consumers.session_topic("secret")
    assert consumers.session_topic("a") != consumers.session_topic("b")
