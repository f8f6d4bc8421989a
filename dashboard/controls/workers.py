"""Controls of one worker: its pool, its queues, limits of its tasks, its events, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from dashboard.controls import actor, acts, allowed, control, reason, send
from dashboard.forms.workers import confirmed, pattern, pool_number, text, typed_limit
from dashboard.queries import worker as queries
from dashboard.queries import workers as worker_queries
from dashboard.queries.leaving import leaving
from monitor import control as control_engine
from monitor import models
from monitor.control import Command, Refused
from monitor.control.commands import PING


@control("pool_grow", "pool_shrink")
def grow(request: HttpRequest, pk: int) -> HttpResponse:
    """More pool processes: by ``n``, or to ``size``, which may also be fewer."""
    return _resize(request, pk, "pool_grow")


@control("pool_shrink", "pool_grow")
def shrink(request: HttpRequest, pk: int) -> HttpResponse:
    """Fewer pool processes: by ``n``, or to ``size``; one is always left."""
    return _resize(request, pk, "pool_shrink")


@control("autoscale")
def autoscale(request: HttpRequest, pk: int) -> HttpResponse:
    """The limits between which a worker started with --autoscale sizes its own pool."""
    worker = get_object_or_404(models.Worker, pk=pk)
    with _recorded(request, worker, "autoscale", ("max", "min")):
        most = pool_number(request.POST.get("max"), "The most")
        least = pool_number(request.POST.get("min"), "The least")
        if least > most:
            raise Refused(f"The least ({least}) is over the most ({most}); swap them. Nothing was sent.")
    return _send(request, worker, "autoscale", {"max": most, "min": least})


@control("pool_restart")
def restart_pool(request: HttpRequest, pk: int) -> HttpResponse:
    """Every pool process anew; what runs in them ends first."""
    return _send(request, get_object_or_404(models.Worker, pk=pk), "pool_restart", {})


@control("rate_limit")
def rate_limit(request: HttpRequest, pk: int) -> HttpResponse:
    """How often this worker starts tasks of one name: "10/m", "5/s", "3", or "0" for no limit."""
    worker = get_object_or_404(models.Worker, pk=pk)
    task, rate = text(request.POST.get("task")), text(request.POST.get("rate"))
    with _recorded(request, worker, "rate_limit", ("task", "rate")):
        if not rate:
            raise Refused("No rate was typed; give one such as 10/m, or 0 for no limit. Nothing was sent.")
    return _send(request, worker, "rate_limit", {"task": task, "rate": rate})


@control("time_limit")
def time_limit(request: HttpRequest, pk: int) -> HttpResponse:
    """How long tasks of one name may run: what is left empty stays as it is, and 0 is no limit.

    A field that nobody filled in must not lift the limit that holds now.
    """
    worker = get_object_or_404(models.Worker, pk=pk)
    given = {key: text(request.POST.get(key)) for key in ("soft", "hard")}
    limits = {key: typed_limit(value) for key, value in given.items() if value}
    with _recorded(request, worker, "time_limit", ("task", "soft", "hard")):
        if not limits:
            raise Refused(
                "No time limit was typed; give seconds for soft, hard or both, or 0 for no limit. "
                "Nothing was sent."
            )
    return _send(request, worker, "time_limit", {"task": text(request.POST.get("task")), **limits})


@control("add_consumer")
def add_consumer(request: HttpRequest, pk: int) -> HttpResponse:
    """One more queue that this worker takes tasks from."""
    worker = get_object_or_404(models.Worker, pk=pk)
    return _send(request, worker, "add_consumer", {"queue": text(request.POST.get("queue"))})


@control("cancel_consumer", asks=True)
def cancel_consumer(request: HttpRequest, pk: int) -> HttpResponse:
    """No more tasks from a queue. When it is the worker's last, it asks first what that leaves."""
    worker = get_object_or_404(models.Worker, pk=pk)
    posted = request.method == "POST"
    queue = text((request.POST if posted else request.GET).get("queue"))
    if posted and "last" in request.POST:
        return _send(request, worker, "cancel_consumer", {"queue": queue, "last": True})
    if posted and worker.queues != [queue]:
        return _send(request, worker, "cancel_consumer", {"queue": queue})
    if not queue:
        raise Refused("No queue was named. Nothing was sent.")
    return _ask(request, worker, "cancel_consumer", title="Stop consuming", queue=queue)


