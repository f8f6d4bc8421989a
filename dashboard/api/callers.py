"""Who may call the API: a signed-in person, a user by HTTP Basic, or, where it was opened, this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from dashboard import access, throttle
from dashboard.api.arguments import Wrong

log = logging.getLogger(__name__)

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

# Flower's words, so that whoever knows them from there finds the same way out.
CLOSED = "FLOWER_UNAUTHENTICATED_API environment variable is required to enable API without authentication"
ELSEWHERE = (
    "FLOWER_UNAUTHENTICATED_API opens the API to clients on Umbel's own machine that ask it directly, "
    "by localhost; others give the name and password of a user (HTTP Basic)."
)
FOREIGN = "Cross-origin request forbidden"
WRONG = "That name and password do not match an account here."
AWAY = "Umbel's database does not answer. Try again in a moment."

# Any of these says that somebody else stands between the caller and Umbel.
PROXIED = (
    *("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server"),
    *("X-Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Scheme", "True-Client-Ip", "Cf-Connecting-Ip"),
)
KEPT = 5 * 60.0  # seconds that a password is known to be right without hashing it again
MOST_KEPT = 64
LONGEST = 4_096  # characters of an Authorization header


def caller(view: View[P]) -> View[P]:
    """For reading only: refuses who may not, and tells every mistake in one line of text."""

    @csrf_exempt
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if request.method == "OPTIONS":
            return HttpResponse(status=204, headers={"Allow": "GET, HEAD, OPTIONS"})
        if request.method not in ("GET", "HEAD"):
            return text("This is for reading: use GET.", 405, Allow="GET, HEAD, OPTIONS")
        try:
            return _refusal(request) or view(request, *args, **kwargs)
        except Wrong as wrong:
            return text(str(wrong), wrong.status)
        except (OperationalError, InterfaceError) as problem:
            log.error("The API could not read the database: %s: %s", type(problem).__name__, problem)
            return text(AWAY, 503, **{"Retry-After": "5"})

    return access.ruled(guarded, "viewer")


def text(words: str, status: int = 200, **headers: str) -> HttpResponse:
    """One line."""
    return HttpResponse(
        words, status=status, content_type="text/plain; charset=UTF-8", headers=headers or None
    )


def _refusal(request: HttpRequest) -> HttpResponse | None:
    """Why this caller gets no answer; None when they get one."""
    said = request.headers.get("Authorization", "")
    if said:
        return _by_password(request, said)
    if request.user.is_authenticated:
        return _without_role(access.role(request.user))
    if not settings.UMBEL_OPEN_API:
        return _challenge(CLOSED)
    if not is_own_machine(request):
        return _challenge(ELSEWHERE)
    if is_foreign(request):
        return text(FOREIGN, 403)
    return None


def is_own_machine(request: HttpRequest) -> bool:
    """Whether the caller is a program on this machine that asks by a name of this machine."""
    if any(header in request.headers for header in PROXIED):
        return False
    host = request.get_host()
    name = urlsplit(f"//{host}").hostname or ""
    return _is_loopback(str(request.META.get("REMOTE_ADDR") or "")) and (
        name == "localhost" or _is_loopback(name)
    )


def is_foreign(request: HttpRequest) -> bool:
    """Whether a web page of another site is what makes the browser ask."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in ("none", "same-origin"):
        return True
    own = request.get_host().lower()
    sources = (request.headers.get("Origin"), request.headers.get("Referer"))
    return any(source is not None and _site(source) != own for source in sources)


def _site(source: str) -> str:
    try:
        return urlsplit(source).netloc.lower()
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _challenge(words: str) -> HttpResponse:
    return text(words, 401, **{"WWW-Authenticate": 'Basic realm="Umbel", charset="UTF-8"'})


def _without_role(role: str) -> HttpResponse | None:
    if access.allows(role, "viewer"):
        return None
    return text("Your account has no role. An admin can change that on the users page.", 403)


# By name and password


def _by_password(request: HttpRequest, said: str) -> HttpResponse | None:
    given = _given(said)
    if given is None:
        return _challenge(WRONG)
    name, password = given
    user = _known.user(name, password)
    if user is None:
        address = str(request.META.get("REMOTE_ADDR") or "unknown")
        attempt = throttle.begin(name, address, time.time())
        if attempt.wait:
            log.warning("API sign-in throttled for %s", address)
            seconds = str(math.ceil(attempt.wait))
            return text(
                f"Too many tries. Wait {math.ceil(attempt.wait / 60)} min, then try again.",
                429,
                **{"Retry-After": seconds},
            )
        found = authenticate(request, username=name, password=password)
        if not isinstance(found, User):
            log.warning("API sign-in failed from %s", address)
            return _challenge(WRONG)
        throttle.succeeded(attempt)
        _known.keep(name, password, found)
        user = found
    return _without_role(access.role(user))


def _given(said: str) -> tuple[str, str] | None:
    """Name and password of an Authorization header; None when it is none that Umbel reads."""
    scheme, _, code = said.partition(" ")
    if scheme.lower() != "basic" or len(said) > LONGEST:
        return None
    try:
        name, colon, password = base64.b64decode(code.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    if not colon or not name or "\0" in name or "\0" in password:
        return None
    return name[:150], password


@dataclass(frozen=True, slots=True)
class _Sure:
    """A password that was right: for whom, by which stored hash, and how long that holds."""

    pk: int
    hash: str
    until: float


class _Known:
    """Right passwords, under a key of this process: scrapers come every few seconds, and hashing is slow."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._sure: OrderedDict[bytes, _Sure] = OrderedDict()
        self._lock = threading.Lock()

    def user(self, name: str, password: str) -> User | None:
        """The person, if name and password were right a moment ago and nothing has changed since."""
        with self._lock:
            sure = self._sure.get(self._digest(name, password))
        if sure is None or time.monotonic() > sure.until:
            return None
        user = get_user_model().objects.filter(pk=sure.pk, is_active=True).first()
        return user if user is not None and hmac.compare_digest(user.password, sure.hash) else None

    def keep(self, name: str, password: str, user: User) -> None:
        with self._lock:
            self._sure[self._digest(name, password)] = _Sure(user.pk, user.password, time.monotonic() + KEPT)
            while len(self._sure) > MOST_KEPT:
                self._sure.popitem(last=False)

    def _digest(self, name: str, password: str) -> bytes:
        words = f"{name}\0{password}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, words, hashlib.sha256).digest()


_known = _Known()
