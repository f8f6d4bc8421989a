"""What systemd is told of a service of ``Type=notify``: that it is ready, and what it does."""

from __future__ import annotations

import socket
from contextlib import suppress

from django.conf import settings


def say(**values: str) -> None:
    """``say(READY="1", STATUS="…")``; without a socket to say it to, nothing."""
    address = settings.NOTIFY_SOCKET
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{name}={value}" for name, value in values.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.sendto(message.encode(), address)
