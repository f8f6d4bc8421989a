"""A small site over the real socket, hub and scripts, whose regions show what a test posts to it.

``python -m tests.live_site`` prints its port and a session key as JSON, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Site:
    """The running site, for a test; ``cookie`` is the header of a browser that has signed in."""

    def __init__(self, port: int, name: str, cookie: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.cookie = f"{name}={cookie}"
        self.browser_cookie = {"name": name, "value": cookie, "url": self.url}

    def set(self, **state: Any) -> None:
        request = urllib.request.Request(f"{self.url}/set/", json.dumps(state).encode(), method="POST")
        urllib.request.urlopen(request, timeout=15).close()

    def end(self, why: str = "restart") -> None:
        """Closes every socket."""
        urllib.request.urlopen(f"{self.url}/end/?why={why.replace(' ', '%20')}", timeout=15).close()

    def counts(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/counts/", timeout=15) as answer:
            got: dict[str, Any] = json.load(answer)
        return got


@contextmanager
def running() -> Iterator[Site]:
    """The site in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.live_site"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    line = process.stdout.readline()
    assert line, "the site did not start"
    yield Site(**json.loads(line))
    process.stdin.close()
    process.wait(30)


urlpatterns: list[Any] = []

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

PAGE = """{% load static regions %}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Live site</title>
<meta name="htmx-config" content="history:false includeIndicatorCSS:false">
<link rel="icon" href="{% static 'favicon.svg' %}" type="image/svg+xml">
{% include "_styles.html" %}
<script src="{% static 'vendor/htmx.min.js' %}" defer></script>
<script src="{% static 'vendor/hx-ws.min.js' %}" defer></script>
<script src="{% static 'app.js' %}" type="module"></script></head><body>{% include "_icons.svg" %}
<div class="app"><main class="main" id="main">{% include "_live.html" %}
<nav class="nav"><a href="/">Overview</a><a href="/tasks/">Tasks</a></nav>
<details class="fresh menu"><summary><span class="pulse"></span>Live</summary><p>How fresh</p></details>
<button class="btn" type="button" data-theme-toggle>Theme</button>
<button class="btn" type="button" data-pause aria-pressed="false"><span>Pause</span></button>
<button class="btn" type="button" data-open="#keys">Keys</button>
<button class="btn" type="button" data-copy="copied words"><span>Copy</span></button>
<form class="filters"><input name="q" aria-label="Filter"></form>
<div role="tablist"><button role="tab" aria-selected="true" aria-controls="p1" id="t1">One</button
><button role="tab" aria-selected="false" aria-controls="p2" id="t2" tabindex="-1">Two</button></div>
<div role="tabpanel" id="p1">first</div><div role="tabpanel" id="p2" hidden>second</div>
{% region "word" %}
<div class="sheet"><div class="strip"><span class="push held" hidden>Held still while you work here</span
><button class="btn btn-s" type="button" data-newpill hidden
><span data-newcount>Show newer</span></button></div>
{% region "rows" %}</div>
<div class="bulk" data-bulk hidden><b data-bulk-count></b>
<button type="button" class="btn" data-key="r">Revoke</button
><button type="button" class="btn" data-key="R">Terminate</button></div>
{% region_data "rates" as rates %}{{ rates|json_script:"rates-data" }}
<section><figure class="chart" data-chart="rates"><div class="plotbox h-xl"></div>
<div class="lane-h"><span>Trouble only, own scale</span></div>
<div class="plotbox h-s"></div></figure></section>
</main></div><div class="toasts" id="toasts" role="status">
<div class="toast" data-state="succeeded" id="good">Good</div>
<div class="toast" data-state="failed" id="bad">Bad</div></div>
<form data-stepper data-now="4"><button type="button" data-step="1">More</button>
<input inputmode="numeric" name="size" value="4" aria-label="Processes">
<button type="submit" data-said>Set size</button></form>
<button type="button" class="btn" hx-get="{% url 'ask' %}" hx-target="#ask" hx-swap="innerHTML">Ask</button>
<div id="ask"></div>
<dialog class="dlg" id="keys"><p>Keys</p><button type="button" data-close>Close</button></dialog>
</body></html>"""

WORD = """<section id="word"><h2>{{ word }}</h2><time data-age="{{ at }}">now</time>
<details id="more"><summary>More</summary>{{ word }}</details>
<input id="typed" aria-label="Typed"></section>"""

ROWS = """<div id="rows"><table class="tbl" data-list><thead><tr><th>
<input class="chk" type="checkbox" data-all
aria-label="All"></th><th>State</th><th>Name</th></tr></thead><tbody>{% for row in rows %}
<tr data-row id="t-{{ row.0 }}"><td><input class="chk" type="checkbox" aria-label="Select"></td>
<td class="st">{{ row.1 }}</td><td><a href="/tasks/?id={{ row.0 }}">{{ row.0 }}</a></td></tr>{% endfor %}
</tbody></table></div>"""

