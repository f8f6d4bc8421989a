"""The audit log: who did what, and did it work."""

from __future__ import annotations

import uuid

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.fragments import Page
from dashboard.fragments.audit import asked, listed
from dashboard.queries import audit as queries
from dashboard.queries import exports


@access.viewer
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    """The log, newest first."""
    filters = asked(Page.of(request))
    counts = queries.effect_counts()
    chips = [(e, s, w, counts.get(e, 0), e in filters.effects) for e, (s, w) in queries.EFFECTS.items()]
    context = {"title": "Audit log", "asked": filters, "chips": chips, "people": queries.people()}
    context["commands"] = sorted({*queries.VERBS, *queries.OWN})
    params = request.GET.copy()
    params.pop("page", None)
    context["query"] = params.urlencode()
    return render(request, "audit/audit.html", context)


@access.viewer
@require_safe
def export(request: HttpRequest, form: str) -> HttpResponse:
    """All that the filters leave, as a file: CSV or JSON Lines, newest first."""
    written = exports.FORMS.get(form)
    if written is None:
        raise Http404
    found = queries.matching(asked(Page.of(request)))
    count = found.count()
    if count > exports.MOST:
        text = (
            f"{count:,} entries match, and a file holds {exports.MOST:,} at most. "
            "Choose a person, a command, an effect or a target."
        )
        context = {"title": "Too many entries", "head": "Too many entries for one file.", "text": text}
        return render(request, "audit/refused.html", context, status=413)
    answer = HttpResponse(written.body(found.iterator(chunk_size=500)), content_type=written.content_type)
    answer["Content-Disposition"] = f'attachment; filename="umbel-audit.{form}"'
    return answer


@access.viewer
@require_safe
def together(request: HttpRequest) -> HttpResponse:
    """Commands that were sent together, one after the other, each with what came of it."""
    if not listed(Page.of(request)):
        raise Http404("No such command is in the audit log.")
    return render(request, "audit/together.html", {"title": "Commands"})


@access.viewer
@require_safe
def record(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One command: what was sent, what each worker said, what Umbel saw; or only its toast."""
    entry = queries.record(pk)
    if entry is None:
        raise Http404
    if request.GET.get("fragment") == "toast":
        return render(request, "audit/_toast.html", {"record": entry})
    return render(request, "audit/record.html", {"title": "Command", "entry": entry})