@control("enable_events")
def enable_events(request: HttpRequest, pk: int) -> HttpResponse:
    """Asks a worker that was started without -E to send its task events."""
    return _send(request, get_object_or_404(models.Worker, pk=pk), "enable_events", {})


@control("disable_events")
def disable_events(request: HttpRequest, pk: int) -> HttpResponse:
    """Asks it to send no more task events; one that was started with -E goes on."""
    return _send(request, get_object_or_404(models.Worker, pk=pk), "disable_events", {})


@control("ping")
def ping(request: HttpRequest, pk: int) -> HttpResponse:
    """Whether it answers, and how soon."""
    return _send(request, get_object_or_404(models.Worker, pk=pk), "ping", {})


@control("shutdown", asks=True)
def shutdown(request: HttpRequest, pk: int) -> HttpResponse:
    """A warm shutdown, after a look at what that ends, and by the worker's name: Umbel cannot undo it.

    A POST without a name asks first, too.
    """
    worker = get_object_or_404(models.Worker, pk=pk)
    if request.method == "POST" and "name" in request.POST:
        with _recorded(request, worker, "shutdown", ("name",)):
            confirmed(request.POST["name"], str(worker.hostname))
        return _send(request, worker, "shutdown", {})
    return _ask(request, worker, "shutdown", title="Shut down", pattern=pattern(str(worker.hostname)))


def _resize(request: HttpRequest, pk: int, command: str) -> HttpResponse:
    worker = get_object_or_404(models.Worker, pk=pk)
    if "size" not in request.POST:
        with _recorded(request, worker, command, ("n",)):
            n = pool_number(request.POST.get("n"), "The number of processes")
        return _send(request, worker, command, {"n": n})
    with _recorded(request, worker, command, ("size",)):
        size = pool_number(request.POST.get("size"), "The pool size")
        now = worker.size
        if now is None:
            raise Refused(
                f"The pool size of {worker.hostname} is not known yet: it has not answered inspect. "
                "Try again when it has. Nothing was sent."
            )
        if size == now:
            raise Refused(f"{worker.hostname} has {now} pool processes already. Nothing was sent.")
    return _send(
        request, worker, "pool_grow" if size > now else "pool_shrink", {"n": abs(size - now), "to": size}
    )


@contextmanager
def _recorded(
    request: HttpRequest, worker: models.Worker, name: str, given: tuple[str, ...]
) -> Iterator[None]:
    """A refusal inside is in the audit log, with what was given as it was given."""
    try:
        yield
    except Refused as refusal:
        # "size" is the page's word for the size to reach; the log's is "to".
        arguments = {"to" if key == "size" else key: request.POST.get(key, "")[:40] for key in given}
        command = Command(name, (str(worker.hostname),), arguments, reason=reason(request))
        control_engine.refuse(command, actor(request), str(refusal))
        raise


def _ask(request: HttpRequest, worker: models.Worker, name: str, **shown: str) -> HttpResponse:
    """What the command would do, and the form that sends it: in a dialog, or on a page of its own."""
    view = worker_queries.one(worker.pk)
    if view is None:
        raise Http404("No worker of that number is known.")
    allowed(request, name, (str(worker.hostname),))
    context = {
        **shown,
        "form": FORMS[name],
        "w": view,
        "leaving": leaving(view),
        "no": queries.why_not(view, name),
        "holds": acts.holds(settings.UMBEL_HOLD),
        "hold": settings.UMBEL_HOLD,
    }
    if request.headers.get("HX-Request") != "true":
        return render(request, "workers/ask.html", context)
    answer = render(request, "workers/_ask.html", context)
    # The button may date from when the worker had other queues: then it awaits a toast.
    answer["HX-Retarget"], answer["HX-Reswap"] = "#dialog", "innerHTML"
    return answer


FORMS = {"cancel_consumer": "workers/_cancel_consumer_form.html", "shutdown": "workers/_shutdown_form.html"}


def _send(request: HttpRequest, worker: models.Worker, name: str, arguments: dict[str, Any]) -> HttpResponse:
    """At once, or held as asked for; a ping never is."""
    if name != PING and acts.held(request):
        return acts.answer(request, acts.hold_worker(request, name, worker, arguments))
    command = Command(name, (str(worker.hostname),), arguments, reason=reason(request))
    return send(request, [command])
