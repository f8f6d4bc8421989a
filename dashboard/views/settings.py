"""The settings page: how this Umbel is set up, what it keeps, and what that costs. It changes nothing."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.queries import settings as queries


@access.viewer
@require_safe
def settings(request: HttpRequest) -> HttpResponse:
    """For everyone who may look; secrets are for nobody."""
    context = {
        "title": "Settings",
        "groups": queries.options(),
        "storage": queries.storage(),
        "versions": queries.versions(),
    }
    return render(request, "settings/settings.html", context)
