"""Arguments out of events and out of what people type: never evaluated, never guessed."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from monitor.arguments import (
    DEEPEST,
    LARGEST,
    Unreadable,
    hides,
    named,
    positional,
    read,
    restored,
    typed,
    unfit,
)
from monitor.redact import DEFAULT, HIDDEN


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ((), []),
        ((1, -2, 2.5, 1e30, True, False, None), [1, -2, 2.5, 1e30, True, False, None]),
        (("it's", 'say "x"', "two\nlines", "ünï✓", ""), ["it's", 'say "x"', "two\nlines", "ünï✓", ""]),
        (([1, [2]], {"a": (3,)}), [[1, [2]], {"a": [3]}]),
        ([7], [7]),
    ],
)
def test_what_celery_tells_whole_is_read_as_it_was(value: Any, read_as: list[Any]) -> None:
    assert positional(saferepr(value, 1024)) == read_as


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(PLAIN, max_size=5), st.sampled_from([None, 1024, 60]))
def test_whatever_celery_tells_is_read_as_it_was_or_not_at_all(args: list[Any], most: int | None) -> None:
    try:
        found = positional(saferepr(tuple(args), most))
    except Unreadable:
        return
    assert json.dumps(found) == json.dumps(args)


@given(st.text(alphabet="()[]{}',:\\\" 1-.aeTrue", max_size=60))
def test_no_text_does_more_than_be_read_or_refused(text: str) -> None:
    try:
        read(text)
    except Unreadable as reason:
        assert str(reason)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("__import__('os').system('true')", "no plain value"),
        ("(lambda: 1)()", "no plain value"),
        ("[x for x in (1,)]", "no plain value"),
        ("(1).__class__", "more than plain|no plain|single value|no list"),
        ("(1+1,)", "more than plain"),
        ("('a' 'b',)", "more than plain"),
        ("(f'{1}',)", "no plain value"),
        ("({1, 2},)", "a set"),
        ("(set(),)", "no plain value"),
        ("(datetime.datetime(2026, 1, 2, 3, 4),)", "datetime.datetime…, which is no plain value"),
        ("(Decimal('1.50'),)", "no plain value"),
        ("(<object object at 0x7f>,)", "no plain value"),
        ("(b'00ff',)", "bytes"),
        (r"('C:\new',)", "backslash"),
        ("(1e999,)", "a number that JSON cannot carry"),
        ("(nan,)", "no plain value"),
        (f"({'9' * 5000},)", "a number that is too long"),
        ("({1: 'a'},)", "a key that is no text"),
        ("({'a': 1, 'a': 2},)", "a key twice"),
        ("(1", "more than plain|no list"),
        ("", "no list"),
        ("(1,) (2,)", "no single value"),
        ("(1, 2, ...)", "cut by Celery"),
        ("('abc...',)", "cut by Celery"),
        ("({...},)", "cut by Celery"),
        ("(1, 2, '…", "cut by Umbel"),
        ("('***', 5)", "in the place of a secret"),
        ("('[Filtered]',)", "in the place of a secret"),
        (f"({{'password': '{HIDDEN}'}},)", "what Umbel hides"),
        ("(" * 500 + ")" * 500, "nested deeper"),
        ("(" * 100_000, "nested deeper"),
        ("[-" + "-" * 50_000 + "1]", "more than plain|no plain"),
        ("[" + "1," * 200_000 + "]", "longer than"),
    ],
)
def test_what_is_hostile_cut_masked_or_not_plain_is_refused_and_says_why(text: str, why: str) -> None:
    began = time.perf_counter()
    with pytest.raises(Unreadable, match=why):
        read(text)
    assert time.perf_counter() - began < 1.0


def test_what_celery_cuts_or_cannot_tell_is_never_read() -> None:
    for value in (
        ("x" * 2000,),
        tuple(range(2000)),
        ({"a": {"b": {"c": {"d": 1}}}},),
        (b"bytes",),
        (datetime.now(UTC), Decimal("1")),
        ("ends in a backslash\\", "b"),
        ("\\', 'b",),
    ):
        with pytest.raises(Unreadable):
            positional(saferepr(value, 1024))


def test_a_mapping_is_no_list_of_args() -> None:
    with pytest.raises(Unreadable, match="other than a list"):
        positional("{'a': 1}")
    with pytest.raises(Unreadable, match="other than a mapping"):
        named("(1,)")
    assert named("{'a': 1,}") == {"a": 1}


# What people type


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2,]", "Args, line 1, column 7: .*comma too many"),
        ("[1,\n 2\n 3]", "Args, line 3, column 2"),
        ("['a']", "Args, line 1, column 2: a text is written with double quotes"),
        ("[True]", "Args, line 1, column 2: True is Python; in JSON it is true"),
        ("[1,\n  NaN]", "Args, line 2, column 3: NaN is no JSON value"),
        ("[-Infinity]", "line 1, column 2: -Infinity is no JSON value"),
        ("[1] 2", "line 1, column 5: something follows"),
        ('{"a": 1}', "Args must be a list, like .*; this is an object"),
        ("5", "this is a number"),
        ('[{"a": 1, "a": 2}]', "the key 'a' is there twice"),
        ("[" * 100_000, "nested deeper than 32"),
        ("[" * 40 + "]" * 40, "nested deeper than 32"),
        (f"[{'9' * 9000}]", "a number in it is too long"),
        ('["\\ud800"]', "half of a surrogate pair"),
        (f'["{"x" * LARGEST}"]', "the most"),
    ],
)
def test_a_typing_error_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        typed(text, "Args", list)


def test_what_was_typed_is_taken() -> None:
    assert typed('[1, "NaN", {"a": [null, true]}]', "Args", list) == [1, "NaN", {"a": [None, True]}]
    assert typed("  ", "Kwargs", dict) == {}
    assert typed('{"when": {"__type__": "date", "__value__": "2026-01-02"}}', "Kwargs", dict)["when"]


def test_what_cannot_be_sent_says_why() -> None:
    assert "nested" in unfit(json.loads("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)))
    assert "bytes" in unfit(["ü" * LARGEST])
    assert "cannot carry" in unfit([{1, 2}])
    assert "cannot carry" in unfit([float("nan")])
    assert unfit([1]) == ""


# What is hidden on the page


def test_hidden_values_that_were_left_are_sent_as_they_were() -> None:
    original = {"user": "ann", "password": "hunter2", "urls": ["redis://:pw@h/0", 5]}
    shown = DEFAULT.value(original)
    assert "hunter2" not in json.dumps(shown) and "pw@" not in json.dumps(shown) and hides(shown)
    assert restored(shown, shown, original) == original
    given = {**shown, "user": "bob", "urls": [shown["urls"][0], 6]}
    assert restored(given, shown, original) == {
        "user": "bob",
        "password": "hunter2",
        "urls": ["redis://:pw@h/0", 6],
    }


@pytest.mark.parametrize(
    "given",
    [
        {"note": HIDDEN},
        {"password": [HIDDEN]},
        {"password": f"x{HIDDEN}"},
        {"deep": {"password": HIDDEN}},
    ],
)
def test_a_hidden_value_in_another_place_is_neither_sent_nor_shown(given: dict[str, Any]) -> None:
    original = {"password": "hunter2"}
    with pytest.raises(ValueError, match="is hidden") as refusal:
        restored(given, DEFAULT.value(original), original)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda two: two[1:],  # the first one deleted
        lambda two: two[::-1],
        lambda two: [two[0], {**two[1], "user": "cid"}],
        lambda two: [*two, {"user": "cid", "password": "typed"}],
    ],
)
def test_a_secret_of_one_element_never_goes_out_with_another(edit: Any) -> None:
    original = [{"user": "ann", "password": "hunter2"}, {"user": "bob", "password": "swordfish"}]
    for value, how in ((original, edit), ({"deep": original}, lambda top: {"deep": edit(top["deep"])})):
        shown = DEFAULT.value(value)
        with pytest.raises(ValueError, match="is hidden, and what it was is not known: type it") as refusal:
            restored(how(shown), shown, value)
        assert "hunter2" not in str(refusal.value) and "swordfish" not in str(refusal.value)


def test_elements_that_look_alike_are_put_back_only_in_a_list_that_was_left() -> None:
    original = [{"token": "one"}, {"token": "two"}, 5]
    shown = DEFAULT.value(original)
    assert restored(shown, shown, original) == original
    with pytest.raises(ValueError, match=r"at \[0\].token is hidden"):
        restored([*shown[1:2], *shown[1:2], 6], shown, original)
    assert restored([1, 2, 7], [1, 2, 5], [1, 2, 5]) == [1, 2, 7]


def test_a_number_that_became_true_is_what_was_typed() -> None:
    assert restored([True, 1.0], [1, 1], [1, 1]) == [True, 1.0]
    assert [type(one) for one in restored([True, 1.0], [1, 1], [1, 1])] == [bool, float]
