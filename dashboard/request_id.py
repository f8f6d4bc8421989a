"""The name of a request: what an error page and the log both say of it."""

from __future__ import annotations

import secrets

from django.http import HttpRequest


def request_id(request: HttpRequest) -> str:
    """The request's name, said on error pages and in the log: four and four hex digits."""
    return str(getattr(request, "umbel_id", "")) or given(request)


def given(request: HttpRequest) -> str:
    """A new one, kept with the request."""
    digits = secrets.token_hex(4)
    name = f"{digits[:4]}-{digits[4:]}"
    # The error page and the log meet in the request alone, and its type has no place for it.
    request.umbel_id = name  # type: ignore[attr-defined]
    return name
