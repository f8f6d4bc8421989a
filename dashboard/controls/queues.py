"""Purge a queue, after a look at what that deletes."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from dashboard.controls import allowed, control, reason, send
from dashboard.forms.workers import pattern
from dashboard.queries import purging
from monitor.control import Command, Refused


@control("purge", asks=True)
def purge(request: HttpRequest) -> HttpResponse:
    """A GET shows what would go; a POST deletes it when the name was typed."""
    given = request.POST if request.method == "POST" else request.GET
    queue = given.get("queue", "").replace("\0", "")[:255]
    if not queue:
        raise Refused("No queue was named, so nothing was deleted.")
    if request.method == "POST" and "typed" in request.POST:
        typed = request.POST["typed"].strip()
        if typed != queue:
            raise Refused(
                f"“{typed[:80]}” is not “{queue}”: type the queue's name to confirm. Nothing was deleted."
            )
        arguments = {"count": request.POST.get("count", "")}
        return send(request, [Command("purge", (queue,), arguments, reason=reason(request))])
    allowed(request, "purge", (queue,))
    context = {"title": "Purge", "hit": purging.hit(queue), "pattern": pattern(queue)}
    fragment = request.headers.get("HX-Request") == "true"
    return render(request, "queues/_purge.html" if fragment else "queues/purge.html", context)
