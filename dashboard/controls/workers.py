"""Pool controls of one worker: size, autoscale limits, events on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404

from dashboard.controls import actor, control, reason, send
from dashboard.forms.workers import pool_number
from monitor import control as control_engine
from monitor import models
from monitor.control import Command, Refused


@control()
def grow(request: HttpRequest, pk: int) -> HttpResponse:
    """More pool processes: by ``n``, or to ``size``, which may also be fewer."""
    return _resize(request, pk, "pool_grow")


@control()
def shrink(request: HttpRequest, pk: int) -> HttpResponse:
    """Fewer pool processes: by ``n``, or to ``size``; one is always left."""
    return _resize(request, pk, "pool_shrink")


@control()
def autoscale(request: HttpRequest, pk: int) -> HttpResponse:
    """The limits between which a worker started with --autoscale sizes its own pool."""
    worker = get_object_or_404(models.Worker, pk=pk)
    with _recorded(request, worker, "autoscale", ("max", "min")):
        most = pool_number(request.POST.get("max"), "The most")
        least = pool_number(request.POST.get("min"), "The least")
        if least > most:
            raise Refused(f"The least ({least}) is over the most ({most}); swap them. Nothing was sent.")
    return _send(request, worker, "autoscale", {"max": most, "min": least})


@control()
def enable_events(request: HttpRequest, pk: int) -> HttpResponse:
    """Asks a worker that was started without -E to send its task events."""
    return _send(request, get_object_or_404(models.Worker, pk=pk), "enable_events", {})


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


def _send(request: HttpRequest, worker: models.Worker, name: str, arguments: dict[str, int]) -> HttpResponse:
    command = Command(name, (str(worker.hostname),), arguments, reason=reason(request))
    return send(request, [command])
