"""The ASGI application: pages, static files and the live socket; ``umbel web`` and any ASGI server run it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.management.base import CommandError
from django.http import HttpRequest
from django.http.response import HttpResponseBase

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")
# First: what follows needs the apps.
django.setup(set_prefix=False)


class Pages(ASGIHandler):
    """Answers a request on one thread, from the first middleware to the last.

    Django's own handler runs each middleware of a chain on the event loop, and each of their parts, which are
    all synchronous, on a thread: fifteen changes of thread for a page. Beside a busy engine each waits for
    the interpreter.
    """

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


pages = Pages()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from servestatic import ServeStaticASGI  # noqa: E402

from dashboard import hub, process  # noqa: E402
from dashboard.consumers import SameOrigin  # noqa: E402
from dashboard.flow import Backpressure  # noqa: E402
from dashboard.middleware import HEADERS  # noqa: E402
from dashboard.process import siblings  # noqa: E402
from dashboard.routing import websocket_urlpatterns  # noqa: E402


def _headers(headers: MutableMapping[str, str], path: str, url: str) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    # A new version's scripts must never meet an old one's.
    headers["Cache-Control"] = "no-cache"


def _static(application: object) -> ServeStaticASGI:
    """Serves the static folders by themselves, with and without the URL prefix: proxies do either."""
    served = ServeStaticASGI(application, allow_all_origins=False, add_headers_function=_headers)
    prefix = (settings.FORCE_SCRIPT_NAME or "").strip("/")
    for folder in settings.STATICFILES_DIRS:
        for base in {"static", f"{prefix}/static".strip("/")}:
            served.add_files(Path(folder), prefix=base)
    return served


async def lifespan(scope: object, receive: Any, send: Any) -> None:
    """What servers other than Daphne say at the start and at the end of a process; a bad start ends it."""
    while (await receive())["type"] == "lifespan.startup":
        try:
            process.log_to_stderr()
            process.check_settings()
            process.need_channels()
            await sync_to_async(process.broker)()
            siblings.begin()
        except CommandError as error:
            await send({"type": "lifespan.startup.failed", "message": f"umbel: {error}"})
        else:
            await send({"type": "lifespan.startup.complete"})
    await hub.current().stop()
    await sync_to_async(siblings.end)()
    await send({"type": "lifespan.shutdown.complete"})


application = ProtocolTypeRouter(
    {
        "lifespan": lifespan,
        "http": _static(pages),
        "websocket": Backpressure(SameOrigin(SessionMiddlewareStack(URLRouter(websocket_urlpatterns)))),
    }
)
