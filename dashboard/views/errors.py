"""Error pages: what failed, what to do about it, and nothing of the inside."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from dashboard import access
from dashboard.request_id import request_id

log = logging.getLogger(__name__)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """400. The reason is in the log only: it may hold what an attacker sent."""
    return _page(
        request, 400, "That request makes no sense", "Umbel could not read it. Go back and try again."
    )


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """403: which role is needed, when it is about a role."""
    if isinstance(exception, access.Forbidden):
        held = access.role(getattr(request, "user", None))
        have = f"You have the {held} role." if held else "Your account has no role."
        return _page(
            request,
            403,
            f"That needs the {exception.needs} role",
            f"{have} An admin can change that on the users page.",
        )
    return _page(request, 403, "Refused", f"{exception or 'That is not allowed.'} Nothing was done.")


# How Django begins its reasons for a form that another site, or a proxy under another name, has sent.
OTHER_SITE = ("Origin checking failed", "Referer checking failed")


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 of Django's CSRF check."""
    log.warning("CSRF check failed: %s (%s)", reason, request_id(request))
    if reason.startswith(OTHER_SITE):
        origin = request.headers.get("Origin", "another address")[:100]
        how = "" if request.is_secure() else " without HTTPS"
        return _page(
            request,
            403,
            "This came from another address",
            f"Your browser is at {origin}, and Umbel was asked as {request.get_host()[:100]}{how}. "
            "Nothing was done. If a proxy stands between, it has to hand on the Host header as it came, with "
            "its port, and Umbel needs --secure behind HTTPS; or name the address with --origins.",
        )
    return _page(
        request,
        403,
        "This page was open too long",
        "Its form no longer belongs to your session. Nothing was done. Load the page again, then try again.",
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """404. The address is not repeated: it is not ours."""
    return _page(
        request,
        404,
        "There is nothing here",
        "A task or worker may have left the history since: Umbel keeps it for a while, not for ever.",
    )


def failed(request: HttpRequest) -> HttpResponse:
    """500: the request's id, which the log has too."""
    log.error("Request %s failed: %s %s", request_id(request), request.method, request.path)
    return _page(
        request,
        500,
        "Umbel failed at this",
        "The fault is in Umbel, not in your tasks or workers. The log has the details under this request id.",
    )


def database_away(request: HttpRequest, problem: Exception) -> HttpResponse:
    """503: what is asked again soon."""
    reason = f"{type(problem).__name__}: {problem}"
    log.error(
        "Request %s failed, no database: %s %s: %s", request_id(request), request.method, request.path, reason
    )
    answer = _page(
        request,
        503,
        "Umbel’s database does not answer",
        "It is locked or cannot be reached, so Umbel can neither look anything up nor record a command. "
        "Workers and tasks go on without it. Try again in a moment; the log says what is wrong.",
    )
    answer["Retry-After"] = "5"
    return answer


def _page(request: HttpRequest, status: int, head: str, text: str) -> HttpResponse:
    # Without a request context: whatever failed may have failed in there.
    context = {"status": status, "head": head, "text": text, "request_id": request_id(request)}
    if request.headers.get("HX-Request") == "true":
        headers = {"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"}
        return HttpResponse(render_to_string("errors/_toast.html", context), status=status, headers=headers)
    return HttpResponse(render_to_string("errors/error.html", context), status=status)
