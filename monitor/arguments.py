"""Arguments of a task as JSON: read from what events tell of them, and from what a person types.

Events tell arguments by Celery's ``saferepr``, which is not made to be read back: it cuts long texts and deep
containers with "...", escapes quotes and nothing else, and writes bytes as text or as hex. What could be read
in two ways is not read at all: a guess must never be sent. Nothing here evaluates anything.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from monitor.redact import HIDDEN, WITHHELD

LONGEST = 256 * 1024  # characters of one text
DEEPEST = 32  # containers in each other
LARGEST = 1024 * 1024  # bytes of args and kwargs as they are sent


class Unreadable(Exception):
    """Why a text gives no value: a clause, of which the subject is the arguments."""


def positional(text: str) -> list[Any]:
    """The args that an event told; raises ``Unreadable``."""
    found = read(text)
    if not isinstance(found, list):
        raise Unreadable("are told as something other than a list")
    return found


def named(text: str) -> dict[str, Any]:
    """The kwargs that an event told; raises ``Unreadable``."""
    found = read(text)
    if not isinstance(found, dict):
        raise Unreadable("are told as something other than a mapping")
    return found


def read(text: str) -> Any:
    """The value of a repr of plain literals: texts, numbers, True, False, None, tuples, lists and dicts.

    A tuple is a list, as it is in JSON. Raises ``Unreadable``.
    """
    if HIDDEN in text or WITHHELD in text:
        raise Unreadable("hold what Umbel hides")
    if len(text) > LONGEST:
        raise Unreadable(f"are longer than {LONGEST:,} characters")
    if text.endswith("…"):
        raise Unreadable("were cut by Umbel, being too long")
    reader = _Reader(text)
    found = reader.value(0)
    reader.end()
    return found


def typed(text: str, what: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """What a person typed as JSON; raises ``ValueError`` with a sentence that names the line and the column.

    "" is an empty one. ``what`` is its name: "Args".
    """
    if not text.strip():
        return kind()
    if len(text) > LARGEST:
        raise ValueError(f"{what} are {len(text):,} characters long; {LARGEST:,} are the most.")
    if found := _NO_JSON.search(_blanked(text)):
        raise ValueError(f"{what}, {_at(text, found.start())}: {found[0]} is no JSON value; use null.")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what}, {_at(text, error.pos)}: {_reason(error, text)}") from error
    except RecursionError as error:
        raise ValueError(f"{what} are nested deeper than {DEEPEST} levels.") from error
    except _Twice as error:
        raise ValueError(f"{what}: the key {error.key[:60]!r} is there twice.") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{what}: a number in it is too long. Send it as a text.") from error
    if type(value) is not kind and value != HIDDEN:
        wanted = "a list, like [1, 2]" if kind is list else 'an object, like {"key": 1}'
        raise ValueError(f"{what} must be {wanted}; this is {_KINDS.get(type(value), 'something else')}.")
    if reason := unfit(value):
        raise ValueError(f"{what} {reason}.")
    return value


def unfit(value: Any) -> str:
    """Why a value of JSON's types cannot be sent; "" when it can."""
    if _depth(value) > DEEPEST:
        return f"are nested deeper than {DEEPEST} levels"
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        return "hold half of a surrogate pair, which is no text"
    except (TypeError, ValueError, RecursionError):
        return "hold what JSON cannot carry"
    return f"take {size:,} bytes; {LARGEST:,} are the most" if size > LARGEST else ""


def restored(given: Any, shown: Any, original: Any, path: str = "") -> Any:
    """``given`` with what was ``[hidden]`` on the page put back from the original, where it still stands.

    Raises ``ValueError`` for a hidden value in another place: nobody knows what belongs there. In a list that
    is an element which was left whole, in a list of the same length, and no other element looks like it.
    """
    if shown is not _ABSENT and same(given, shown):
        return original
    if isinstance(given, dict):
        before = shown if isinstance(shown, dict) else {}
        was = original if isinstance(original, dict) else {}
        return {
            key: restored(item, before.get(key, _ABSENT), was.get(key), f"{path}.{key}" if path else key)
            for key, item in given.items()
        }
    if isinstance(given, list):
        old = shown if isinstance(shown, list) and len(shown) == len(given) else []
        looks = Counter(json.dumps(one) for one in old)
        stands = [
            bool(old) and same(one, old[n]) and looks[json.dumps(one)] == 1 for n, one in enumerate(given)
        ]
        return [
            original[n] if stands[n] else restored(one, _ABSENT, None, f"{path}[{n}]")
            for n, one in enumerate(given)
        ]
    if isinstance(given, str) and is_hidden(given):
        place = f" at {path[:80]}" if path else ""
        raise ValueError(f"The value{place} is hidden, and what it was is not known: type it.")
    return given


def same(one: Any, other: Any) -> bool:
    """Whether two values are one JSON text: to Python 1 is True and 1.0."""
    return json.dumps(one) == json.dumps(other)


def hides(value: Any) -> bool:
    """Whether a value holds what Umbel put in the place of a secret."""
    return any(isinstance(one, str) and is_hidden(one) for one in _leaves(value))


def is_hidden(text: str) -> bool:
    """Whether a text is, or holds, what Umbel put in the place of a secret."""
    return HIDDEN in text or WITHHELD in text


def is_masked(text: str) -> bool:
    """Whether a text looks like what a program puts in the place of a secret."""
    return _MASK.search(text) is not None or _MASK_WORD.fullmatch(text) is not None


