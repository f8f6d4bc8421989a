"""What Umbel does for a worker later, or step by step: shrink when free, set again, drain."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from dashboard.controls import actor, admit, control, reason, send
from dashboard.forms.workers import pool_number
from dashboard.queries import drift
from dashboard.queries import workers as worker_queries
from dashboard.templatetags.words import clock
from monitor import models
from monitor.control import Command, Refused, commands
from monitor.control.performing import noted
from monitor.control.workers import draining, drifting, waiting

# What a restart makes a worker forget, and ``set_again`` sends: each by its own permission.
FORGOTTEN = (
    *(commands.GROW, commands.SHRINK, commands.AUTOSCALE, commands.RATE_LIMIT, commands.TIME_LIMIT),
    *(commands.ADD_CONSUMER, commands.CANCEL_CONSUMER, commands.ENABLE_EVENTS, commands.DISABLE_EVENTS),
)


@control(commands.SHRINK_WHEN_FREE)
def shrink_when_free(request: HttpRequest, pk: int) -> HttpResponse:
    """Fewer pool processes, once so many slots are idle."""
    worker = get_object_or_404(models.Worker, pk=pk)
    size = pool_number(request.POST.get("size"), "The pool size")
    within = request.POST.get("within", str(waiting.WITHIN[1]))
    seconds = int(within) if within.isascii() and within.isdigit() and len(within) < 9 else -1
    _admit(request, worker, commands.SHRINK_WHEN_FREE, commands.SHRINK)
    found = waiting.shrink_when_free(str(worker.hostname), size, seconds, actor(request), reason(request))
    text = f"Nothing is sent before. It ends at {clock(found.until)} UTC, whatever is busy then."
    return _told(request, worker, f"Waits for idle slots to shrink to {size}", text)


@control(commands.KEEP_SIZE)
def keep_size(request: HttpRequest, pk: int) -> HttpResponse:
    """Withdraws the shrink that waits."""
    worker = get_object_or_404(models.Worker, pk=pk)
    _admit(request, worker, commands.KEEP_SIZE)
    waiting.withdraw(str(worker.hostname), actor(request))
    return _told(request, worker, "The pool keeps its size", "The shrink that waited was withdrawn.")


@control(*FORGOTTEN)
def set_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Sends all that the worker has forgotten at its restart, each as a command of its own."""
    view = worker_queries.one(get_object_or_404(models.Worker, pk=pk).pk)
    found = drift.commands(view, reason(request)) if view is not None else []
    if not found:
        raise Refused("Nothing that was set on this worker is forgotten; nothing was sent.")
    return send(request, found, until_silent=True)


@control(commands.DISMISS)
def dismiss(request: HttpRequest, pk: int) -> HttpResponse:
    """No longer offers what the worker has forgotten."""
    worker = get_object_or_404(models.Worker, pk=pk)
    hostname = str(worker.hostname)
    count = models.Drift.objects.filter(worker=hostname, forgotten_at__isnull=False).count()
    if not count:
        raise Refused(f"Nothing is offered for {hostname} any more: it was set again, or dismissed.")
    what = "1 setting" if count == 1 else f"{count} settings"
    text = f"{what} that {hostname} forgot at its restart will not be offered again."
    _admit(request, worker, commands.DISMISS)
    noted(Command(commands.DISMISS, (hostname,), reason=reason(request)), actor(request), text)
    drifting.dismiss(hostname)
    waiting.tell(hostname)
    return _told(request, worker, "Dismissed", text)


@control(commands.DRAIN)
def drain(request: HttpRequest, pk: int) -> HttpResponse:
    """Begins a drain: every queue of the worker is cancelled."""
    worker = get_object_or_404(models.Worker, pk=pk)
    _admit(request, worker, commands.DRAIN, commands.CANCEL_CONSUMER)
    draining.drain(str(worker.hostname), actor(request), reason(request))
    return redirect("worker-drain", pk=pk)


@control(commands.DRAIN)
def drain_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Cancels the queues that it still consumes."""
    worker = get_object_or_404(models.Worker, pk=pk)
    _admit(request, worker, commands.DRAIN, commands.CANCEL_CONSUMER)
    draining.go_on(_drain_of(pk), actor(request))
    return redirect("worker-drain", pk=pk)


@control(commands.END_DRAIN)
def undo_drain(request: HttpRequest, pk: int) -> HttpResponse:
    """Adds the same queues again."""
    worker = get_object_or_404(models.Worker, pk=pk)
    _admit(request, worker, commands.END_DRAIN, commands.ADD_CONSUMER)
    draining.undo(_drain_of(pk), actor(request))
    return redirect("worker-drain", pk=pk)


def _admit(request: HttpRequest, worker: models.Worker, name: str, *also: str) -> None:
    """What is sent for it later, or step by step, needs its permissions, too."""
    admit(request, Command(name, (str(worker.hostname),), reason=reason(request)), name, *also)


def _drain_of(pk: int) -> models.Drain:
    hostname = str(get_object_or_404(models.Worker, pk=pk).hostname)
    found = draining.of_worker(hostname)
    if found is None:
        raise Refused(f"No drain of {hostname} is under way: it is over, or was undone. Nothing was sent.")
    return found


def _told(request: HttpRequest, worker: models.Worker, title: str, text: str) -> HttpResponse:
    if request.headers.get("HX-Request") == "true":
        return render(request, "workers/_noted.html", {"title": title, "text": text})
    return redirect("worker", pk=worker.pk)
