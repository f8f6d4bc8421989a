"""Signing in and out, one-time links, and the users page, with what must not happen."""

from __future__ import annotations

import re
import time

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from dashboard import access, throttle
from dashboard.models import LoginLink, SignInAttempt

PASSWORD = "correct horse 9"
SIGN_IN = "/sign-in/"

pytestmark = pytest.mark.django_db


@pytest.fixture
def mara() -> User:
    return access.create_user("mara", "admin", PASSWORD)


def sign_in(client: Client, name: str = "mara", password: str = PASSWORD, **extra: str) -> int:
    return client.post(SIGN_IN, {"username": name, "password": password, **extra}).status_code


def inside(client: Client) -> bool:
    return client.get(reverse("feed")).status_code == 200


# Name and password


def test_the_right_password_lets_in(mara: User, client: Client) -> None:
    assert sign_in(client) == 302
    assert inside(client)


def test_the_session_is_another_one_after_signing_in(mara: User, client: Client) -> None:
    session = client.session
    session["planted"] = True
    session.save()
    before = session.session_key
    client.cookies["umbel_session"] = str(before)
    sign_in(client)
    assert client.cookies["umbel_session"].value != before


def test_cookies_are_out_of_reach_for_scripts_and_other_sites(mara: User, client: Client) -> None:
    sign_in(client)
    cookie = client.cookies["umbel_session"]
    assert cookie["httponly"] and cookie["samesite"] == "Lax"


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("mara", "wrong"),
        ("nobody", PASSWORD),
        ("", ""),
        ("mara", ""),
        ("mara\0", PASSWORD),
        ("x" * 5000, "y" * 50_000),
    ],
)
def test_what_is_wrong_is_not_said(mara: User, client: Client, name: str, password: str) -> None:
    answer = client.post(SIGN_IN, {"username": name, "password": password})
    assert answer.status_code == 400
    assert "do not match an account" in answer.content.decode()
    assert not inside(client)


@pytest.mark.parametrize(
    "name", ["Ωmega", "名前", "\ud83c\udf3f", "é" * 200, "<img onerror=1>", "a'b\"c", "ﬁ", "İ"]
)
def test_a_name_in_any_script_is_only_wrong(mara: User, client: Client, name: str) -> None:
    body = {
        "username": name.encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "password": "pässwörd",
    }
    assert client.post(SIGN_IN, body).status_code == 400


def test_bytes_that_are_no_text_are_only_wrong(mara: User, client: Client) -> None:
    body = b"username=%ff%fe&password=%ed%a0%80"
    assert client.post(SIGN_IN, body, content_type="application/x-www-form-urlencoded").status_code == 400


def test_an_unknown_name_costs_as_much_work_as_a_wrong_password(
    mara: User, client: Client, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = PBKDF2PasswordHasher.encode

    def counting(self: PBKDF2PasswordHasher, password: str, salt: str, iterations: int | None = None) -> str:
        hashed.append(password)
        return original(self, password, salt, iterations)

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]  # type: ignore[attr-defined]
    monkeypatch.setattr(PBKDF2PasswordHasher, "encode", counting)
    monkeypatch.setattr(PBKDF2PasswordHasher, "iterations", 1)
    mara.set_password(PASSWORD)
    mara.save()
    counts = []
    for name in ("mara", "nobody"):
        hashed.clear()
        sign_in(client, name, "wrong")
        counts.append(len(hashed))
    assert counts[0] == counts[1] >= 1


def test_a_deactivated_account_stays_out(mara: User, client: Client) -> None:
    User.objects.update(is_active=False)
    assert sign_in(client) == 400


def test_one_goes_on_to_the_page_asked_for(mara: User, client: Client) -> None:
    answer = client.post(SIGN_IN, {"username": "mara", "password": PASSWORD, "next": "/feed/?a=1"})
    assert answer["Location"] == "/feed/?a=1"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "http:///evil", ""],
)
def test_one_never_goes_on_to_another_site(mara: User, client: Client, target: str) -> None:
    answer = client.post(SIGN_IN, {"username": "mara", "password": PASSWORD, "next": target})
    assert answer["Location"] == reverse("overview")


