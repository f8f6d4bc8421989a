"""Who may see and who may act: three roles, one read-only switch, one rule on every view."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser, Group, User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models.signals import m2m_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import resolve_url

from dashboard import permissions
from dashboard.models import LoginLink
from monitor.control import Actor, Can, Command

ROLES = ("viewer", "operator", "admin")  # each may do all that the ones before it may
EVERYONE = "everyone"  # the rule of pages for people who have not signed in

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


class Forbidden(PermissionDenied):
    """The reader's role is not enough; ``needs`` is the one that is."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"That needs the {needs} role.")
        self.needs = needs


def role(user: User | AnonymousUser | None) -> str:
    """The highest role of a person; "" for nobody, and for an account without a role."""
    if user is None or not user.is_authenticated or not user.is_active:
        return ""
    if user.is_superuser:
        return "admin"
    # Asked several times for one page; each request and each look at a session reads its user anew.
    known: str | None = vars(user).get(_ROLE)
    if known is None:
        held = set(user.groups.values_list("name", flat=True))
        known = vars(user)[_ROLE] = next((name for name in reversed(ROLES) if name in held), "")
    return known


_ROLE = "_umbel_role"


@receiver(m2m_changed, sender=User.groups.through)
def _forget_role(instance: object, **_: object) -> None:
    vars(instance).pop(_ROLE, None)


def allows(held: str, needed: str) -> bool:
    """Whether a role is at least the one needed."""
    return held in ROLES and ROLES.index(held) >= ROLES.index(needed)


def read_only() -> bool:
    """Whether every control is off, for everyone."""
    return bool(getattr(settings, "UMBEL_READ_ONLY", False))


def can_control(where: Any) -> bool:
    """Whether the reader of a page, or the sender of a request, may send control commands."""
    if isinstance(where, HttpRequest):
        return allows(role(where.user), "operator") and not read_only()
    return allows(where.role, "operator") and not where.read_only


def entitled(where: Any, command: str) -> Can:
    """Whether a role may give a command at all, by the table of permissions; and if not, why.

    ``where`` is a page, whose readers are told apart by their role alone, or a request.
    """
    is_request = isinstance(where, HttpRequest)
    if read_only() if is_request else where.read_only:
        return Can(False, "Umbel runs read-only")
    needed = permissions.needed(command)
    if needed == permissions.NOBODY:
        return Can(False, "Turned off for everyone by UMBEL_PERMISSIONS")
    held = role(where.user) if is_request else where.role
    return Can(True) if allows(held, needed) else Can(False, f"Needs the {needed} role")


def may(where: Any, command: str, targets: Sequence[str] = (), also: Sequence[str] = ()) -> Can:
    """Whether this command may be given, with those in ``also`` that it carries, and if not, why.

    A page is drawn once for all of a role: its buttons go by the role. A request has a sender, of whom the
    site's own rule is asked as well: once for the dialog of a command, and once for the command.
    """
    for name in (command, *also):
        can = entitled(where, name)
        if not can.allowed:
            return can
    if isinstance(where, HttpRequest):
        return _by_rule(where.user, (command, *also), targets)
    return Can(True)


def barred(actor: Actor, command: Command) -> str:
    """Why who asked earlier may not have this done any more, "" while they may: all is read anew.

    For what is carried out later: after a hold, batch by batch, step by step, when slots are idle.
    """
    user = get_user_model().objects.filter(pk=actor.user_id or 0, is_active=True).first()
    if user is None:
        return f"The account of {actor.username} was closed."
    if read_only():
        return "Umbel runs read-only."
    held = role(user)
    named = permissions.named(command.name, command.arguments)
    for needed in map(permissions.needed, named):
        if needed == permissions.NOBODY:
            return "That was turned off for everyone by UMBEL_PERMISSIONS."
        if not allows(held, needed):
            return f"{actor.username} may not do that any more: it needs the {needed} role."
    return _by_rule(user, named, about(command)).reason


def about(command: Command) -> tuple[str, ...]:
    """What the site's own rule is asked about: of tasks that are sent their names say more than new ids."""
    return tuple(dict.fromkeys(message.name for message in command.messages)) or command.targets


def _by_rule(user: Any, commands: Sequence[str], targets: Sequence[str]) -> Can:
    """What the site's own rule says to all of these. To many at once is no command of its own."""
    for name in commands:
        if name != "bulk" and (refusal := permissions.refused_by_rule(user, name, targets)):
            return Can(False, refusal)
    return Can(True)


