"""The form that runs a task: what was typed, checked, as a message to send; errors name the value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.http import QueryDict

from monitor.arguments import restored, same, typed
from monitor.control import Message
from monitor.control.runs.again import edited
from monitor.control.runs.originals import Original, Part
from monitor.control.runs.sending import LATEST
from monitor.redact import HIDDEN

PRIORITIES = range(10)
FIELDS = (
    *("name", "args", "kwargs", "queue", "priority", "countdown", "eta", "eta_at"),
    *("expires_in", "expires", "expires_at", "reason"),
)
# What a clock of another zone may be away from UTC, seconds; more is no zone.
FARTHEST = 15 * 3600.0


@dataclass
class RunForm:
    """As typed; ``errors`` by field once ``message`` was asked for."""

    values: Mapping[str, str]
    original: Original | None = None
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, params: QueryDict, original: Original | None) -> RunForm:
        """What was sent by the form, or is named in the URL."""
        values = {name: params.get(name, "").replace("\0", "") for name in FIELDS}
        if original is not None:
            values["name"] = original.name
        return cls(values, original)

    @classmethod
    def again(cls, original: Original) -> RunForm:
        """Filled with what a task was sent with, as far as it may be shown."""
        values = dict.fromkeys(FIELDS, "") | {"name": original.name, "queue": original.queue}
        values["args"], values["kwargs"] = _json(original.args), _json(original.kwargs)
        if original.priority is not None:
            values["priority"] = str(original.priority)
        return cls(values, original)

    def message(self, uuid: str, now: float) -> Message | None:
        """What is to be sent, under this id; None when there are errors."""
        name, queue = self.values["name"].strip(), self.values["queue"].strip()
        if not name:
            self.errors["name"] = "No task was named."
        if not queue:
            self.errors["queue"] = "No queue was named."
        args, kwargs = self._value("args", list), self._value("kwargs", dict)
        eta = self._moment("eta", "countdown", now)
        expires = self._moment("expires", "expires_in", now)
        priority = self._priority()
        if expires is not None and expires <= (eta or now):
            self.errors.setdefault("expires", "It would expire before it starts: give a later expiry.")
        if self.errors:
            return None
        found = self.original
        message = Message(uuid, name, queue, args, kwargs, priority, eta, expires, source="form")
        if found is None:
            return message
        return edited(message, found, changed=self._is_changed(args, kwargs))

    def _is_changed(self, args: Any, kwargs: Any) -> bool:
        found = self.original
        return found is None or not (
            found.args.known
            and found.kwargs.known
            and same([args, kwargs], [found.args.value, found.kwargs.value])
        )

    def _value(self, what: str, kind: type[Any]) -> Any:
        text, label = self.values[what], what.capitalize()
        part = getattr(self.original, what) if self.original is not None else None
        if part is not None and not part.known and not text.strip():
            empty = "[]" if kind is list else "{}"
            self.errors[what] = f"{label} {part.why}: type them. Type {empty} for none."
            return None
        try:
            value = typed(text, label, kind)
            shown, original = (part.shown, part.value) if part is not None and part.known else (None, None)
            value = restored(value, shown, original)
        except ValueError as error:
            self.errors[what] = str(error)
            return None
        if not isinstance(value, kind):
            self.errors[what] = f"{label} are hidden, and what they were is not known: type them."
        return value

    def _priority(self) -> int | None:
        text = self.values["priority"].strip()
        if not text:
            return None
        if not re.fullmatch(r"[0-9]", text, re.ASCII):
            self.errors["priority"] = f"A priority is a whole number from 0 to 9; “{text[:20]}” is not."
            return None
        return int(text)

    def _moment(self, at: str, after: str, now: float) -> float | None:
        """Unix seconds of a time of the clock, or of so many seconds from now."""
        clock, seconds = self.values[at].strip(), self.values[after].strip()
        if clock and seconds:
            self.errors[at] = "Give seconds or a time, not both."
            return None
        if seconds:
            return self._later(at, seconds, now)
        if not clock:
            return None
        try:
            typed_at = datetime.fromisoformat(clock).replace(tzinfo=UTC).timestamp()
        except (ValueError, OverflowError):
            self.errors[at] = f"“{clock[:30]}” is no date and time; one looks like 2026-03-12T14:32."
            return None
        found = _instant(self.values[f"{at}_at"], typed_at)
        if found <= now:
            self.errors[at] = "That time has passed."
        elif found - now > LATEST:
            self.errors[at] = "That is more than a year away."
        return found

    def _later(self, at: str, text: str, now: float) -> float | None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text, re.ASCII) or seconds > LATEST:
            self.errors[at] = f"Seconds are a number from 0 to {LATEST:,.0f}; “{text[:20]}” is not."
            return None
        return now + seconds if seconds else None


def _instant(told: str, typed_at: float) -> float:
    """The instant that the browser made of the typed time in its own zone; else the time is UTC."""
    try:
        found = float(told)
    except ValueError:
        return typed_at
    return found if abs(found - typed_at) <= FARTHEST else typed_at


def _json(part: Part) -> str:
    if not part.known:
        return ""
    shown = part.shown
    if shown == HIDDEN or not shown:
        return json.dumps(shown)
    text = json.dumps(shown, indent=2 if len(json.dumps(shown)) > 60 else None, ensure_ascii=False)
    # What cannot be seen, or turns the line around, is written out.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