STATE: dict[str, Any] = {
    "word": "one",
    "at": 0.0,
    "rows": [[f"r{n}", "Running"] for n in range(20, 10, -1)],
    "rates": {
        "t": [1_700_000_000 + 10 * n for n in range(60)],
        "succeeded": [40.0 + n % 7 for n in range(60)],
        "retried": [n % 3 for n in range(60)],
        "failed": [0.5] * 60,
    },
}


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    from django.conf import settings

    settings.ROOT_URLCONF = "__main__"
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name.startswith("django.contrib")]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.ALLOWED_HOSTS = ["127.0.0.1"]

    from dashboard.asgi import application  # noqa: I001 - sets Django up
    from daphne.server import Server
    from twisted.internet import reactor

    from monitor import publish

    name, cookie = settings.SESSION_COOKIE_NAME, _people()
    _pages()
    server = Server(
        application,
        ["tcp:port=0:interface=127.0.0.1"],
        websocket_timeout=-1,
        websocket_max_message_size=65536,
        verbosity=0,
    )

    def running() -> None:
        publish.bind(asyncio.get_event_loop())
        reactor.callLater(0.05, tell)  # type: ignore[attr-defined]

    def tell() -> None:
        if not server.listening_addresses:
            reactor.callLater(0.05, tell)  # type: ignore[attr-defined]
            return
        port = server.listening_addresses[0][1]
        sys.stdout.write(json.dumps({"port": port, "name": name, "cookie": cookie}) + "\n")
        sys.stdout.flush()

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    reactor.callWhenRunning(running)  # type: ignore[attr-defined]
    server.run()


def _people() -> str:
    from django.conf import settings
    from django.core.management import call_command
    from django.test import Client

    from dashboard import access

    call_command("migrate", verbosity=0)
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(access.create_user("ann", "operator"))
    return str(client.cookies[settings.SESSION_COOKIE_NAME].value)


def _pages() -> None:
    from django.http import HttpRequest, HttpResponse
    from django.template import Context, engines
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    from dashboard import access, fragments
    from dashboard.fragments import Page, Region, register
    from monitor import publish

    class Inline(Region):
        def draw(self, page: Page) -> str:
            return str(engines["django"].from_string(self.template).render(dict(self.context(page))))

    def one(name: str) -> Any:
        def context(page: Page) -> Mapping[str, Any]:
            return STATE[name] if name == "rates" else STATE

        return context

    fragments.EVERYWHERE.regions.clear()
    fragments.PAGES.clear()
    fragments._BY_NAME.clear()
    both = [
        Inline("word", one("word"), ("word",), WORD, every=0.05),
        Inline("rows", one("rows"), ("rows",), ROWS, every=0.05, held=True),
        Inline("rates", one("rates"), ("rates",), data=True, every=0.05),
    ]
    register("overview", both)
    register("tasks", both)

    @access.viewer
    def page(request: HttpRequest) -> HttpResponse:
        template = engines["django"].from_string(PAGE)
        html = template.template.render(Context({"page": Page.of(request)}))
        return HttpResponse(html, headers={"Content-Security-Policy": CSP})

    @csrf_exempt
    def change(request: HttpRequest) -> HttpResponse:
        new = json.loads(request.body)
        STATE.update(new)
        publish.announce(set(new))
        return HttpResponse(status=204)

    async def end(request: HttpRequest) -> HttpResponse:
        """Closes every socket, as a restart of the server would; "full" lets none come back."""
        from dashboard import hub

        hub.SOCKETS = 0 if request.GET.get("why") == "full" else 1000
        for one_hub in list(hub._HUBS.values()):
            for outbox in list(one_hub._sockets):
                outbox.close(request.GET.get("why", "restart"))
        return HttpResponse(status=204)

    async def counts(request: HttpRequest) -> HttpResponse:
        """What the hub did, and whether any socket waits for its browser."""
        from dashboard import hub

        here = hub.current()
        waiting = [outbox.waiting for outbox in here._sockets]
        return HttpResponse(json.dumps({"sent": here.counts.sent, "waiting": waiting}))

    @csrf_exempt
    def ask(request: HttpRequest) -> HttpResponse:
        """A question in a dialog, and the toast that answers it."""
        if request.method == "POST":
            return HttpResponse('<div class="toast" data-state="failed" id="answer">Done</div>')
        return HttpResponse(
            '<dialog class="dlg" id="question" data-auto><form method="post" hx-post="/ask/" '
            'hx-target="#toasts" hx-swap="beforeend"><button type="submit">Do it</button></form></dialog>'
        )

    urlpatterns.extend(
        [
            path("", page, name="overview"),
            path("tasks/", page, name="tasks"),
            path("set/", change),
            path("end/", end),
            path("ask/", ask, name="ask"),
            path("counts/", counts),
        ]
    )


if __name__ == "__main__":
    main()
