"""What is done from the browser: one function a command, all behind one decorator."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlencode, urlsplit

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme

from dashboard import access, permissions
from dashboard.queries import audit as queries
from monitor import control as engine
from monitor.control import Actor, Command, Refused, Unreachable
from monitor.models import ControlRecord, Worker
from monitor.turns import Turns

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]

READ_ONLY = "Umbel was started with --read-only: every control is off. Nothing was sent."
SAME = 3.0  # seconds in which the same command from the same person is a second click
SIZES = ("pool_grow", "pool_shrink")
# What undoes each other: whoever turns a thing off and on again within that time means it.
OPPOSITES = (("add_consumer", "cancel_consumer"), ("enable_events", "disable_events"))
# A person's same command waits for the one before, so that a second click can be told.
_turns = Turns()


class NotAllowed(Refused):
    """Refused since this person may not, by the table of permissions or by the site's own rule."""


class ReasonMissing(Exception):
    """A command that wants a reason came without one."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name)
        self.command = command


def control(*commands: str, asks: bool = False) -> Callable[[View[P]], View[P]]:
    """A control: by POST, by whoever may give one of these commands, never in read-only mode.

    A refusal is told and nothing is sent; a reason that is missing is asked for. With ``asks=True`` a GET
    is let through as well: it shows what the command would do. CSRF and the same-origin check are the
    middleware's.
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
                _entitled(request, commands, kwargs)
                return view(request, *args, **kwargs)
            except ReasonMissing as missing:
                return ask_reason(request, missing.command)
            except NotAllowed as refusal:
                return refused(request, str(refusal), status=403)
            except Refused as refusal:
                return refused(request, str(refusal))

        guarded.control_commands = commands  # type: ignore[attr-defined]
        return guarded

    return decorate


def allowed(request: HttpRequest, command: str, targets: Sequence[str], *also: str) -> None:
    """Raises ``NotAllowed`` when the sender may not do this to these: for what is shown before it is sent."""
    can = access.may(request, command, targets, also)
    if not can.allowed:
        raise NotAllowed(can.reason)


def admit(
    request: HttpRequest, command: Command, name: str, *also: str, about: Sequence[str] | None = None
) -> None:
    """For what does not go through ``send``: raises when it wants a reason, or when its sender may not.

    ``name`` is the permission, beside those in ``also``; the command is what a refusal is recorded as.
    ``about``: what the site's own rule is asked about, when that is not the command's targets.
    """
    _has_reason(command, name, *also)
    can = access.may(request, name, access.about(command) if about is None else about, also)
    if not can.allowed:
        engine.refuse(command, actor(request), can.reason)
        raise NotAllowed(can.reason)


def send(request: HttpRequest, commands: Sequence[Command], *, until_silent: bool = False) -> HttpResponse:
    """Performs the commands as the sender of the request and answers with what came of them.

    Without scripts several lead to a page that lists all, those that were refused, too. ``until_silent``:
    a worker that does not answer one, or a broker that is away, is not asked the next.
    """
    for command in commands:
        _has_reason(command, *permissions.named(command.name, command.arguments))
    records: list[ControlRecord] = []
    earlier: list[ControlRecord] = []
    refusals: list[str] = []
    barred = left = 0
    asked_at = time.time()
    told = [uuid.uuid4() for _ in commands]  # the records, of refusals too
    for number, (command, identity) in enumerate(zip(commands, list(told), strict=True), 1):
        name, *also = permissions.named(command.name, command.arguments)
        can = access.may(request, name, access.about(command), also)
        if not can.allowed:
            engine.refuse(command, actor(request), can.reason, identity)
            refusals.append(can.reason)
            barred += 1
            continue
        with _turns.of(request.user.pk, command.name, command.targets):
            if before := _second_click(request, command, asked_at):
                earlier.append(before)
                told[number - 1] = before.pk
                continue
            try:
                records.append(engine.perform(command, actor(request), identity=identity))
                told[number - 1] = records[-1].pk
                mute = _is_mute(records[-1])
            except Refused as refusal:
                refusals.append(str(refusal))
                mute = "did not answer" in str(refusal) or isinstance(refusal.__cause__, Unreachable)
        if until_silent and mute and (left := len(commands) - number):
            refusals.append(not_sent(left))
            break
    if not records and not earlier:
        raise (NotAllowed if barred else Refused)(" ".join(refusals))
    if request.headers.get("HX-Request") == "true":
        # A second click has its toast already: it is drawn again in its place.
        shown = {
            "outcomes": [queries.outcome(record) for record in records],
            "earlier": [queries.outcome(record) for record in earlier],
        }
        context = {**shown, "refusals": refusals}
        return render(request, "audit/_toasts.html", context)
    if len(commands) == 1:
        return redirect("control-record", pk=told[0])
    asked = [*(("id", one) for one in told[: len(told) - left]), *([("left", left)] if left else [])]
    return redirect(f"{resolve_url('control-records')}?{urlencode(asked)}")


