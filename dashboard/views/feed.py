"""The feed page: every number of how fresh and whole the picture is, explained."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access


@access.viewer
@require_safe
def feed(request: HttpRequest) -> HttpResponse:
    """All of it is live regions."""
    return render(request, "feed/feed.html", {"title": "Feed"})
