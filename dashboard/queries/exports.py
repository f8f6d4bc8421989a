"""The audit log as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitor.models import ControlRecord

MOST = 50_000  # entries of one file
COLUMNS = (
    *("id", "at", "username", "role", "address", "command", "targets", "arguments", "reason"),
    *("destinations", "sent_at", "answered_at", "replies", "effect", "evidence", "seen", "completed_at"),
)
_TIMES = frozenset({"at", "sent_at", "answered_at", "completed_at"})
# A spreadsheet takes what begins so for a formula, and works it out.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # wide ones, too


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is written."""

    content_type: str
    body: Callable[[Iterable[ControlRecord]], str]


def as_csv(records: Iterable[ControlRecord]) -> str:
    """One line an entry; lists are JSON, times ISO 8601 in UTC."""
    out = io.StringIO()
    lines = csv.writer(out)
    lines.writerow(COLUMNS)
    for record in records:
        lines.writerow([_cell(value) for value in _values(record).values()])
    return _whole(out.getvalue())


def as_json_lines(records: Iterable[ControlRecord]) -> str:
    """One object an entry."""
    return _whole("".join(f"{json.dumps(_values(record), ensure_ascii=False)}\n" for record in records))


FORMS = {
    "csv": Form("text/csv; charset=utf-8", as_csv),
    "jsonl": Form("application/x-ndjson; charset=utf-8", as_json_lines),
}


def _values(record: ControlRecord) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in COLUMNS}
    found["id"] = str(record.pk)
    for name in _TIMES:
        found[name] = None if found[name] is None else datetime.fromtimestamp(found[name], UTC).isoformat()
    return found


def _whole(text: str) -> str:
    """Text that can be sent: half a character, as a worker's reply may hold, is replaced."""
    return text.encode("utf-8", "replace").decode()


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(_FORMULA) else text