_ABSENT = object()
_MASK = re.compile(r"\*{3,}|•{3,}|█{2,}")
_MASK_WORD = re.compile(
    r"\s*[\[<(]?(?:hidden|redacted|filtered|masked|censored|removed|scrubbed|x{4,})[\])>]?\s*", re.I
)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<mark>[()\[\]{},:])
      | (?P<text>'(?:[^'\\]|\\'(?!\s*[,)\]}:]))*' | "[^"\\]*")
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![\w.])
      | (?P<word>True|False|None)\b
      | (?P<cut>\.\.\.)
    )""",
    re.X,
)
_WORDS = {"True": True, "False": False, "None": None}
_CLOSES = {"(": ")", "[": "]", "{": "}"}


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._kind, self._token = "", ""
        self._next()

    def value(self, depth: int) -> Any:
        kind, token = self._kind, self._token
        if kind == "mark" and token in _CLOSES:
            if depth >= DEEPEST:
                raise Unreadable(f"are nested deeper than {DEEPEST} levels")
            self._next()
            close = _CLOSES[token]
            return self._mapping(depth) if close == "}" else self._list(close, depth)
        if kind in ("mark", ""):
            raise Unreadable("are no list and no mapping of plain values")
        self._next()
        if kind == "text":
            return _plain(token)
        return _number(token) if kind == "number" else _WORDS[token]

    def end(self) -> None:
        if self._kind:
            raise Unreadable("are no single value")

    def _list(self, close: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._is(close):
            found.append(self.value(depth + 1))
            if not self._is(close):
                self._expect(",")
            elif close == ")" and len(found) == 1:
                raise Unreadable("are no list and no mapping of plain values")  # (1) is no tuple
        self._next()
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._is("}"):
            is_text = self._kind == "text"
            key = self.value(depth + 1)
            if not self._is(":"):
                raise Unreadable("hold a set, which JSON cannot carry")
            if not is_text:
                raise Unreadable("hold a key that is no text")
            self._next()
            if key in found:
                raise Unreadable("hold a key twice")
            found[key] = self.value(depth + 1)
            if not self._is("}"):
                self._expect(",")
        self._next()
        return found

    def _is(self, mark: str) -> bool:
        return self._kind == "mark" and self._token == mark

    def _expect(self, mark: str) -> None:
        if not self._is(mark):
            raise Unreadable("hold more than plain values")
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            if self._text[self._at :].strip():
                raise Unreadable(_why_not(self._text, self._at))
            self._kind = self._token = ""
            return
        self._at = found.end()
        self._kind = found.lastgroup or ""
        self._token = found[self._kind]
        if self._kind == "cut":
            raise Unreadable('were cut by Celery ("...")')


def _plain(token: str) -> str:
    text = token[1:-1].replace("\\'", "'") if token[0] == "'" else token[1:-1]
    if text.endswith("..."):
        raise Unreadable('were cut by Celery ("..."), or end so themselves')
    if is_masked(text):
        raise Unreadable(f"hold {text[:20]!r}, which their sender may have put in the place of a secret")
    return text


def _number(token: str) -> int | float:
    try:
        number = float(token) if re.search(r"[.eE]", token) else int(token)
    except ValueError:
        raise Unreadable("hold a number that is too long") from None
    if isinstance(number, float) and number - number != 0:
        raise Unreadable("hold a number that JSON cannot carry")
    return number


def _why_not(text: str, at: int) -> str:
    rest = text[at:].lstrip()
    if re.match(r"[bB]['\"]", rest):
        return "hold bytes, which events do not tell exactly"
    if rest[0] in "'\"" and "\\" in rest:
        return "hold a backslash, which Celery does not escape in its events"
    if name := re.match(r"<?[A-Za-z_][\w.]{0,60}", rest):
        return f"hold {name[0]}…, which is no plain value"
    return "hold more than plain values"


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            stack.extend(one)
            stack.extend(one.values())
        elif isinstance(one, list | tuple):
            stack.extend(one)
        else:
            yield one


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        one, depth = stack.pop()
        if isinstance(one, dict | list | tuple):
            deepest = max(deepest, depth)
            if depth > DEEPEST:
                return depth
            stack.extend((item, depth + 1) for item in (one.values() if isinstance(one, dict) else one))
    return deepest


# What Python's json takes and JSON does not know.
_NO_JSON = re.compile(r"-?Infinity\b|\bNaN\b")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_KINDS: dict[type, str] = {
    list: "a list",
    dict: "an object",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _blanked(text: str) -> str:
    return _STRING.sub(lambda found: " " * len(found[0]), text)


class _Twice(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return found


def _at(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}"


def _reason(error: json.JSONDecodeError, text: str) -> str:
    found = text[error.pos : error.pos + 1]
    if found == "'":
        return "a text is written with double quotes in JSON."
    if word := re.match(r"True|False|None", text[error.pos :]):
        wanted = {"True": "true", "False": "false", "None": "null"}[word[0]]
        return f"{word[0]} is Python; in JSON it is {wanted}."
    if error.msg == "Extra data":
        return "something follows after the end of the value."
    if found in ("]", "}") and "Expecting" in error.msg:
        return f"a value, not {found}, must come here; is there a comma too many?"
    return f"{error.msg[:1].lower()}{error.msg[1:]}."