def test_signing_in_needs_the_form_of_this_site(mara: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert sign_in(strict) == 403


# Signing out


def test_signing_out_ends_the_session(mara: User, client: Client) -> None:
    sign_in(client)
    assert client.post(reverse("sign-out")).status_code == 302
    assert not inside(client)


def test_a_link_cannot_sign_anyone_out(mara: User, client: Client) -> None:
    sign_in(client)
    assert client.get(reverse("sign-out")).status_code == 405
    assert inside(client)


# The throttle


def test_many_wrong_passwords_close_the_account_for_a_while(mara: User, client: Client) -> None:
    for _ in range(throttle.PER_ACCOUNT):
        assert sign_in(client, password="wrong") == 400
    answer = client.post(SIGN_IN, {"username": "mara", "password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= throttle.WINDOW
    assert not inside(client)


def test_the_window_slides(mara: User, client: Client) -> None:
    for _ in range(throttle.PER_ACCOUNT):
        sign_in(client, password="wrong")
    oldest = SignInAttempt.objects.order_by("at").first()
    assert oldest is not None
    SignInAttempt.objects.filter(pk=oldest.pk).update(at=time.time() - throttle.WINDOW - 1)
    assert sign_in(client) == 302


def test_refused_tries_do_not_close_the_door_for_longer(mara: User, client: Client) -> None:
    for _ in range(throttle.PER_ACCOUNT + 5):
        sign_in(client, password="wrong")
    assert SignInAttempt.objects.count() == throttle.PER_ACCOUNT


def test_one_address_cannot_try_many_accounts(mara: User, client: Client) -> None:
    for number in range(throttle.PER_ADDRESS):
        assert sign_in(client, name=f"user{number}") == 400
    assert sign_in(client) == 429
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    assert sign_in(elsewhere) == 302


def test_other_spellings_of_a_name_count_together(mara: User, client: Client) -> None:
    for number in range(throttle.PER_ACCOUNT):
        sign_in(client, name="MARA" if number % 2 else "mara", password="wrong")
    assert sign_in(client) == 429


def test_an_ipv6_network_counts_as_one_address() -> None:
    now = time.time()
    tries = [throttle.begin(f"u{n}", f"2001:db8::{n:x}", now) for n in range(throttle.PER_ADDRESS + 1)]
    assert tries[-2].wait == 0 < tries[-1].wait


def test_success_forgives_what_failed_before(mara: User, client: Client) -> None:
    for _ in range(throttle.PER_ACCOUNT - 1):
        sign_in(client, password="wrong")
    assert sign_in(client) == 302
    assert not SignInAttempt.objects.exists()


def test_no_name_typed_is_kept(mara: User, client: Client) -> None:
    sign_in(client, name="my-password-by-mistake")
    row = SignInAttempt.objects.get()
    assert "password" not in row.account


def test_old_tries_are_thrown_away(mara: User, client: Client) -> None:
    SignInAttempt.objects.create(account="a", address="b", at=time.time() - throttle.WINDOW - 1)
    sign_in(client, password="wrong")
    assert SignInAttempt.objects.count() == 1


# One-time links


def take(client: Client, token: str, **data: str) -> int:
    body = {"username": "first", "password": PASSWORD, "again": PASSWORD, **data}
    return client.post(reverse("sign-in-link", args=[token]), body).status_code


def test_the_first_link_makes_an_admin_once(client: Client) -> None:
    token = access.first_link()
    assert token
    assert take(client, token) == 302
    assert access.role(User.objects.get(username="first")) == "admin"
    assert inside(client)
    assert take(Client(), token, username="second") == 410
    assert User.objects.count() == 1


def test_looking_at_a_link_does_not_use_it_up(client: Client) -> None:
    token = access.first_link() or ""
    for _ in range(3):
        assert client.get(reverse("sign-in-link", args=[token])).status_code == 200
    assert take(client, token) == 302


def test_a_link_too_old_is_dead(client: Client) -> None:
    token = access.first_link() or ""
    LoginLink.objects.update(expires_at=time.time() - 1)
    assert take(client, token) == 410
    assert not User.objects.exists()


def test_there_is_no_first_link_when_there_is_a_user(mara: User) -> None:
    assert access.first_link() is None


def test_a_first_link_dies_with_the_first_user(client: Client) -> None:
    token = access.first_link() or ""
    access.create_user("mara", "viewer", PASSWORD)
    assert take(client, token) == 410


def test_a_newer_link_ends_the_older(client: Client) -> None:
    older = access.first_link() or ""
    newer = access.first_link() or ""
    assert take(client, older) == 410
    assert take(client, newer) == 302


def test_only_a_hash_of_the_link_is_kept() -> None:
    token = access.first_link() or ""
    row = LoginLink.objects.get()
    assert token not in (row.digest, str(row)) and len(row.digest) == 64


@pytest.mark.parametrize(
    "data",
    [
        {"password": "short", "again": "short"},
        {"again": "another horse 9"},
        {"username": ""},
        {"username": "a\0b"},
    ],
)
def test_a_bad_choice_does_not_use_the_link_up(client: Client, data: dict[str, str]) -> None:
    token = access.first_link() or ""
    assert take(client, token, **data) == 400
    assert not User.objects.exists()
    assert take(client, token) == 302


@pytest.mark.parametrize("token", ["x", "é", "%00", "a" * 5000, "<img>"])
def test_a_made_up_link_is_ended_and_nothing_else(client: Client, token: str) -> None:
    assert client.get(f"/sign-in/{token}/").status_code in (404, 410)


def test_someone_else_was_first(client: Client) -> None:
    token = access.first_link() or ""
    link = access.find_link(token)
    assert link is not None
    assert access.use_link(link) and not access.use_link(link)


# The users page


@pytest.fixture
def admin(mara: User, client: Client) -> Client:
    client.force_login(mara)
    return client


def test_an_added_user_gets_a_link_and_then_their_role(admin: Client) -> None:
    page = admin.post(reverse("user-add"), {"username": "guest", "role": "viewer"}).content.decode()
    found = re.search(r"/sign-in/([\w-]{20,})/", page)
    assert found
    guest = Client()
    assert take(guest, found[1]) == 302
    assert inside(guest)
    assert access.role(User.objects.get(username="guest")) == "viewer"
    assert sign_in(Client(), "guest") == 302
    assert take(Client(), found[1]) == 410


@pytest.mark.parametrize("name", ["", "mara", "MARA", "a b", "<img onerror=1>", "x" * 151, "a\0b"])
def test_a_name_that_cannot_be_is_refused(admin: Client, name: str) -> None:
    assert admin.post(reverse("user-add"), {"username": name, "role": "viewer"}).status_code == 400
    assert User.objects.count() == 1


def test_a_made_up_role_is_refused(admin: Client) -> None:
    assert admin.post(reverse("user-add"), {"username": "x", "role": "root"}).status_code == 400


@pytest.mark.parametrize("change", [{"change": "role", "role": "viewer"}, {"change": "deactivate"}])
def test_the_last_admin_stays(admin: Client, mara: User, change: dict[str, str]) -> None:
    answer = admin.post(reverse("user-change", args=[mara.pk]), change)
    assert answer.status_code == 409
    assert "last admin" in answer.content.decode()
    assert access.admins() == [mara]


def test_with_a_second_admin_the_first_may_go(admin: Client, mara: User) -> None:
    access.create_user("second", "admin", PASSWORD)
    assert admin.post(reverse("user-change", args=[mara.pk]), {"change": "deactivate"}).status_code == 302
    assert not inside(admin)


def test_an_invited_admin_counts_only_when_active(admin: Client, mara: User) -> None:
    second = access.create_user("second", "admin", PASSWORD)
    admin.post(reverse("user-change", args=[second.pk]), {"change": "deactivate"})
    answer = admin.post(reverse("user-change", args=[mara.pk]), {"change": "role", "role": "viewer"})
    assert answer.status_code == 409


def test_a_role_changes_at_once(admin: Client) -> None:
    guest = access.create_user("guest", "viewer", PASSWORD)
    admin.post(reverse("user-change", args=[guest.pk]), {"change": "role", "role": "operator"})
    assert access.role(User.objects.get(pk=guest.pk)) == "operator"


def test_deactivating_ends_open_links(admin: Client) -> None:
    guest = access.create_user("guest", "viewer")
    token = access.link_for(guest)
    admin.post(reverse("user-change", args=[guest.pk]), {"change": "deactivate"})
    assert take(Client(), token) == 410
    admin.post(reverse("user-change", args=[guest.pk]), {"change": "activate"})
    assert take(Client(), token) == 410


@pytest.mark.parametrize(
    "change", [{}, {"change": "delete"}, {"change": "role"}, {"change": "role", "role": "root"}]
)
def test_a_change_that_is_none_is_refused(admin: Client, mara: User, change: dict[str, str]) -> None:
    assert admin.post(reverse("user-change", args=[mara.pk]), change).status_code == 400


def test_looking_changes_nothing(admin: Client) -> None:
    guest = access.create_user("guest", "viewer", PASSWORD)
    admin.get(reverse("user-change", args=[guest.pk]), {"change": "deactivate"})
    assert User.objects.get(pk=guest.pk).is_active


def test_hostile_names_are_text_on_the_users_page(admin: Client) -> None:
    User.objects.create_user("<img src=x onerror=alert(1)>\"'")
    page = admin.get(reverse("users")).content.decode()
    assert "<img" not in page
