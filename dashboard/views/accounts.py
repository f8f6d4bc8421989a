"""People: signing in and out, one-time links, and the users page for admins."""

from __future__ import annotations

import logging
import math
import time

from django.contrib.auth import authenticate, get_user_model, login, logout
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST

from dashboard import access, throttle
from dashboard.controls import actor
from dashboard.forms.accounts import ChangeUser, NewUser, SignIn, Welcome
from dashboard.models import LoginLink
from monitor import control
from monitor.control import Actor, Command

log = logging.getLogger(__name__)
BACKEND = "django.contrib.auth.backends.ModelBackend"

WRONG = "That name and password do not match an account here."


@access.everyone
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Name and password. A wrong name and a wrong password look, and take, the same."""
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(_next(request, request.GET.get("next", "")))
        return _sign_in_page(request, "", request.GET.get("next", ""))
    form = SignIn(request.POST)
    target = request.POST.get("next", "")[:2000]
    if not form.is_valid():
        return _sign_in_page(request, WRONG, target, 400)
    name = form.cleaned_data["username"]
    attempt = throttle.begin(name, _address(request), time.time())
    if attempt.wait:
        log.warning("Sign-in throttled for %s", _address(request))
        minutes = math.ceil(attempt.wait / 60)
        said = f"Too many tries. Wait {minutes} min, then try again."
        answer = _sign_in_page(request, said, target, 429)
        answer["Retry-After"] = str(math.ceil(attempt.wait))
        return answer
    user = authenticate(request, username=name, password=form.cleaned_data["password"])
    if not isinstance(user, User):
        log.warning("Sign-in failed from %s", _address(request))
        return _sign_in_page(request, WRONG, target, 400)
    throttle.succeeded(attempt)
    login(request, user)
    log.info("User %r signed in from %s", user.username, _address(request))
    return redirect(_next(request, target))


@access.everyone
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """Ends the session."""
    logout(request)
    return redirect("sign-in")


@access.everyone
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in_link(request: HttpRequest, token: str) -> HttpResponse:
    """Takes a one-time link: looking at it uses nothing up, setting the password does."""
    link = access.find_link(token)
    if link is None:
        return render(request, "accounts/link_ended.html", status=410)
    form = Welcome(link.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = _take(link, form.cleaned_data, _address(request))
        except ValueError as wrong:
            form.add_error("username", str(wrong))
        else:
            if user is None:
                return render(request, "accounts/link_ended.html", status=410)
            login(request, user, BACKEND)
            log.info("User %r signed in by a one-time link from %s", user.username, _address(request))
            return redirect("overview")
    return render(
        request,
        "accounts/welcome.html",
        {"form": form, "person": link.user},
        status=400 if form.errors else 200,
    )


@access.admin
@require_http_methods(["GET", "HEAD"])
def users(request: HttpRequest) -> HttpResponse:
    """Everyone with an account."""
    return _users_page(request)


@access.admin
@require_http_methods(["GET", "HEAD", "POST"])
def user_add(request: HttpRequest) -> HttpResponse:
    """Makes an account and the link to hand over."""
    form = NewUser(request.POST or None)
    if request.method == "POST" and form.is_valid():
        role = form.cleaned_data["role"]
        try:
            with transaction.atomic():
                person = access.create_user(form.cleaned_data["username"], role)
                _keep("user_add", person, request, role=role)
        except ValueError as wrong:
            form.add_error("username", str(wrong))
        else:
            log.info("User %r added as %s by %r", person.username, role, request.user.username)
            return _handed_over(request, person)
    return render(
        request,
        "accounts/add.html",
        {"title": "Add a user", "form": form, "roles": access.ROLES},
        status=400 if form.errors else 200,
    )


@access.admin
@require_http_methods(["GET", "HEAD", "POST"])
def user_change(request: HttpRequest, pk: int) -> HttpResponse:
    """Changes a role, turns an account off or on, or makes a new link. One admin always stays."""
    person = get_object_or_404(User, pk=pk)
    if request.method != "POST":
        return redirect("users")
    form = ChangeUser(request.POST)
    if not form.is_valid() or (form.cleaned_data["change"] == "role" and not form.cleaned_data["role"]):
        return _users_page(request, "That is no change that can be made.", 400)
    change = form.cleaned_data["change"]
    try:
        with transaction.atomic():
            _change(request, person, change, form.cleaned_data["role"])
    except LastAdmin:
        return _users_page(request, f"{person.username} is the last admin: make another one first.", 409)
    log.info(
        "User %r: %s %s by %r", person.username, change, form.cleaned_data["role"], request.user.username
    )
    if change == "link":
        return _handed_over(request, person)
    return redirect("users")


class LastAdmin(Exception):
    """Nobody would be left to manage users."""


def _change(request: HttpRequest, person: User, change: str, role: str) -> None:
    # Two admins who take each other's role at once: the second waits here, and finds out.
    list(Group.objects.select_for_update().filter(name="admin"))
    person.refresh_from_db()
    if change == "role":
        before = ", ".join(person.groups.order_by("name").values_list("name", flat=True)) or "none"
        access.set_role(person, role)
        if before != role:
            _keep("user_role", person, request, **{"to": role, "from": before})
    elif change in ("activate", "deactivate"):
        before_active, person.is_active = person.is_active, change == "activate"
        person.save(update_fields=["is_active"])
        LoginLink.objects.filter(user=person).delete()
        if before_active != person.is_active:
            _keep(f"user_{change}", person, request)
    else:
        _keep("user_link", person, request)
    if not access.admins():
        raise LastAdmin


def _keep(name: str, person: User, request: HttpRequest, **arguments: str) -> None:
    """In the audit log."""
    control.keep(Command(name, (person.username,), dict(arguments)), actor(request), "")


def _take(link: LoginLink, data: dict[str, str], address: str) -> User | None:
    """Uses the link up and answers its person; None when someone else was first."""
    with transaction.atomic():
        if not access.use_link(link):
            return None
        if link.user is None:
            first = access.create_user(data["username"], "admin", data["password"])
            # Nobody was there to do it: the link of the first start is theirs who has it.
            control.keep(
                Command("user_add", (first.username,), {"role": "admin"}),
                Actor(first.pk, first.username, "admin", address),
                "By the link that Umbel printed at its first start.",
            )
            return first
        link.user.set_password(data["password"])
        link.user.save(update_fields=["password"])
        return link.user


def _handed_over(request: HttpRequest, person: User) -> HttpResponse:
    """Shows the link once; only its hash is kept."""
    link = request.build_absolute_uri(reverse("sign-in-link", args=[access.link_for(person)]))
    hours = round(access.INVITATION_LIFE / 3600)
    return render(
        request,
        "accounts/link.html",
        {"title": "One-time link", "person": person, "link": link, "hours": hours},
    )


def _users_page(request: HttpRequest, error: str = "", status: int = 200) -> HttpResponse:
    people = get_user_model().objects.prefetch_related("groups").order_by("username")
    last = access.admins()
    rows = [
        {
            "user": person,
            "role": access.role(person) or next((g.name for g in person.groups.all()), ""),
            "seen": person.last_login.timestamp() if person.last_login else None,
            "last_admin": last == [person],
            "invited": not person.has_usable_password(),
        }
        for person in people
    ]
    context = {"title": "Users", "rows": rows, "roles": access.ROLES, "error": error}
    return render(request, "accounts/users.html", context, status=status)


def _sign_in_page(request: HttpRequest, error: str, target: str, status: int = 200) -> HttpResponse:
    context = {"error": error, "next": target, "host": request.get_host(), "empty": False}
    context["empty"] = not get_user_model().objects.exists()
    context["username"] = request.POST.get("username", "")[:150]
    return render(request, "accounts/sign_in.html", context, status=status)


def _next(request: HttpRequest, target: str) -> str:
    """Where to go after signing in: on this site only."""
    own = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
    return target if target and own else reverse("overview")


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR") or "unknown")
