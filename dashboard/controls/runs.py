"""Run tasks: one again, an edited one, any by hand, or the failed ones of a workflow."""

from __future__ import annotations

import time
import uuid as uuidlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url

from dashboard.controls import SAME, acts, control, reason, send
from dashboard.forms.runs import PRIORITIES, RunForm
from dashboard.queries import audit, runs
from monitor import broker
from monitor.arguments import hides
from monitor.control import Command, Message, Refused
from monitor.control.commands import SEND
from monitor.control.runs import again
from monitor.control.runs.originals import SOURCES, Original, original, originals
from monitor.control.runs.routes import Route, route
from monitor.control.runs.sending import described
from monitor.models import SentTask
from monitor.records import ENDED
from monitor.turns import Turns

MOST = 200  # failed tasks of one workflow
# A second click waits for the first, and then finds what it did.
_turns = Turns()


@control(SEND)
def retry(request: HttpRequest) -> HttpResponse:
    """A task again as it was sent; several as one act, shown first.

    What cannot be sent without a person's word goes to the form.
    """
    many, everything = tuple(dict.fromkeys(request.POST.getlist("uuid"))), request.POST.get("all", "")
    if everything or len(many) > 1:
        return acts.propose(request, "retry", many, everything)
    uuid = request.POST.get("uuid", "").replace("\0", "")[:155]
    if not uuid:
        raise Refused("No task was named, so nothing was sent.")
    with _turns.of(uuid):
        if (earlier := _earlier(uuid, request.GET.get("times", ""))) is not None:
            return _told(request, earlier)
        found = original(uuid)
        if found is None:
            raise Refused(f"No task with the id {uuid!r} is in Umbel's history. Nothing was sent.")
        # A row does not know what was run again since it was drawn: the form tells.
        unsure = "times" not in request.GET and again.times(uuid) > 0
        if unsure or again.why_not(found):
            return _to(request, f"{resolve_url('tasks-run')}?{urlencode({'again': uuid})}")
        new = again.identity(uuid, f"time {again.times(uuid)}")
        return send(request, [again.command_for([(found, new)], reason(request))])


@control(SEND, asks=True)
def run(request: HttpRequest) -> HttpResponse:
    """A task by hand, or one again with changes: a GET is the form, a POST sends once."""
    given = request.POST if request.method == "POST" else request.GET
    found = _named(given.get("again", ""))
    if given.get("fragment") == "route":
        name, queue = given.get("name", "").strip()[:255], given.get("queue", "").strip()[:255]
        return render(request, "tasks/_run_route.html", _route(name, queue, given.getlist("despite")))
    if request.method != "POST":
        form = RunForm.again(found) if found is not None else RunForm.of(given, None)
        if found is None and form.values["name"] and not form.values["queue"]:
            usual = runs.usual_queue(form.values["name"])
            form = RunForm({**form.values, "queue": usual})
        return _form(request, form, _token(request))
    token = given.get("token", "")
    uuid = _uuid_of(request, token)
    with _turns.of(uuid):
        if again.sent(uuid) is not None:
            return redirect("task", uuid=uuid)
        form = RunForm.of(given, found)
        message = form.message(uuid, time.time())
        if message is None:
            return _form(request, form, token, status=422)
        return _send(request, form, message, token)


@control(SEND, asks=True)
def run_failed(request: HttpRequest) -> HttpResponse:
    """The failed tasks of a workflow again: a GET lists what would be sent, a POST sends those chosen."""
    given = request.POST if request.method == "POST" else request.GET
    uuid = given.get("of", "").replace("\0", "")[:155]
    if request.method != "POST":
        members = runs.failed(uuid)
        context = {
            "title": "Run failed tasks again",
            "uuid": uuid,
            "sendable": [one for one in members if not one.why],
            "spared": [one for one in members if one.why],
            "sources": SOURCES,
            "token": _token(request),
        }
        fragment = request.headers.get("HX-Request") == "true"
        return render(request, "tasks/_run_failed.html" if fragment else "tasks/run_failed.html", context)
    wish = _uuid_of(request, given.get("token", ""))
    chosen = tuple(dict.fromkeys(one for one in given.getlist("uuid") if one))[:MOST]
    if not chosen:
        raise Refused("No task was chosen, so nothing was sent.")
    with _turns.of("run failed"):
        new = {one: again.identity(one, wish) for one in chosen}
        first = SentTask.objects.select_related("record").filter(uuid__in=list(new.values())).first()
        if first is not None:
            return _told(request, first)
        _not_since(chosen, _drawn_at(given.get("token", "")))
        kin = runs.failed_of(uuid)
        known = originals(one for one in chosen if one in kin)
        tasks = [(known[one], new[one]) for one in chosen if one in known and not again.why_not(known[one])]
        if not tasks:
            raise Refused("None of these tasks can be run again as it was. Nothing was sent.")
        return send(request, [again.command_for(tasks, reason(request))])


# private, in the order of use


def _not_since(chosen: Sequence[str], drawn_at: float) -> None:
    """Raises ``Refused`` when one of them was run again after the form was drawn: its ticks are old."""
    since = SentTask.objects.filter(of__in=chosen, at__gt=drawn_at, record__sent_at__isnull=False)
    by = list(since.order_by("at").values_list("record__username", flat=True))
    if by:
        some = "One of these tasks was" if len(by) == 1 else f"{len(by)} of these tasks were"
        raise Refused(
            f"{some} run again by {by[0]} since this list was drawn: open it anew. Nothing was sent."
        )