def may_change_note(where: Any, author: int | None) -> bool:
    """Whether the reader of a page or the sender of a request may change a note: their own; an admin any."""
    held, user = (
        (role(where.user), where.user.pk) if isinstance(where, HttpRequest) else (where.role, where.user)
    )
    return entitled(where, "note").allowed and (held == "admin" or (author is not None and author == user))


def everyone(view: View[P]) -> View[P]:
    """No sign-in asked: for signing in itself."""
    return _ruled(view, EVERYONE)


def viewer(view: View[P]) -> View[P]:
    """Whoever may look."""
    return _needs("viewer", view)


def operator(view: View[P]) -> View[P]:
    """Whoever may control workers."""
    return _needs("operator", view)


def admin(view: View[P]) -> View[P]:
    """Whoever may manage users."""
    return _needs("admin", view)


def ruled(view: View[P], name: str) -> View[P]:
    """A view that checks by itself carries the name of its rule."""
    return _ruled(view, name)


def rule(view: Callable[..., Any]) -> str:
    """The rule a view carries, "" when it carries none: that is a mistake, and a test finds it."""
    return str(getattr(view, "access_rule", ""))


def _needs(needed: str, view: View[P]) -> View[P]:
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            return _to_sign_in(request)
        if not allows(role(request.user), needed):
            raise Forbidden(needed)
        return view(request, *args, **kwargs)

    return _ruled(guarded, needed)


def _ruled(view: View[P], name: str) -> View[P]:
    view.access_rule = name  # type: ignore[attr-defined]
    return view


def _to_sign_in(request: HttpRequest) -> HttpResponse:
    if request.headers.get("HX-Request") == "true":
        # A redirect would be followed in silence and the sign-in page swapped into a table.
        return HttpResponse(status=401, headers={"HX-Redirect": resolve_url("sign-in")})
    return redirect_to_login(
        request.get_full_path() if request.method == "GET" else "", resolve_url("sign-in")
    )


# People


def create_user(name: str, role: str, password: str | None = None) -> User:
    """A person with a role. Without a password they can only come in by a link of ``link_for``."""
    if role not in ROLES:
        raise ValueError(f"{role!r} is no role; the roles are {', '.join(ROLES)}.")
    if not name.strip():
        raise ValueError("A user needs a name.")
    if name.strip().casefold() == "umbel":
        raise ValueError("The audit log calls Umbel itself by that name: take another.")
    users = get_user_model().objects
    with transaction.atomic():
        if users.filter(username__iexact=name).exists():
            raise ValueError(f"There is a user called {name!r} already.")
        user = users.create_user(username=name, password=password)
        set_role(user, role)
    return user


def set_role(user: User, role: str) -> None:
    """Gives a person that one role."""
    group, _ = Group.objects.get_or_create(name=role)
    user.groups.set([group])
    if user.is_superuser and role != "admin":
        user.is_superuser = False
        user.save(update_fields=["is_superuser"])


def admins() -> list[User]:
    """Everyone who can manage users now."""
    everybody = get_user_model().objects.filter(is_active=True).prefetch_related("groups")
    return [user for user in everybody if role(user) == "admin"]


# One-time links: the only way in without a password. Only a hash is kept.

LINK_LIFE = 60 * 60.0  # seconds; the first link
INVITATION_LIFE = 24 * 60 * 60.0  # seconds; handed from person to person


def first_link() -> str | None:
    """A token for the first sign-in, or None when there is a user. Earlier first links end with it."""
    if get_user_model().objects.exists():
        return None
    LoginLink.objects.filter(user=None).delete()
    return _new_link(None, LINK_LIFE)


def link_for(user: User) -> str:
    """A token with which that person signs in once and sets a password. Their earlier links end with it."""
    LoginLink.objects.filter(user=user).delete()
    return _new_link(user, INVITATION_LIFE)


def find_link(token: str) -> LoginLink | None:
    """The link of a token that can still be used. The first link ends when there is a user."""
    link = LoginLink.objects.select_related("user").filter(digest=_digest(token)).first()
    if link is None or link.used_at is not None or link.expires_at < time.time():
        return None
    if link.user is None:
        return None if get_user_model().objects.exists() else link
    return link if link.user.is_active else None


def use_link(link: LoginLink) -> bool:
    """Marks it used; False when someone else was first."""
    return LoginLink.objects.filter(pk=link.pk, used_at=None).update(used_at=time.time()) == 1


def _new_link(user: User | None, life: float) -> str:
    token = secrets.token_urlsafe(32)
    LoginLink.objects.create(digest=_digest(token), user=user, expires_at=time.time() + life)
    return token


def _digest(token: str) -> str:
    # The token has 256 random bits: a fast hash is enough, and lets the database look it up.
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
