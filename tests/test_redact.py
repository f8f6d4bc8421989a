"""Secrets are masked by key, by shape and in URLs, in linear time, and a broken rule hides the value."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID

import pytest

from monitor.redact import DEFAULT, HIDDEN, LIMIT, PARTS, WITHHELD, WORDS, Redactor

CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{'password': 'hunter2', 'n': 1}", "{'password': '[hidden]', 'n': 1}"),
        ("{'user': {'Api-Key': \"it's\"}, 'n': 1}", "{'user': {'Api-Key': '[hidden]'}, 'n': 1}"),
        ("Order(id=5, token='..', total=3)", "Order(id=5, token='[hidden]', total=3)"),
        ("{'token': None, 'a': 1}", "{'token': [hidden], 'a': 1}"),
        ("{'secret': ['a', 'b'], 'n': 1}", "{'secret': [hidden], 'n': 1}"),
        ("{'secret': {'deep': ['a)', 'b']}, 'n': 1}", "{'secret': [hidden], 'n': 1}"),
        ("{'pin': 1234, 'pint': 2}", "{'pin': [hidden], 'pint': 2}"),
        ("{'secret': b'\\x00abc', 'n': 1}", "{'secret': '[hidden]', 'n': 1}"),
        ("{'secret': Secret('abc'), 'n': 1}", "{'secret': [hidden], 'n': 1}"),
        ("login failed: password=hunter2 for bob", "login failed: password=[hidden] for bob"),
        ("password: hunter2, user: bob", "password: [hidden], user: bob"),
        ('{"authorization": "Bearer abcdef123"}', "{\"authorization\": '[hidden]'}"),
        ("GET /x?token=abc&page=2", "GET /x?token=[hidden]&page=2"),
        ("'{\\'password\\': \\'hunter2\\', \\'a\\': 1}'", "'{\\'password\\': [hidden], \\'a\\': 1}'"),
        ("Authorization: Bearer abc.def-123", "Authorization: [hidden] [hidden]"),
        ("{'password': 'cut short by Cel...", "{'password': '[hidden]'"),
        (
            "{'auth:token': 'x', 'user[password]': 'y', 'n': 1}",
            "{'auth:token': '[hidden]', 'user[password]': '[hidden]', 'n': 1}",
        ),
    ],
)
def test_values_of_secret_keys_are_masked_inside_texts(text: str, shown: str) -> None:
    assert DEFAULT.text(text) == shown


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "PASSWD",
        "db_password",
        "clientSecret",
        "access_token",
        "X-Api-Key",
        "key",
        "apiKey",
        "AWS_SECRET_ACCESS_KEY",
        "Authorization",
        "auth",
        "basic_auth",
        "card",
        "card_number",
        "creditCard",
        "cookie",
        "session",
        "session_id",
        "signature",
        "dsn",
        "SENTRY_DSN",
        "private",
        "private_key",
        "cvv",
        "cvc",
        "pin",
        "iban",
        "ssn",
        "webhook_url",
        "pwd",
        "cred",
    ],
)
def test_secret_keys_are_hidden(key: str) -> None:
    assert DEFAULT.key_hidden(key)
    assert DEFAULT.value({key: CANARY}) == {key: HIDDEN}
    assert CANARY not in DEFAULT.text(f"{{'{key}': '{CANARY}'}}")
    assert CANARY not in DEFAULT.text(f'{{"{key}": "{CANARY}"}}')


@pytest.mark.parametrize(
    "key",
    [
        "key_prefix",
        "routing_key",
        "keyspace",
        "task_default_routing_key",
        "author",
        "authors",
        "keyboard",
        "monkey",
        "pinned",
        "spin",
        "discard",
        "cardinality",
        "passenger",
        "name",
        "total",
        "bypass",
        "compass",
        "possession",
        "iso",
    ],
)
def test_harmless_keys_are_shown(key: str) -> None:
    assert not DEFAULT.key_hidden(key)
    assert DEFAULT.value({key: "plain"}) == {key: "plain"}


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
SHAPES = [
    JWT,
    PEM,
    "AKIAIOSFODNN7EXAMPLE",
    "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
    "rk_" + "test_4eC39HqLyjWDarjtT1zdp7dc",
    "xox" + "b-123456789012-abcdefGHIJKL",
    "https://hooks.slack.com/" + "services/T000/B000/XXXXXXXX",
    "gh" + "p_16C7e42F292c6912E7710c838347Ae178B4a",
    "4111 1111 1111 1111",
    "5555555555554444",
    "378282246310005",
]


@pytest.mark.parametrize("secret", SHAPES)
@pytest.mark.parametrize("around", ["{}", "('{}', 1)", "x {} y", "{{'note': '{}'}}"])
def test_secrets_are_known_by_their_shape(secret: str, around: str) -> None:
    shown = DEFAULT.text(around.format(secret))
    assert HIDDEN in shown
    assert secret[-12:] not in shown
    assert HIDDEN in str(DEFAULT.value([{"note": secret}]))


@pytest.mark.parametrize(
    "plain",
    [
        "1795361239.7361913",
        "9eaec206-ae42-4286-95ca-736dc700d302",
        "4111111111111112",
        "1234567890123",
        "(2, 3)",
        "{}",
        "ValueError('kaput')",
        "2026-11-22T15:27:20.629111+00:00",
        "https://example.org/a?page=2",
        "0000000000000000",
        "{'order': 15, 'cards': 3, 'author': 'x'}",
    ],
)
def test_plain_values_stay(plain: str) -> None:
    assert DEFAULT.text(plain) == plain


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@host:6379/0", "redis://[hidden]@host:6379/0"),
        ("amqp://bob:hunter2@mq//", "amqp://[hidden]@mq//"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("sentinel://:p@a:1;sentinel://:p@b:2", "sentinel://[hidden]@a:1;sentinel://[hidden]@b:2"),
        ("rediss://u:hun/ter2@host/0?password=x", "rediss://[hidden]@host/0?password=[hidden]"),
    ],
)
def test_urls_lose_their_user_and_keep_their_host(url: str, shown: str) -> None:
    assert DEFAULT.url(url) == shown


def test_nested_values_keep_their_shape_and_are_json() -> None:
    given: dict[Any, Any] = {
        "a": [1, 2.5, None, True, {"token": {"x": 1}}],
        "broker_url": "redis://:hunter2@h/0",
        "failover": ["amqp://u:hunter2@h//"],
        5: {"card": 4111111111111111, "n": 4111111111111111},
        "nan": float("nan"),
        "bytes": b"abc",
        "t": ("x",),
        "empty": {"password": ""},
    }
    shown = DEFAULT.value(given)
    assert "hunter2" not in json.dumps(shown, allow_nan=False)
    assert shown["a"] == [1, 2.5, None, True, {"token": HIDDEN}]
    assert shown["5"] == {"card": HIDDEN, "n": HIDDEN}
    assert shown["empty"] == {"password": ""}


def test_nul_and_lone_surrogates_do_not_reach_the_database() -> None:
    assert DEFAULT.value({"a\x00": ["b\ud800"]}) == {"a\ufffd": ["b\ufffd"]}


def test_deep_and_wide_values_are_bounded() -> None:
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert len(json.dumps(DEFAULT.value(deep))) < 100
    assert len(DEFAULT.value(list(range(100_000)))) == 1_000


def test_a_broken_rule_hides_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    redactor = Redactor()

    def broken(*_: object) -> str:
        raise RuntimeError("no")

    monkeypatch.setattr(redactor, "_text", broken)
    monkeypatch.setattr(redactor, "_cached_text", broken)
    assert redactor.text("a password=x") == WITHHELD
    monkeypatch.setattr(redactor, "_value", broken)
    assert redactor.value({"a": "b"}) == WITHHELD


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("('amqp://user:hunter2secr...',)", "('amqp://[hidden]...',)"),
        ("['redis://:hunter2", "['redis://[hidden]"),
        ("('http://host:8000...',)", "('http://host:8000...',)"),
        ("(see http://host:8000)", "(see http://host:8000)"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
    ],
)
def test_a_url_that_was_cut_within_its_password_loses_it(text: str, shown: str) -> None:
    assert DEFAULT.text(text) == shown


def test_patterns_given_later_hide_what_was_asked_before() -> None:
    redactor = Redactor()
    assert redactor.text("{'badge': 'b-17'}") == "{'badge': 'b-17'}"
    assert redactor.value({"badge": "b-17"}) == {"badge": "b-17"}
    redactor.hide(["badge"])
    assert redactor.text("{'badge': 'b-17'}") == "{'badge': '[hidden]'}"
    assert redactor.value({"badge": "b-17"}) == {"badge": HIDDEN}


def test_more_patterns_can_be_given() -> None:
    redactor = Redactor(["customer_no", "vat"])
    assert redactor.text("{'customer_no': 'abc', 'n': 1}") == "{'customer_no': '[hidden]', 'n': 1}"
    assert redactor.value({"VAT-id": "x"}) == {"VAT-id": HIDDEN}
    assert not DEFAULT.key_hidden("customer_no")


@pytest.mark.parametrize(
    "hostile",
    [
        "password=" * 20_000,
        "'" * 200_000,
        "a://" * 60_000,
        "1 " * 100_000,
        "eyJ" * 70_000,
        "-----BEGIN A-----" * 12_000,
        "key" + "{" * 200_000,
        "{'token': " * 20_000,
        "\\" * 200_000,
        "a=" * 100_000,
        "x" * 300_000 + "password=1",
        "xoxb-" * 40_000,
        "4" * 200_000,
        "'a" * 90_000 + "secret",
        " " * 200_000 + "token",
        "Basic " * 30_000,
        "key://" + "a:" * 100_000,
        "pass" + "a" * 200_000,
        "token\\'" * 20_000,
        "password" + " " * 100_000,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_texts_take_little_time(hostile: str) -> None:
    began = time.process_time()
    shown = DEFAULT.text(hostile)
    assert time.process_time() - began < 1.0
    assert len(shown) <= 2 * LIMIT + 100


def test_every_secret_word_is_found_by_the_quick_look() -> None:
    for word in WORDS | set(PARTS):
        assert "hunter2" not in DEFAULT.text(f"{{'{word}': 'hunter2'}}"), word
        assert "hunter2" not in DEFAULT.text(f"{word.upper()}=hunter2"), word


def test_long_texts_are_cut_first() -> None:
    assert len(DEFAULT.text("x" * 1_000_000)) == LIMIT


def test_the_id_of_a_task_is_never_taken_for_a_card() -> None:
    # These digits pass Luhn's check; hidden, an inspect would name a task that does not exist.
    uuid = "7f72e2a2-7300-4b41-1111-111111111111"
    assert DEFAULT.text(uuid) == uuid
    for number in range(2000):
        made = str(UUID(int=number * 0x1234567890123456789ABCDEF % 2**128))
        assert DEFAULT.value({"id": made}) == {"id": made}
    assert DEFAULT.text(f"{uuid} 4111-1111-1111-1111") == f"{uuid} [hidden]"


def test_a_class_before_its_message_is_no_key() -> None:
    assert DEFAULT.text("demo.shop.CardDeclined: order 5") == "demo.shop.CardDeclined: order 5"
    assert "sk123" not in DEFAULT.text("ApiKey: sk123")
