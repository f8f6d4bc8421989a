"""Acts on many: the list of them, and one with what became of each target."""

from __future__ import annotations

import uuid

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.queries import acts as queries


@access.viewer
@require_safe
def acts(request: HttpRequest) -> HttpResponse:
    """Newest first."""
    return render(request, "acts/acts.html", {"title": "Acts on many"})


@access.viewer
@require_safe
def act(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What was asked for, how far it is, and what came of it; or only its toast."""
    toast = request.GET.get("fragment") == "toast"
    shown = queries.one(pk) if toast else queries.bare(pk)
    if shown is None:
        raise Http404("There is no such act: it was forgotten, or never confirmed.")
    if toast:
        return render(request, "acts/_toast.html", {"shown": shown, "act": shown.act})
    return render(request, "acts/act.html", {"title": shown.noun, "shown": shown, "act": shown.act})
