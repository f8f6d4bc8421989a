"""How often signing in may fail: per account and per address, in a sliding window kept in the database."""

from __future__ import annotations

import ipaddress
import unicodedata
from dataclasses import dataclass

from django.db.models import Q
from django.utils.crypto import salted_hmac

from dashboard.models import SignInAttempt

WINDOW = 15 * 60.0  # seconds
PER_ACCOUNT = 10
PER_ADDRESS = 30


@dataclass(frozen=True)
class Attempt:
    """One try to sign in; ``wait`` is the seconds until another is allowed, 0 when this one is."""

    pk: int | None
    account: str
    wait: float


def begin(name: str, address: str, now: float) -> Attempt:
    """Counts the try before it is made, so that many at once cannot slip through."""
    account, place = _account(name), _place(address)
    SignInAttempt.objects.filter(at__lt=now - WINDOW).delete()
    row = SignInAttempt.objects.create(account=account, address=place, at=now)
    earlier = SignInAttempt.objects.filter(Q(account=account) | Q(address=place), pk__lt=row.pk)
    tries = list(earlier.order_by("-at").values_list("account", "address", "at"))
    waits = [
        own[limit - 1] + WINDOW - now
        for own, limit in (
            ([at for name, _, at in tries if name == account], PER_ACCOUNT),
            ([at for _, address, at in tries if address == place], PER_ADDRESS),
        )
        if len(own) >= limit
    ]
    if waits:
        # Refused tries do not count: who waits long enough gets in.
        row.delete()
        return Attempt(None, account, max(*waits, 1.0))
    return Attempt(row.pk, account, 0.0)


def succeeded(attempt: Attempt) -> None:
    """The right password: what failed before it no longer counts against the account."""
    SignInAttempt.objects.filter(account=attempt.account).delete()


def _account(name: str) -> str:
    """People type passwords where names belong: only a keyed hash is kept."""
    return salted_hmac("umbel.throttle", unicodedata.normalize("NFKC", name).casefold()).hexdigest()[:32]


def _place(address: str) -> str:
    """An IPv6 network counts as one address: whoever has one has all of it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)
