"""The safety of every answer: security headers on all of them, and no act from another site."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.models import Session
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError, OperationalError
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

from dashboard.request_id import given, request_id
from dashboard.views import errors

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "manifest-src 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# What a browser says of a request that this site, or the reader's own hand, has sent.
OWN = frozenset({"same-origin", "none"})

Get = Callable[[HttpRequest], HttpResponseBase]


def headers(get_response: Get) -> Get:
    """Outermost: sets the headers on every response, errors and static files among them."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        given(request)
        return _sealed(get_response(request), request)

    return answer


class Sender(MiddlewareMixin):
    """The address of who sent the request, also when a proxy of ours passed it on.

    Only what trusted proxies say is read, from the last one back: what comes before the first address that
    is not theirs was written by the sender, who may write anything.
    """

    def process_request(self, request: HttpRequest) -> None:
        said = request.headers.get("X-Forwarded-For", "")
        address = str(request.META.get("REMOTE_ADDR") or "")
        for earlier in reversed(said.split(",")[-LONGEST_WAY:]):
            if not _is_trusted(address) or _ip(earlier) is None:
                break
            address = str(_ip(earlier))
        request.META["REMOTE_ADDR"] = address


LONGEST_WAY = 16  # proxies


def _is_trusted(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and any(ip in network for network in settings.UMBEL_TRUSTED_PROXIES)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


class Idle(MiddlewareMixin):
    """A session that nobody uses ends; however busy, it ends a week after signing in.

    Only when it ends is written, and not more often than every few minutes; the live socket looks at it as
    well, and goes when it ends.
    """

    def process_request(self, request: HttpRequest) -> None:
        idle, session = settings.UMBEL_SESSION_IDLE, request.session
        try:
            if not idle or SESSION_KEY not in session or not session.session_key:
                return
            now, begun = time.time(), session.get(BEGUN)
            if begun is not None and now > begun + settings.SESSION_COOKIE_AGE:
                session.flush()
                return
            if now - _touched.get(session.session_key, 0.0) < TOUCH:
                return
            ends = now + idle if begun is None else min(now + idle, begun + settings.SESSION_COOKIE_AGE)
            rows = Session.objects.filter(session_key=session.session_key)
            rows.update(expire_date=datetime.fromtimestamp(ends, UTC))
        except DatabaseError:
            return  # the page itself says so, if it needs the database at all
        if len(_touched) >= MOST_TOUCHED:
            _touched.clear()
        _touched[session.session_key] = now


BEGUN = "begun"  # when the person signed in, Unix seconds
TOUCH = 300.0  # seconds
MOST_TOUCHED = 10_000
_touched: dict[str, float] = {}


@receiver(user_logged_in)
def _begin(request: HttpRequest, **told: object) -> None:
    request.session[BEGUN] = time.time()


class OwnSite(MiddlewareMixin):
    """Refuses what another site sends with the reader's cookies, whatever its CSRF token says."""

    def process_view(self, request: HttpRequest, *view: object) -> HttpResponse | None:
        site = request.headers.get("Sec-Fetch-Site")
        if request.method not in SAFE_METHODS and site is not None and site not in OWN:
            raise PermissionDenied("The request came from another site.")
        return None


class DatabaseAway(MiddlewareMixin):
    """A database that is locked or gone is told as that, and not as a fault of the page."""

    def process_exception(self, request: HttpRequest, problem: Exception) -> HttpResponse | None:
        if not isinstance(problem, OperationalError | InterfaceError):
            return None
        return errors.database_away(request, problem)


def _sealed(response: HttpResponseBase, request: HttpRequest) -> HttpResponseBase:
    for header, value in HEADERS.items():
        response[header] = value
    response["X-Request-Id"] = request_id(request)
    if not response.has_header("Cache-Control"):
        # Pages show a cluster to whoever may see it now; no cache may show it later.
        response["Cache-Control"] = "no-store"
    for header in [name for name in response.headers if _CORS.match(name)]:
        # Nothing of Umbel is for another origin; static file servers like to say otherwise.
        del response[header]
    return response


_CORS = re.compile(r"access-control-", re.IGNORECASE)
