"""Control commands from the browser: one function a command, all behind one decorator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme

from dashboard import access
from dashboard.queries import audit as queries
from monitor import control as engine
from monitor.control import Actor, Command, Refused
from monitor.models import ControlRecord

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

READ_ONLY = "Umbel was started with --read-only: every control is off. Nothing was sent."
SAME = 3.0  # seconds in which the same command from the same person is a second click


def control(*, asks: bool = False) -> Callable[[View[P]], View[P]]:
    """A control: by POST, by an operator, never in read-only mode; a refusal is told and nothing is sent.

    With ``asks=True`` a GET is let through as well: it shows what the command would do.
    CSRF and the same-origin check are the middleware's.
    """

    def decorate(view: View[P]) -> View[P]:
        @access.operator
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if request.method != "POST" and not (asks and request.method in ("GET", "HEAD")):
                return HttpResponse(status=405, headers={"Allow": "GET, POST" if asks else "POST"})
            if access.read_only():
                return refused(request, READ_ONLY, status=403)
            try:
                return view(request, *args, **kwargs)
            except Refused as refusal:
                return refused(request, str(refusal))

        return guarded

    return decorate


def send(request: HttpRequest, commands: Sequence[Command]) -> HttpResponse:
    """Performs the commands as the sender of the request and answers with what came of them."""
    records: list[ControlRecord] = []
    refusals: list[str] = []
    for command in commands:
        if earlier := _second_click(request, command):
            records.append(earlier)
            continue
        try:
            records.append(engine.perform(command, _actor(request)))
        except Refused as refusal:
            refusals.append(str(refusal))
    if not records:
        raise Refused(" ".join(refusals))
    if request.headers.get("HX-Request") == "true":
        context = {"outcomes": [queries.outcome(record) for record in records], "refusals": refusals}
        return render(request, "audit/_toasts.html", context)
    return redirect("control-record", pk=records[0].pk)


def refused(request: HttpRequest, text: str, status: int = 409) -> HttpResponse:
    """A refusal: a toast that stays, or a page with the way back."""
    context = {"title": "Refused", "text": text, "back": _back(request)}
    if request.headers.get("HX-Request") == "true":
        headers = {"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"}
        answer = render(request, "audit/_refused.html", context, status=status)
        for name, value in headers.items():
            answer[name] = value
        return answer
    return render(request, "audit/refused.html", context, status=status)


def reason(request: HttpRequest) -> str:
    """Why, in the operator's words; for the audit log."""
    return request.POST.get("reason", "").replace("\0", "").strip()[:500]


def _actor(request: HttpRequest) -> Actor:
    return Actor(
        request.user.pk,
        request.user.get_username(),
        access.role(request.user),
        str(request.META.get("REMOTE_ADDR") or ""),
    )


def _second_click(request: HttpRequest, command: Command) -> ControlRecord | None:
    """The record of the same command by the same person moments ago: a double click is one command."""
    recent = ControlRecord.objects.filter(
        user_id=request.user.pk, command=command.name, at__gt=time.time() - SAME
    ).exclude(effect=ControlRecord.Effect.REFUSED)
    for record in recent.order_by("-at")[:20]:
        if list(record.targets) != list(dict.fromkeys(command.targets)):
            continue
        asked = {key: str(value) for key, value in command.arguments.items()}
        sent = {key: str(value) for key, value in record.arguments.items() if key in asked}
        if asked == sent:
            return record
    return None


def _back(request: HttpRequest) -> str:
    """The page the form was on, if it is ours."""
    referer = request.headers.get("Referer", "")
    if url_has_allowed_host_and_scheme(referer, {request.get_host()}, require_https=request.is_secure()):
        parts = urlsplit(referer)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path
    return "/"
