"""The one socket's address."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.urls import URLPattern, re_path

from dashboard.consumers import NO_PAGE, LiveConsumer


async def nowhere(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Any other address: refused, where Channels would fail and log a traceback."""
    await receive()
    await send({"type": "websocket.close", "code": NO_PAGE})


_prefix = re.escape((settings.FORCE_SCRIPT_NAME or "").strip("/"))

websocket_urlpatterns: list[URLPattern] = [
    re_path(rf"^(?:{_prefix}/)?live/$", LiveConsumer.as_asgi()),
    re_path(r"", nowhere),  # type: ignore[arg-type]
]
