from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.errors import MalformedError
from fedfs.protocol import codec
from fedfs.protocol.text import FORBIDDEN


@dataclass(frozen=True)
class Inner:
    key: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    number: int
    ratio: float
    flag: bool
    maybe: float | None
    items: tuple[Inner, ...]
    named: Mapping[str, float]
    anything: Any
    optional: str = "default"
    extra: Mapping[str, Any] = field(default_factory=dict)


GOOD = {
    "number": 1, "ratio": 2, "flag": True, "maybe": None, "items": [{"key": "k", "new": 1}],
    "named": {"a": 0.5}, "anything": [1, {"x": None}], "later": "kept",
}  # fmt: skip


def test_unknown_fields_survive_a_round_trip_at_every_level():
    outer = codec.from_json(Outer, GOOD)
    assert outer.extra == {"later": "kept"}
    assert outer.items[0].extra == {"new": 1}
    assert codec.to_json(outer) == {**GOOD, "optional": "default"}


def test_equal_values_have_equal_bytes_whatever_their_order():
    assert (
        codec.dumps({"b": 1, "a": [1.5]})
        == codec.dumps({"a": [1.5], "b": 1})
        == b'{"a":[1.5],"b":1}'
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": "1"}, "The field number is text, not an integer."),
        ({"number": True}, "The field number is true or false, not an integer."),
        ({"number": 1.0}, "The field number is a number, not an integer."),
        ({"ratio": "x"}, "The field ratio is text, not a number."),
        ({"flag": 1}, "The field flag is an integer, not true or false."),
        ({"maybe": []}, "The field maybe is a list, not a number."),
        ({"items": {}}, "The field items is an object, not a list."),
        ({"items": [{}]}, "The field items[0].key is missing."),
        ({"items": [{"key": "k"}, None]}, "The field items[1] is null, not an object."),
        ({"named": {"a": "b"}}, "The field named.a is text, not a number."),
    ],
)
def test_a_field_that_is_wrong_is_named_by_its_path(change, says):
    with pytest.raises(MalformedError, match="^" + says.replace("[", r"\[").replace("]", r"\]")):
        codec.from_json(Outer, {**GOOD, **change})


def test_a_missing_field_is_named():
    with pytest.raises(MalformedError, match="The field number is missing"):
        codec.from_json(Outer, {k: v for k, v in GOOD.items() if k != "number"})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":1,"a":2}', "'a' twice"),
        (b"[" * 100_000, "deeper than 32"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "deeper than 32"),
        (b'{"a":NaN}', "not a finite number"),
        (b'{"a":-Infinity}', "not a finite number"),
        (b'{"a":1e999}', "not a finite number"),
        (b'{"a":' + b"9" * 5000 + b"}", "5000 digits"),
        (b'"\xff"', r"not UTF-8 \(byte 1\)"),
        (b'{"a":}', r"is not valid JSON \(line 1, column 6\)"),
        (b"", r"is not valid JSON \(line 1, column 1\)"),
    ],
)
def test_hostile_json_is_refused(data, says):
    with pytest.raises(MalformedError, match=says):
        codec.loads(data)


def test_brackets_inside_strings_are_not_depth():
    assert codec.loads(b'["' + b"[" * 500 + b'\\"["]') == ["[" * 500 + '"[']


@pytest.mark.parametrize(
    ("start", "again", "end"),
    [
        (b'"', b'\\"', b""),
        (b'"', b'\\"', b"\\"),
        (b'"', b"\\u0020", b""),
        (b"", b'"', b""),
        (b"", b"[", b""),
        (b"[", b"[],", b"[]]"),
        (b"[", b"{},", b"1]"),
        (b"[", b'{"a":1},', b"1]"),
        (b"[0.", b"3", b"]"),
        (b"[1e", b"3", b"]"),
        (b"[", b"-", b"]"),
        (b"", b"\n", b"x"),
    ],
)
def test_two_megabytes_of_anything_are_read_or_refused_at_once(start, again, end):
    data = start + again * (2_000_000 // len(again)) + end
    began_s = time.process_time()
    with contextlib.suppress(MalformedError):
        codec.loads(data)
    assert time.process_time() - began_s < 3  # half a second where nothing else runs


def test_time_to_read_grows_with_the_bytes_and_no_faster():
    def seconds(n: int) -> float:
        began_s = time.process_time()
        with contextlib.suppress(MalformedError):
            codec.loads(b'"' + b'\\"' * n)
        return time.process_time() - began_s

    assert seconds(1_000_000) < 100 * max(seconds(50_000), 1e-3)


texts = st.text().filter(lambda text: not FORBIDDEN.search(text))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_can_be_read(value):
    assert codec.loads(codec.dumps(value)) == value


ESCAPED = ["\\n", "\\t", "\\u0000", "\\u001b[2J", "\\u009b2J", "\\u202e", "\\ud800", "\\u2028"]
AS_THEY_ARE = ["\x7f", "\x9b2J", "\u202e", "\u2028", "\u2066"]


@pytest.mark.parametrize("text", ESCAPED + AS_THEY_ARE)
def test_text_that_does_something_to_a_terminal_is_refused_as_value_and_as_name(text):
    for data in (f'{{"a":["{text}"]}}', f'{{"b":{{"{text}":1}}}}', f'"{text}"'):
        with pytest.raises(MalformedError, match=r"the forbidden character U\+") as raised:
            codec.loads(data.encode())
        assert str(raised.value).isprintable()


@pytest.mark.parametrize("text", ["\n", "\x1b[2J", "\x9b", "\u202e", "\ud800"])
def test_text_that_no_reader_accepts_is_not_written(text):
    for value in (text, [text], {text: 1}):
        with pytest.raises(MalformedError, match="forbidden character"):
            codec.dumps(value)


def test_other_text_comes_through_escaped_or_not():
    assert codec.loads(b'["\\u00e9\\\\n\\"\\ud83d\\ude00", "\xc3\xa9\xe2\x80\x8d"]') == [
        'é\\n"😀',
        "é\u200d",
    ]


def test_white_space_between_values_is_no_text():
    assert codec.loads(b'{\n\t"a":\r\n[ "b\\\\" ]}') == {"a": ["b\\"]}


def test_a_name_is_bounded_and_an_error_that_quotes_it_too():
    with pytest.raises(MalformedError, match="more than 512 characters"):
        codec.loads(b'{"' + b"x" * 513 + b'":1}')
    with pytest.raises(MalformedError) as raised:
        codec.loads(b'{"' + b"x" * 100_000 + b'":1,"' + b"x" * 100_000 + b'":2}')
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("change", [{"number": 2**63}, {"ratio": 1e101}, {"named": {"a": -1e300}}])
def test_numbers_whose_sums_would_not_be_finite_are_refused(change):
    with pytest.raises(MalformedError, match="out of bounds"):
        codec.from_json(Outer, {**GOOD, **change})


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_malformed(data):
    with contextlib.suppress(MalformedError):
        codec.loads(data)