def _send(request: HttpRequest, form: RunForm, message: Message, token: str) -> HttpResponse:
    """Once every warning was read and overruled."""
    despite = set(request.POST.getlist("despite"))
    way = route(message.name, message.queue)
    if any(_word(way, key) not in despite for key in way.warnings):
        return _form(request, form, token, status=422, way=way)
    told = described([message], way.warnings)
    command = Command(SEND, (message.uuid,), told, reason=reason(request), messages=(message,))
    try:
        send(request, [command])
    except Refused as refusal:
        return _form(request, form, token, status=409, way=way, refusal=str(refusal))
    sent = again.sent(message.uuid)
    if sent is not None and sent.record.sent_at is None:
        # The broker was away; the token is used up with its record.
        evidence = str(sent.record.evidence)
        return _form(request, form, _token(request), status=503, way=way, refusal=evidence)
    return redirect("task", uuid=message.uuid)


def _form(
    request: HttpRequest,
    form: RunForm,
    token: str,
    *,
    status: int = 200,
    way: Route | None = None,
    refusal: str = "",
) -> HttpResponse:
    found = form.original
    values = form.values
    context: dict[str, Any] = {
        "title": "Run again" if found else "Run a task",
        "form": form,
        "values": values,
        "errors": form.errors,
        "token": token,
        "found": found,
        "source": SOURCES.get(found.source, "") if found else "",
        "told": runs.told(found.uuid) if found else None,
        "already": next((one.task for one in runs.runs(found.uuid).again if one.left), None)
        if found
        else None,
        "hides": found is not None and (hides(found.args.shown) or hides(found.kwargs.shown)),
        "ended": found is None or found.state in ENDED,
        "choices": runs.choices(),
        "priorities": PRIORITIES,
        "transport": broker.current().transport,
        "refusal": refusal,
        "asks": way is not None and bool(way.warnings) and not refusal,
    }
    context |= _route(values["name"].strip(), values["queue"].strip(), request.POST.getlist("despite"), way)
    return render(request, "tasks/run.html", context, status=status)


def _route(name: str, queue: str, despite: Sequence[str], way: Route | None = None) -> dict[str, Any]:
    """Where it would go, and which warnings were overruled."""
    if way is None and name and queue:
        way = route(name, queue)
    warnings = [] if way is None else [(_word(way, key), text) for key, text in way.warnings.items()]
    return {"way": way, "warnings": [(word, text, word in despite) for word, text in warnings]}


def _word(way: Route, key: str) -> str:
    """What a tick at a warning says: this warning, of this queue and this name."""
    return f"{key}: {way.name} to {way.queue}"


def _named(uuid: str) -> Original | None:
    uuid = uuid.replace("\0", "")[:155]
    if not uuid:
        return None
    found = original(uuid)
    if found is None:
        raise Refused(f"No task with the id {uuid!r} is in Umbel's history: it cannot be run again.")
    return found


def _signer() -> signing.Signer:
    return signing.Signer(salt="umbel.run")


def _token(request: HttpRequest) -> str:
    """The id of the task that a form will send, for this person alone: a second click is the same task."""
    return _signer().sign(f"{uuidlib.uuid4()}.{request.user.pk}.{time.time():.3f}")


def _uuid_of(request: HttpRequest, token: str) -> str:
    try:
        uuid, person, _ = _parts(token)
    except signing.BadSignature:
        raise Refused("This form is not one that Umbel made: open it again. Nothing was sent.") from None
    if person != str(request.user.pk):
        raise Refused("This form was made for someone else: open it yourself. Nothing was sent.")
    return uuid


def _drawn_at(token: str) -> float:
    """When the form of that token was made."""
    return float(_parts(token)[2])


def _parts(token: str) -> list[str]:
    """The id, the person and the moment; raises ``BadSignature``, also for a token of an older Umbel."""
    parts = _signer().unsign(token[:300]).split(".", 2)
    if len(parts) != 3:
        raise signing.BadSignature
    return parts


def _earlier(uuid: str, times: str) -> SentTask | None:
    """What was sent for the same wish: moments ago, or since the page was drawn."""
    recent = (
        SentTask.objects.select_related("record").filter(of=uuid).filter(of__gt="").order_by("-at").first()
    )
    if recent is not None and recent.record.sent_at is not None:
        if time.time() - max(recent.at, recent.record.answered_at or 0.0) < SAME:
            return recent
        if times.isascii() and times.isdigit() and len(times) < 6 and int(times) < again.times(uuid):
            return recent
    return None


def _told(request: HttpRequest, sent: SentTask) -> HttpResponse:
    """The outcome of what was done before; a toast of one's own is drawn again in its place."""
    if request.headers.get("HX-Request") != "true":
        return redirect("control-record", pk=sent.record_id)
    own = sent.record.user_id == request.user.pk and time.time() - sent.at < 60
    shown = audit.outcome(sent.record)
    context = {"earlier": [shown]} if own else {"outcomes": [shown]}
    return render(request, "audit/_toasts.html", context)


def _to(request: HttpRequest, address: str) -> HttpResponse:
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(status=204, headers={"HX-Redirect": address})
    return redirect(address)
