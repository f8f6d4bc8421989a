"""Control commands from the browser: one function a command, all behind one decorator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
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
SIZES = ("pool_grow", "pool_shrink")
# What undoes each other: whoever turns a thing off and on again within that time means it.
OPPOSITES = (("add_consumer", "cancel_consumer"), ("enable_events", "disable_events"))


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
    earlier: list[ControlRecord] = []
    refusals: list[str] = []
    asked_at = time.time()
    for command in commands:
        with _alone(request, command):
            if before := _second_click(request, command, asked_at):
                earlier.append(before)
                continue
            try:
                records.append(engine.perform(command, actor(request)))
            except Refused as refusal:
                refusals.append(str(refusal))
    if not records and not earlier:
        raise Refused(" ".join(refusals))
    if request.headers.get("HX-Request") == "true":
        # A second click has its toast already: it is drawn again in its place.
        shown = {
            "outcomes": [queries.outcome(record) for record in records],
            "earlier": [queries.outcome(record) for record in earlier],
        }
        context = {**shown, "refusals": refusals}
        return render(request, "audit/_toasts.html", context)
    return redirect("control-record", pk=(records or earlier)[0].pk)


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


def actor(request: HttpRequest) -> Actor:
    """Who sent the request, as the audit log names them."""
    return Actor(
        request.user.pk,
        request.user.get_username(),
        access.role(request.user),
        str(request.META.get("REMOTE_ADDR") or ""),
    )


@contextmanager
def _alone(request: HttpRequest, command: Command) -> Iterator[None]:
    """A person's same command waits for the one before, so that a second click can be told."""
    with _locks[hash((request.user.pk, command.name, command.targets)) % len(_locks)]:
        yield


_locks = [threading.Lock() for _ in range(32)]


def _second_click(request: HttpRequest, command: Command, asked_at: float) -> ControlRecord | None:
    """The record of the same command by the same person moments ago: a double click is one command.

    Pools are set to a size: the next size is another command, however soon it is asked for. One more process,
    and one more again, are two.
    """
    sized = command.name in SIZES
    if sized and "to" not in command.arguments:
        return None
    kin = SIZES if sized else next((pair for pair in OPPOSITES if command.name in pair), (command.name,))
    since = asked_at - SAME
    recent = ControlRecord.objects.filter(
        Q(at__gt=since) | Q(answered_at__gt=since),
        user_id=request.user.pk or 0,
        command__in=kin,
    ).exclude(effect=ControlRecord.Effect.REFUSED)
    keys = ("to",) if sized else tuple(command.arguments)
    for record in recent.order_by("-at")[:20]:
        if list(record.targets) == list(dict.fromkeys(command.targets)):
            same = all(_plain(record.arguments.get(key)) == _plain(command.arguments[key]) for key in keys)
            same = same and (sized or record.command == command.name)
            return record if same else None
    return None


def _plain(value: object) -> str:
    """The log has 30.0 and "none" where 30 and nothing were typed."""
    text = str(value).removesuffix(".0")
    return "" if text == "none" else text


def _back(request: HttpRequest) -> str:
    """The page the form was on, if it is ours."""
    referer = request.headers.get("Referer", "")
    if url_has_allowed_host_and_scheme(referer, {request.get_host()}, require_https=request.is_secure()):
        parts = urlsplit(referer)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path
    return resolve_url("overview")
