"""The list of workers, and one worker: what it does and how to change it."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.controls import acts
from dashboard.forms.workers import WorkerFilter, pool_number
from dashboard.fragments import Page, notes
from dashboard.fragments.workers import pool, selects
from dashboard.queries import resizing
from dashboard.queries import workers as queries
from dashboard.queries.workers import WorkerView
from dashboard.templatetags.words import plain
from monitor.control import Refused
from monitor.control.workers import waiting

WITHINS = [(seconds, waiting.span(seconds)) for seconds in waiting.WITHIN]


@access.viewer
@require_safe
def worker_list(request: HttpRequest) -> HttpResponse:
    """Who works, who is full, who is gone?"""
    page = Page.of(request)
    context = {"title": "Workers", "filter": WorkerFilter.of(request.GET), "selects": selects(page)}
    return render(request, "workers/list.html", context)


@access.viewer
@require_safe
def worker(request: HttpRequest, pk: int) -> HttpResponse:
    """Live regions, and the forms that no frame may touch while someone types in them."""
    view = _view(pk)
    page = Page.of(request)
    context = {
        "title": plain(view.hostname),
        "w": view,
        "may": access.can_control(page),
        "preview": resizing.preview(view, None),
        "withins": WITHINS,
        "holds": acts.holds(settings.UMBEL_HOLD),
        "hold": settings.UMBEL_HOLD,
        **pool(page, view),
        **notes.form(notes.on_worker(page)),
    }
    return render(request, "workers/detail.html", context)


@access.viewer
@require_safe
def resize(request: HttpRequest, pk: int) -> HttpResponse:
    """What the pool size in ``size`` would do: beside the field while someone types, or on a page."""
    view = _view(pk)
    wanted, error = None, ""
    try:
        wanted = pool_number(request.GET.get("size"), "The pool size")
    except Refused as refusal:
        error = str(refusal).removesuffix(" Nothing was sent.")
    page = Page.of(request)
    context = {
        "title": "Pool size",
        "w": view,
        "wanted": wanted,
        "error": error,
        "preview": resizing.preview(view, wanted, ask=True),
        "withins": WITHINS,
        "holds": acts.holds(settings.UMBEL_HOLD),
        "hold": settings.UMBEL_HOLD,
        **pool(page, view),
    }
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "workers/_preview.html" if fragment else "workers/resize.html", context)


@access.viewer
@require_safe
def drain(request: HttpRequest, pk: int) -> HttpResponse:
    """The way of a worker to its end, step by step."""
    view = _view(pk)
    context = {"title": f"Drain {plain(view.hostname)}", "w": view}
    return render(request, "workers/drain.html", context)


def _view(pk: int) -> WorkerView:
    view = queries.one(pk) if pk < 2**63 else None
    if view is None:
        raise Http404("No worker of that number is known.")
    return view
