"""What a worker told of its task names when it was asked: ``shop.add [rate_limit=10/m time_limit=60.0]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOST = 5_000  # lines that Umbel keeps of one answer: a list of so many may have been cut

_PAIR = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|$)", re.DOTALL)
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/([smh]))?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parsed(line: object) -> tuple[str, dict[str, str]] | None:
    """Name and attributes of one line; None when it names no task. What cannot be read is left out."""
    if not isinstance(line, str):
        return None
    name, opened, rest = line.rpartition(" [")
    if not opened or not rest.endswith("]"):
        name, rest = line, "]"
    return (name.strip(), dict(_PAIR.findall(rest[:-1]))) if name.strip() else None


def names(details: Mapping[str, Any]) -> frozenset[str] | None:
    """Every task name that it knows; None when it did not say, or its list may be cut."""
    listed = details.get("registered")
    if not isinstance(listed, list) or len(listed) >= MOST:
        return None
    return frozenset(found[0] for line in listed if (found := parsed(line)))


def attributes(details: Mapping[str, Any], name: str) -> dict[str, str] | None:
    """What is set on a task name, as text; None when the worker did not list the name."""
    listed = details.get("registered")
    for line in listed if isinstance(listed, list) else ():
        if isinstance(line, str) and line.startswith(name) and (found := parsed(line)) and found[0] == name:
            return found[1]
    return None


def seconds(value: object) -> float | None:
    """A limit in seconds; None for none, which Celery also writes as 0."""
    try:
        found = float(value)  # type: ignore[arg-type]  # what is no number raises, and is no limit
    except (TypeError, ValueError):
        return None
    return found if 0 < found < 1e9 else None


def rate(value: object) -> float | None:
    """Tasks a second of a rate limit as Celery writes it ("10/m", "5", "0.5/s"); None for none."""
    found = _RATE.fullmatch(str(value)) if value is not None else None
    if found is None or not float(found[1]):
        return None
    return float(found[1]) / _SECONDS[found[2] or "s"]


def rate_limit(details: Mapping[str, Any], name: str) -> str:
    """The rate limit of a task name on this worker, as it told it; "" when there is none."""
    value = (attributes(details, name) or {}).get("rate_limit", "")
    return value if rate(value) and _are_kept(details) else ""


def limited(details: Mapping[str, Any]) -> frozenset[str]:
    """Every task name whose rate this worker limits."""
    listed = details.get("registered")
    if not isinstance(listed, list) or not _are_kept(details):
        return frozenset()
    # Few of many lines hold one.
    lines = [parsed(line) for line in listed if isinstance(line, str) and "rate_limit=" in line]
    return frozenset(found[0] for found in lines if found and rate(found[1].get("rate_limit")))


def _are_kept(details: Mapping[str, Any]) -> bool:
    conf = details.get("conf")
    return not (isinstance(conf, dict) and conf.get("worker_disable_rate_limits") is True)
