"""The list of workers, and one worker: what it does and how to change it."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.forms.workers import WorkerFilter
from dashboard.fragments import Page
from dashboard.fragments.tasks import why_not_control
from dashboard.fragments.workers import pool
from dashboard.queries import workers as queries
from dashboard.templatetags.words import plain


@access.viewer
@require_safe
def worker_list(request: HttpRequest) -> HttpResponse:
    """Who works, who is full, who is gone?"""
    page = Page.of(request)
    context = {"title": "Workers", "filter": WorkerFilter.of(request.GET), "why_not": why_not_control(page)}
    return render(request, "workers/list.html", context)


@access.viewer
@require_safe
def worker(request: HttpRequest, pk: int) -> HttpResponse:
    """Live regions, and the forms that no frame may touch while someone types in them."""
    view = queries.one(pk) if pk < 2**63 else None
    if view is None:
        raise Http404("No worker of that number is known.")
    page = Page.of(request)
    context = {
        "title": plain(view.hostname),
        "w": view,
        "may": access.can_control(page),
        **pool(page, view),
    }
    return render(request, "workers/detail.html", context)