def not_sent(left: int) -> str:
    """Of commands that were to be sent one after the other, the rest."""
    return f"{left} more {'was' if left == 1 else 'were'} not sent: try again in a moment."


def _is_mute(record: ControlRecord) -> bool:
    """Whether the broker was away, or not every worker answered."""
    return record.sent_at is None or any(one.get("outcome") == "silent" for one in record.replies)


def refused(request: HttpRequest, text: str, status: int = 409) -> HttpResponse:
    """A refusal: a toast that stays, or a page with the way back."""
    context = {"title": "Refused", "text": text, "back": back(request)}
    if request.headers.get("HX-Request") == "true":
        headers = {"HX-Retarget": "#toasts", "HX-Reswap": "beforeend"}
        answer = render(request, "audit/_refused.html", context, status=status)
        for name, value in headers.items():
            answer[name] = value
        return answer
    return render(request, "audit/refused.html", context, status=status)


def ask_reason(request: HttpRequest, command: Command) -> HttpResponse:
    """The same form again, with all that was given, and a field for the reason."""
    left_out = ("csrfmiddlewaretoken", "reason")
    given = [(key, one) for key, all_ in request.POST.lists() if key not in left_out for one in all_]
    record = ControlRecord(command=command.name, targets=list(command.targets), arguments=command.arguments)
    context = {
        **{"title": "Reason", "command": queries.outcome(record), "given": given},
        **{"action": request.get_full_path(), "back": back(request)},
    }
    if request.headers.get("HX-Request") != "true":
        return render(request, "controls/reason.html", context, status=422)
    answer = render(request, "controls/_reason.html", context, status=422)
    answer["HX-Retarget"], answer["HX-Reswap"] = "#dialog", "innerHTML"
    return answer


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


def _has_reason(command: Command, *names: str) -> None:
    if not command.reason and permissions.reason_for(*names) == permissions.REQUIRED:
        raise ReasonMissing(command)


def _entitled(request: HttpRequest, commands: Sequence[str], kwargs: Mapping[str, Any]) -> None:
    """Raises when the sender's role may give none of the commands; who tried to is in the audit log."""
    cannot = [can for name in commands if not (can := access.entitled(request, name)).allowed]
    if not commands or len(cannot) < len(commands):
        return
    if request.method == "POST":
        engine.refuse(
            Command(commands[0], _named(request, kwargs), reason=reason(request)),
            actor(request),
            cannot[0].reason,
        )
    needed = permissions.needed(commands[0])
    if needed == permissions.NOBODY:
        raise NotAllowed(f"{cannot[0].reason}. Nothing was sent.")
    raise access.Forbidden(needed)


def _named(request: HttpRequest, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """What a form is about, as far as that can be told without its command."""
    match, given = request.resolver_match, request.POST
    if match is not None and (match.url_name or "").startswith("worker-"):
        return tuple(Worker.objects.filter(pk=kwargs["pk"]).values_list("hostname", flat=True))
    named = (given.getlist(key) for key in ("uuid", "queue", "name", "about"))
    return tuple(next((values for values in named if values), []))


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


def back(request: HttpRequest) -> str:
    """The page the form was on, if it is ours."""
    referer = request.headers.get("Referer", "")
    if url_has_allowed_host_and_scheme(referer, {request.get_host()}, require_https=request.is_secure()):
        parts = urlsplit(referer)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path
    return resolve_url("overview")
