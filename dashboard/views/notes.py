"""The page of one note: what it says, who may change it, and its history."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from dashboard import access
from dashboard.models import Note
from dashboard.queries import notes as queries


@access.viewer
@require_safe
def note(request: HttpRequest, pk: int) -> HttpResponse:
    """For all who may look; with a form for its author and for admins."""
    return page(request, get_object_or_404(Note, pk=pk))


def page(
    request: HttpRequest, found: Note, *, error: str = "", text: str | None = None, status: int = 200
) -> HttpResponse:
    """Also what a change is answered with that could not be made."""
    context = {
        **{
            "title": "Note",
            "note": found,
            "about": queries.about(found),
            "history": queries.history(found.pk),
        },
        **{"may": access.may_change_note(request, found.author_id), "error": error},
        "text": found.text if text is None else text,
    }
    return render(request, "notes/note.html", context, status=status)
