"""Control commands as POSTs: one decorator asks for the method, the role, the origin, and answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from dashboard import access
from monitor import control as engine
from monitor.control import Actor, Command, Refused
from monitor.models import ControlRecord

P = ParamSpec("P")
# A control gets who asks, and answers with what was done, or with a page of its own (to confirm).
Control = Callable[Concatenate[HttpRequest, Actor, P], ControlRecord | HttpResponse]
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

# Seconds in which the same command of the same person is one click too many.
AGAIN = 4.0
_locks = [threading.Lock() for _ in range(64)]


def control(view: Control[P]) -> View[P]:
    """A command: POST only. It returns the ControlRecord, or raises ``Refused``."""
    return _ruled(view, ["POST"])


def confirmed(view: Control[P]) -> View[P]:
    """A command that asks first: GET shows what it would hit and changes nothing."""
    return _ruled(view, ["GET", "HEAD", "POST"])


def is_htmx(request: HttpRequest) -> bool:
    """Whether a fragment is wanted, not a page."""
    return request.headers.get("HX-Request") == "true"


def perform_once(command: Command, actor: Actor) -> ControlRecord:
    """Performs it, unless the same person did the very same a moment ago: then that is the answer."""
    key = (actor.user_id, command.name, command.targets, tuple(sorted(command.arguments.items())))
    with _locks[hash(key) % len(_locks)]:
        return _just_done(command, actor) or engine.perform(command, actor)


def _just_done(command: Command, actor: Actor) -> ControlRecord | None:
    recent = ControlRecord.objects.filter(
        user_id=actor.user_id, command=command.name, sent_at__gte=time.time() - AGAIN
    )
    return next((r for r in recent[:20] if _same(r, command)), None)


def _same(record: ControlRecord, command: Command) -> bool:
    given = {key: str(value) for key, value in record.arguments.items()}
    return list(record.targets) == list(command.targets) and all(
        given.get(key) == str(value) for key, value in command.arguments.items()
    )


def _ruled(view: Control[P], methods: list[str]) -> View[P]:
    @require_http_methods(methods)
    @csrf_protect
    @access.operator
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if access.read_only():
            raise PermissionDenied("Umbel runs read-only: every control is off, for everyone.")
        # Browsers say where a request comes from; what is not from our own pages is not a person's click.
        if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise PermissionDenied("A command must be sent from Umbel's own pages.")
        try:
            done = view(request, actor_of(request), *args, **kwargs)
        except Refused as refusal:
            return _refused(request, str(refusal))
        return _answer(request, done) if isinstance(done, ControlRecord) else done

    return guarded


def actor_of(request: HttpRequest) -> Actor:
    """Who sends this request."""
    user: Any = request.user
    address = str(request.META.get("REMOTE_ADDR") or "")
    return Actor(user.pk, user.get_username(), access.role(user), address)


def _answer(request: HttpRequest, record: ControlRecord) -> HttpResponse:
    from dashboard.queries.audit import shown

    if is_htmx(request):
        return render(request, "audit/_toast.html", {"record": shown(record), "closes": True})
    return redirect("control-record", pk=record.pk)


def _refused(request: HttpRequest, message: str) -> HttpResponse:
    if is_htmx(request):
        return render(request, "audit/_refused.html", {"message": message})
    return render(request, "audit/refused.html", {"title": "Not sent", "message": message}, status=409)
