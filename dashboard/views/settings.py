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
    storage = queries.storage()
    context = {
        "title": "Settings",
        "groups": queries.options(),
        "storage": storage,
        # SQLite cannot say it by table unless it was built so.
        "sized": storage is not None and any(table.size is not None for table in storage.tables),
        "versions": queries.versions(),
        "webs": queries.webs(),
        "commands": queries.commands(),
        "has_rule": queries.has_rule(),
        "thresholds": queries.thresholds(),
    }
    return render(request, "settings/settings.html", context)
