"""What every page's frame needs: the page itself, the reader's role, the theme."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from dashboard import access
from dashboard.fragments import Page
from dashboard.fragments.feed import RESOURCES

THEME = (
    "umbel-theme"  # a cookie, written by the theme button, so that a page never flashes in the other theme
)


def frame(request: HttpRequest) -> dict[str, Any]:
    """``page``, ``role``, ``read_only``, ``may_control``, ``resource`` (the navigation entry), ``theme``."""
    theme = request.COOKIES.get(THEME, "")
    page = Page.of(request) if request.resolver_match is not None else None
    context: dict[str, Any] = {
        "role": page.role if page else access.role(getattr(request, "user", None)),
        "read_only": access.read_only(),
        "may_control": page is not None and access.can_control(page),
        "theme": theme if theme in ("light", "dark") else "",
    }
    if page:
        context |= {"page": page, "resource": RESOURCES.get(page.view, "")}
    return context
