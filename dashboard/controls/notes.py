"""Notes on tasks, workers and task names: written by operators, changed by their author or an admin."""

from __future__ import annotations

import threading
import time

from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from dashboard import access
from dashboard.controls import NotAllowed, actor, admit, control
from dashboard.models import Note
from dashboard.queries import notes as queries
from dashboard.queries.notes import LONGEST, About
from dashboard.views.notes import page
from monitor import control as engine
from monitor import publish
from monitor.control import Command, Refused
from monitor.redact import DEFAULT

IN_ALL = 20_000  # notes
SAME = 10.0  # seconds in which the same words of the same person are a second click
CHOICES = 4  # subjects to choose from in a form

_lock = threading.Lock()


@control("note")
def add(request: HttpRequest) -> HttpResponse:
    """One more note; the answer is the form again, empty, or with what was wrong and all that was typed."""
    given = request.POST.get("text", "")
    subjects = [one for key in request.POST.getlist("choice")[:CHOICES] if (one := About.of(key))]
    chosen = request.POST.get("about", "")
    context = {"subjects": subjects, "chosen": chosen, "text": given, "longest": LONGEST}
    try:
        about = _add(request, About.of(chosen), given)
    except NotAllowed:
        raise
    except Refused as refusal:
        context["error"] = str(refusal)
    else:
        if request.headers.get("HX-Request") != "true":
            return redirect(about.url or "overview")
        context |= {"text": "", "saved": True}
    fragment = request.headers.get("HX-Request") == "true"
    template = "notes/_form.html" if fragment else "notes/again.html"
    return render(request, template, context | {"title": "Note"}, status=422 if "error" in context else 200)


@control("note")
def change(request: HttpRequest, pk: int) -> HttpResponse:
    """Other words. Whoever else changed it meanwhile is not written over."""
    note = _own(request, pk)
    try:
        text = cleaned(request.POST.get("text", ""))
        if text != note.text:
            _change(request, note, text, request.POST.get("version", ""))
    except NotAllowed:
        raise
    except Refused as refusal:
        # What was typed stays in the form.
        note.refresh_from_db()
        return page(request, note, error=str(refusal), text=request.POST.get("text", ""), status=422)
    return redirect("note", pk=note.pk)


@control("note")
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """It is gone from the pages; the audit log has what it said."""
    note = _own(request, pk)
    about = queries.about(note)
    command = Command("note_remove", (note.subject,), {"on": note.on, "note": note.pk})
    admit(request, command, "note")
    with transaction.atomic():
        removed, _ = Note.objects.filter(pk=note.pk).delete()
        if removed:
            engine.keep(command, actor(request), f"It said: {note.text}")
            _tell()
    return redirect(about.url or "audit")


def cleaned(given: str) -> str:
    """The words as they are stored: bounded, with secrets hidden; raises ``Refused``."""
    text = given.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()
    text = text.encode("utf-8", "replace").decode()
    if not text:
        raise Refused("The note is empty; write what others should know. Nothing was saved.")
    if len(text) > LONGEST:
        raise Refused(
            f"The note has {len(text):,} characters, and {LONGEST:,} are the most; shorten it. "
            "Nothing was saved."
        )
    return DEFAULT.text(text)


def _add(request: HttpRequest, about: About | None, given: str) -> About:
    if about is None:
        raise Refused("It was not said what the note is on. Nothing was saved.")
    text = cleaned(given)
    command = Command("note_add", (about.subject,), {"on": about.on})
    admit(request, command, "note")
    # One at a time in this process: two clicks are one note, and the bounds hold.
    with _lock, transaction.atomic():
        there = Note.objects.filter(on=about.on, subject=about.subject)
        now, user = time.time(), request.user
        if there.filter(author_id=user.pk, text=text, at__gt=now - SAME).exists():
            return about
        if not about.exists:
            raise Refused(f"Umbel does not know the {about.said[:160]}, or not any more. Nothing was saved.")
        if there.count() >= queries.MOST:
            raise Refused(
                f"There are {queries.MOST} notes on {about.said[:160]}, which is the most: remove one first. "
                "Nothing was saved."
            )
        if Note.objects.count() >= IN_ALL:
            raise Refused(
                f"There are {IN_ALL:,} notes in all, which is the most: remove some first. Nothing was saved."
            )
        note = Note.objects.create(
            on=about.on,
            subject=about.subject,
            text=text,
            author_id=user.pk,
            username=user.get_username(),
            at=now,
        )
        engine.keep(
            Command(command.name, command.targets, command.arguments | {"note": note.pk}),
            actor(request),
            text,
        )
        _tell()
    return about


def _change(request: HttpRequest, note: Note, text: str, version: str) -> None:
    command = Command("note_change", (note.subject,), {"on": note.on, "note": note.pk})
    admit(request, command, "note")
    with transaction.atomic():
        same = Note.objects.filter(pk=note.pk, version=_number(version))
        if not same.update(
            text=text,
            changed_at=time.time(),
            changed_by=request.user.get_username(),
            version=F("version") + 1,
        ):
            raise Refused(
                "Someone changed this note while you wrote. What it says now stands above your words; save "
                "again to put yours in its place. Nothing was saved."
            )
        engine.keep(command, actor(request), f"Now: {text}\nBefore: {note.text}")
        _tell()


def _number(given: str) -> int:
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else 0


def _own(request: HttpRequest, pk: int) -> Note:
    note = get_object_or_404(Note, pk=pk)
    if not access.may_change_note(request, note.author_id):
        command = Command("note_change", (note.subject,), {"on": note.on, "note": note.pk})
        said = f"Only {note.username}, who wrote it, or an admin can change this note."
        engine.refuse(command, actor(request), said)
        raise NotAllowed(said)
    return note


def _tell() -> None:
    transaction.on_commit(lambda: publish.announce({queries.TOPIC}))
