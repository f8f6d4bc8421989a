"""Who may do what: every URL has a rule, and the rule holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client, RequestFactory, override_settings
from django.urls import URLPattern, reverse

from dashboard import access, urls
from dashboard.fragments import Page

PATTERNS = [pattern for pattern in urls.urlpatterns if isinstance(pattern, URLPattern)]
HEALTH = {"healthcheck", "healthz", "readyz"}  # say up or not, and nothing of the cluster
OPEN = {"sign-in", "sign-in-link", "sign-out"} | HEALTH
ADMIN = {"users", "user-add", "user-change"}
# For programs: these answer with a status and a line of text, where pages send people to sign in.
PROGRAMS = {"metrics"} | {p.name for p in PATTERNS if (p.name or "").startswith("api-")}
VALUES = {"pk": 1, "uuid": "no-such-task", "token": "no-such-token", "form": "csv", "command": "grow"}


def address(pattern: URLPattern) -> str:
    values = {name: VALUES[name] for name in pattern.pattern.converters}
    if "uuid:pk" in str(pattern.pattern):
        values = {"pk": uuid.UUID(int=0)}
    return reverse(pattern.name or "", kwargs=values)


@pytest.fixture
def people(db: None) -> dict[str, User]:
    return {role: access.create_user(role, role, "correct horse 9") for role in access.ROLES}


@pytest.fixture(params=access.ROLES)
def signed_in(
    request: pytest.FixtureRequest, people: dict[str, User], client: Client
) -> Iterator[tuple[str, Client]]:
    client.force_login(people[request.param])
    yield request.param, client


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_every_url_carries_a_rule(pattern: URLPattern) -> None:
    rule = access.rule(pattern.callback)
    assert rule in {access.EVERYONE, *access.ROLES}, f"{pattern.name} carries no rule: who may see it?"
    assert (rule == access.EVERYONE) == (pattern.name in OPEN)
    assert (rule == "admin") == (pattern.name in ADMIN)


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "pattern", [p for p in PATTERNS if p.name not in OPEN | PROGRAMS], ids=lambda p: p.name
)
def test_an_outsider_is_sent_to_sign_in(pattern: URLPattern, method: str, client: Client) -> None:
    answer = getattr(client, method)(address(pattern))
    assert answer.status_code == 302
    assert answer["Location"].startswith(reverse("sign-in"))


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.name in PROGRAMS], ids=lambda p: p.name)
def test_a_program_reads_as_a_viewer_does_and_writes_nothing(
    pattern: URLPattern, people: dict[str, User], client: Client
) -> None:
    assert client.get(address(pattern)).status_code == 401
    assert client.post(address(pattern)).status_code == 405
    for role in access.ROLES:
        client.force_login(people[role])
        assert client.get(address(pattern)).status_code in (200, 404)
        assert client.post(address(pattern)).status_code == 405


@pytest.mark.django_db
def test_an_outsider_behind_htmx_is_not_shown_a_page_inside_a_table(client: Client) -> None:
    answer = client.get(reverse("search"), {"q": "x"}, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (401, reverse("sign-in"))


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.name in ADMIN], ids=lambda p: p.name)
@pytest.mark.parametrize("method", ["get", "post"])
def test_only_an_admin_manages_users(pattern: URLPattern, method: str, signed_in: tuple[str, Client]) -> None:
    role, client = signed_in
    answer = getattr(client, method)(address(pattern))
    if role == "admin":
        assert answer.status_code != 403
    else:
        assert answer.status_code == 403
        assert "needs the admin role" in answer.content.decode()


CONTROLS = [p for p in PATTERNS if access.rule(p.callback) == "operator"]


@pytest.mark.parametrize("pattern", CONTROLS, ids=lambda p: p.name)
def test_a_viewer_controls_nothing(pattern: URLPattern, people: dict[str, User], client: Client) -> None:
    client.force_login(people["viewer"])
    answer = client.post(address(pattern), {"n": "1"})
    assert answer.status_code == 403
    assert "needs the operator role" in answer.content.decode()


def test_controls_exist_and_are_all_for_operators() -> None:
    names = {"tasks-revoke", "tasks-terminate", "worker-grow", "worker-shrink", "worker-autoscale"}
    assert names <= {p.name for p in CONTROLS}


def test_nobody_has_no_role(db: None) -> None:
    assert access.role(None) == access.role(AnonymousUser()) == ""
    without = User.objects.create_user("without", password="x")
    assert access.role(without) == ""
    assert not access.allows("", "viewer")
    assert not access.allows("root", "viewer")


def test_an_account_without_a_role_sees_nothing(db: None, client: Client) -> None:
    client.force_login(User.objects.create_user("without", password="x"))
    answer = client.get(reverse("feed"))
    assert answer.status_code == 403
    assert "Your account has no role" in answer.content.decode()


def test_a_deactivated_person_is_out_at_once(people: dict[str, User], client: Client) -> None:
    client.force_login(people["viewer"])
    assert client.get(reverse("feed")).status_code == 200
    User.objects.filter(pk=people["viewer"].pk).update(is_active=False)
    assert client.get(reverse("feed")).status_code == 302


def test_each_role_may_do_what_the_one_below_may(people: dict[str, User]) -> None:
    assert [access.role(people[name]) for name in access.ROLES] == list(access.ROLES)
    assert access.allows("admin", "operator") and access.allows("operator", "viewer")
    assert not access.allows("viewer", "operator") and not access.allows("operator", "admin")


def test_the_highest_of_several_roles_holds(people: dict[str, User]) -> None:
    person = people["viewer"]
    person.groups.add(*people["operator"].groups.all())
    assert access.role(person) == "operator"


def test_read_only_turns_every_control_off(people: dict[str, User]) -> None:
    request = RequestFactory().post("/")
    request.user = people["admin"]
    assert access.can_control(request)
    assert access.can_control(Page("tasks", role="operator"))
    assert not access.can_control(Page("tasks", role="viewer"))
    with override_settings(UMBEL_READ_ONLY=True):
        assert not access.can_control(request)
        assert not access.can_control(Page("tasks", role="admin", read_only=access.read_only()))


@pytest.mark.parametrize("name", ["", "  "])
def test_a_user_needs_a_name(db: None, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        access.create_user(name, "viewer")


def test_a_role_nobody_knows_is_refused(db: None) -> None:
    with pytest.raises(ValueError, match="viewer, operator, admin"):
        access.create_user("x", "root")
    assert not User.objects.exists()


def test_two_names_that_differ_in_case_are_one(db: None) -> None:
    access.create_user("Mara", "viewer")
    with pytest.raises(ValueError, match="already"):
        access.create_user("mara", "admin")
