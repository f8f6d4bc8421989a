"""What may be shown of arguments, results, URLs and settings: secrets are masked before anything is kept.

Every pattern runs in linear time and input is cut to 64 KiB first. When a rule fails, the value is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

HIDDEN = "[hidden]"
WITHHELD = "[withheld: redactor error]"
LIMIT = 65_536  # characters
DEPTH = 12
ITEMS = 1_000
SHAPES_KNOWN = 8_192  # harmless texts, without their digits, that are told by their looks

# A key is secret when one of its words is in WORDS, or when it contains one of PARTS anywhere.
_WORDS = """pass pwd pw key keys apikey auth cred creds card cookie cookies session sessionid sig pin cvv cvc
iban ssn dsn private jwt otp bearer webhook"""
WORDS = frozenset(_WORDS.split())
PARTS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "authentication",
    "credential",
    "signature",
    "apikey",
    "accesskey",
    "privatekey",
    "creditcard",
    "cardnumber",
    "webhook",
    "sessionid",
    "sessionkey",
)
# Keys with a secret word that hold none.
OPEN = frozenset(
    {
        "key_prefix",
        "global_keyprefix",
        "routing_key",
        "default_routing_key",
        "task_default_routing_key",
        "keyspace",
        "primary_key",
        "foreign_key",
        "sort_key",
        "partition_key",
        "security_key",
        "security_certificate",
        "cache_key_prefix",
        "x-match-key",
    }
)


class Redactor:
    """Masks by key, by the shape of a value, and users in URLs. ``extra_patterns`` are more parts of keys."""

    def __init__(self, extra_patterns: Iterable[str] = (), limit: int = LIMIT) -> None:
        self._limit = limit
        self._extra: tuple[str, ...] = ()
        self._cached_text = lru_cache(maxsize=4_096)(self._text)
        self._harmless: set[bytes] = set()
        self.key_hidden = lru_cache(maxsize=8_192)(self._key_hidden)
        self.hide(extra_patterns)

    def hide(self, patterns: Iterable[str]) -> None:
        """From now on these parts of keys are secret as well. What was stored before stays as it was."""
        self._extra += tuple(part.strip().lower() for part in patterns if part.strip())
        self._cached_text.cache_clear()
        self._harmless.clear()
        self.key_hidden.cache_clear()

    def text(self, s: str) -> str:
        """A text, most often the repr of arguments or a result, with its secrets masked."""
        try:
            if len(s) < 6:
                return s
            return self._cached_text(s) if len(s) <= 256 else self._text(s)
        except Exception:  # noqa: BLE001 - whatever breaks, the value must not be shown
            return WITHHELD

    def is_clean(self, s: str) -> bool:
        """Whether a text, or several joined by line ends, holds nothing that a rule could hide."""
        try:
            if len(s) > self._limit:
                return False
            # Calls of one task are alike but for their numbers, and no built-in rule tells one digit from
            # another before it looks closer: what was harmless with noughts is harmless with any.
            shape = s.encode().translate(_NOUGHTS)
            if shape in self._harmless:
                return True
            if self._is_suspicious(s, shape.count(b"0") if _is_western(s) else len(s)):
                return False
            if not self._extra and len(shape) <= 2_000:
                if len(self._harmless) >= SHAPES_KNOWN:
                    self._harmless.clear()
                self._harmless.add(shape)
            return True
        except Exception:  # noqa: BLE001 - whatever breaks, the value must not be shown
            return False

    def value(self, obj: Any) -> Any:
        """The same shape of dicts and lists with secrets masked; safe to store as JSON."""
        try:
            return self._value(obj, 0)
        except Exception:  # noqa: BLE001 - whatever breaks, the value must not be shown
            return WITHHELD

    def url(self, u: str) -> str:
        """A URL without its user part and secret parameters; scheme, host and path stay."""
        return self.text(u)

    # private, in the order of use

    def _key_hidden(self, key: str) -> bool:
        lowered = key[:255].lower()
        if lowered.replace("-", "_") in OPEN:
            return False
        squeezed = re.sub(r"[^a-z0-9]", "", lowered)
        if any(part in squeezed for part in PARTS) or any(part in lowered for part in self._extra):
            return True
        words = _WORD.findall(key[:255])
        return any(word.lower() in WORDS for word in words)

    def _text(self, s: str) -> str:
        if len(s) > self._limit:
            s = s[: self._limit - 1] + "…"
        if not self._is_suspicious(s):
            return s
        s = _PEM.sub(HIDDEN, s)
        s = _USERINFO.sub(lambda m: m[1] + HIDDEN + "@", s)
        s = _LOOSE_USERINFO.sub(lambda m: m[1] + HIDDEN + "@", s)
        s = _CUT_USERINFO.sub(lambda m: m[1] + HIDDEN, s)
        for pattern in _SHAPES:
            s = pattern.sub(HIDDEN, s)
        s = _HEADER.sub(lambda m: m[1] + HIDDEN, s)
        s = self._pairs(s)
        return _DIGITS.sub(_card, s)

    def _is_suspicious(self, s: str, digits: int = LIMIT) -> bool:
        # Most texts hold nothing to hide: look for what every rule needs before running any of them.
        lowered = s.lower()
        if _has_mark(lowered):
            return True
        if ":" in s or "=" in s:
            if _has_hint(lowered):
                return True
            for hint in self._extra:
                if hint in lowered:
                    return True
        return len(s) >= 13 and digits >= 13 and _LONG_NUMBER.search(s) is not None

    def _pairs(self, s: str) -> str:
        out: list[str] = []
        done = 0
        for match in _KEY.finditer(s):
            if match.start() < done or not self.key_hidden(match["quoted"] or match["bare"]):
                continue
            if match["bare"] and _EXCEPTION.fullmatch(match["bare"]):
                continue
            end = _value_end(s, match.end())
            if end == match.end():
                continue
            out += [s[done : match.end()], "'" + HIDDEN + "'" if s[match.end()] in "'\"bur" else HIDDEN]
            done = end
        return "".join([*out, s[done:]]) if out else s

    def _value(self, obj: Any, depth: int) -> Any:
        if isinstance(obj, str):
            return _UNSAFE.sub("\ufffd", self.text(obj))
        if obj is None or isinstance(obj, bool | int):
            return HIDDEN if isinstance(obj, int) and obj > 10**11 and _is_card(str(obj)) else obj
        if isinstance(obj, float):
            return obj if obj - obj == 0 else None
        if depth >= DEPTH:
            return "…"
        if isinstance(obj, dict):
            shown: dict[str, Any] = {}
            for key, item in list(obj.items())[:ITEMS]:
                name = _UNSAFE.sub("\ufffd", str(key)[:255])
                shown[name] = HIDDEN if self._hides(name, item) else self._value(item, depth + 1)
            return shown
        if isinstance(obj, list | tuple | set | frozenset):
            return [self._value(item, depth + 1) for item in list(obj)[:ITEMS]]
        return self._value(str(obj)[: self._limit], depth)

    def _hides(self, key: str, item: Any) -> bool:
        return item is not None and item != "" and not isinstance(item, bool) and self.key_hidden(key)


_NOUGHTS = bytes.maketrans(b"123456789", b"000000000")

# Every secret word or part of a key contains one of the hints; every other rule needs one of the marks. Both
# are written out: this runs for each task there is, and a loop takes twice the time.


def _is_western(s: str) -> bool:
    """Whether 0 to 9 are the only digits that it can hold."""
    if s.isascii():
        return True
    try:
        s.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _has_hint(s: str) -> bool:
    return (
        "pass" in s
        or "pw" in s
        or "key" in s
        or "auth" in s
        or "cred" in s
        or "card" in s
        or "cookie" in s
        or "session" in s
        or "sig" in s
        or "pin" in s
        or "cv" in s
        or "iban" in s
        or "ssn" in s
        or "dsn" in s
        or "private" in s
        or "jwt" in s
        or "otp" in s
        or "bearer" in s
        or "webhook" in s
        or "secret" in s
        or "token" in s
    )


def _has_mark(s: str) -> bool:
    return (
        "://" in s
        or "eyj" in s
        or "-----begin" in s
        or "akia" in s
        or "asia" in s
        or "k_live_" in s
        or "k_test_" in s
        or "xox" in s
        or "hooks." in s
        or "bearer" in s
        or "basic " in s
        or "ghp_" in s
        or "gho_" in s
        or "ghu_" in s
        or "ghs_" in s
        or "ghr_" in s
        or "github_pat" in s
    )


_LONG_NUMBER = re.compile(r"\d[\d -]{11}")

_UNSAFE = re.compile("[\x00\ud800-\udfff]")  # neither PostgreSQL nor UTF-8 takes them
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{1,40}-----(?:(?!-----END)[\s\S]){0,65536}(?:-----END [A-Z ]{1,40}-----)?"
)
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,30}://)[^\s/?#@'\"<>,]{0,512}@")
# A password with a raw slash in it, as brokers' URLs are often written by hand.
_LOOSE_USERINFO = re.compile(
    r"((?!https?:)[A-Za-z][A-Za-z0-9+.\-]{0,30}://)[^\s/@'\"<>,;]{0,256}:[^\s@'\"<>,;]{0,512}@"
)
# A URL that was cut within its password: no @ is left to tell it by. Digits only are a port.
_CUT_USERINFO = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]{0,30}://)[^\s/?#@'\"<>,:\[\]]{0,256}:(?!\d{1,5}(?!\w))"
    r"[^\s/?#@'\"<>,]{1,512}?(?=\.\.\.|…|$)"
)
_SHAPES = (
    re.compile(r"\beyJ[A-Za-z0-9_-]{5,4096}\.[A-Za-z0-9_-]{2,8192}(?:\.[A-Za-z0-9_-]{0,4096})?"),  # JWT
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\b[srp]k_(?:live|test)_[0-9A-Za-z]{8,256}"),
    re.compile(r"\bxox[a-z]-[0-9A-Za-z-]{8,256}"),
    re.compile(r"\bhooks\.slack\.com/services/[\w/-]{1,256}"),
    re.compile(r"\bgh[pousr]_[0-9A-Za-z]{16,256}"),
    re.compile(r"\bgithub_pat_\w{16,256}"),
)
_HEADER = re.compile(r"\b((?:Bearer|Basic) )[A-Za-z0-9._~+/=-]{6,4096}", re.I)
# 'key': value | "key": value | key=value | key: value
_KEY = re.compile(
    r"\\?['\"](?P<quoted>[^'\"\\\n]{1,80})\\?['\"]\s{0,4}:\s{0,4}"
    r"|(?P<bare>\b[A-Za-z_][\w.\-]{0,79})\s{0,2}(?:=|:(?!//))\s{0,4}"
)
# Ids of tasks hold long runs of digits too: taken whole, they are nobody's card.
_DIGITS = re.compile(
    r"(?P<id>[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})|(?<![\d.])\d(?:[ -]?\d){12,18}(?!\d)", re.I
)
# A class before its message ("CardDeclined: order 5") is a name, not a key with its value.
_EXCEPTION = re.compile(
    r"(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Declined|Denied|Expired|Failed|Failure|Invalid|Missing|NotFound"
    r"|Rejected|Required|Timeout|Warning)"
)
_CLOSES = {"(": ")", "[": "]", "{": "}"}


def _value_end(s: str, start: int) -> int:
    # Where the value that begins at ``start`` ends: a quoted text, a bracketed group, or one bare word.
    end, size = start, len(s)
    while (
        end < size and s[end] in "bBuUrR" and end - start < 2 and s[end + 1 : end + 2] in ("'", '"', "b", "r")
    ):
        end += 1
    if end >= size:
        return size
    first = s[end]
    if first in "'\"" or (first == "\\" and s[end + 1 : end + 2] in ("'", '"')):
        return _quoted_end(s, end)
    if first in _CLOSES:
        return _group_end(s, end)
    end = start
    while end < size and s[end] not in " ,;&)]}\n\t'\"":
        if s[end] == "(":
            return _group_end(s, end)
        end += 1
    return end


def _quoted_end(s: str, start: int) -> int:
    if s[start] == "\\":
        close = s.find("\\" + s[start + 1], start + 2)
        return len(s) if close < 0 else close + 2
    quote, index = s[start], start + 1
    while index < len(s):
        if s[index] == "\\":
            index += 2
        elif s[index] == quote:
            return index + 1
        else:
            index += 1
    return len(s)  # cut short: all of the rest belongs to it


def _group_end(s: str, start: int) -> int:
    depth, index = 0, start
    while index < len(s):
        char = s[index]
        if char in "'\"":
            index = _quoted_end(s, index)
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return index + 1
        index += 1
    return len(s)


def _card(match: re.Match[str]) -> str:
    if match["id"]:
        return match[0]
    return HIDDEN if _is_card(re.sub(r"[ -]", "", match[0])) else match[0]


def _is_card(digits: str) -> bool:
    # Luhn's check; all zeros is no card.
    if not 13 <= len(digits) <= 19 or not digits.isdigit() or not digits.strip("0"):
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


hidden = HIDDEN
DEFAULT = Redactor()
