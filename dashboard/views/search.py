"""Search over tasks, task names, workers and queues: a page, and the dialog's hits."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.queries import gaps
from dashboard.queries import search as queries


@access.viewer
@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """Hits for ``q``; a whole task id or hostname goes straight to its page."""
    text = request.GET.get("q", "")[: queries.LONGEST].replace("\0", "").strip()
    found = queries.hits(text)
    part = request.headers.get("HX-Request") == "true"
    if not part and (hit := queries.meant(found, text)):
        return redirect(hit.href)
    now = time.time()
    blind = gaps.between(now - gaps.DAY, now, now) if text and not found else []
    context = {"title": "Search", "q": text, "hits": found, "blind": blind}
    return render(request, "search/_hits.html" if part else "search/search.html", context)
