"""Frozen dataclasses to JSON bytes and back.

Rules:
 * Writing is canonical: sorted keys, no white space, UTF-8, no NaN. Equal messages have equal
   bytes.
 * Reading is strict: no duplicate key, no NaN or Infinity, bounded depth, names and numbers, every
   field of the type its annotation says. What is wrong is named by its path,
   ``roster[2].public_key``.
 * No text, name or value, holds characters that do something to a terminal or a log
   (:mod:`fedfs.protocol.text`): such text is neither written nor read.
 * Reading takes time in proportion to the number of bytes, whatever they are: it comes before any
   signature is looked at.
 * Fields this version does not know are kept in ``extra`` and written back, so that an old tool may
   amend what a newer one wrote.

Supported annotations: ``str``, ``int``, ``float``, ``bool``, ``X | None``, ``tuple[X, ...]``,
``Mapping[str, X]``, dataclasses of these, ``Annotated[X, allowed]`` for values that are in
``allowed``, and ``JSON`` for an opaque value.
"""

import itertools
import json
import math
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

from fedfs.errors import MalformedError
from fedfs.protocol.text import FORBIDDEN, FORBIDDEN_UNESCAPED

JSON = Any
MAX_DEPTH = 32
REQUIRED = "required"
"""In the metadata of a field: what is read has to have it, though it has a default here."""
_MAX_DIGITS = 24
_MAX_NAME = 512
_LARGEST = {int: 2**63 - 1, float: 1e100}
"""Largest numbers in fields of messages: sums and squares of them are finite."""
# Possessive, and an unclosed string goes on to the end: no character is looked at twice.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_OPENING, _CLOSING = b"[{", b"]}"
_STEPS = {**dict.fromkeys(_OPENING, 1), **dict.fromkeys(_CLOSING, -1)}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))
_SAME_DIGITS = str.maketrans("123456789E", "000000000e")
_PLAIN = (str, float, int, bool, type(None))
_TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}

T = TypeVar("T")


def dumps(value: JSON) -> bytes:
    """Return the canonical JSON encoding of ``value``.

    Raises:
        MalformedError: the value holds NaN, Infinity, forbidden characters or something that is not
            JSON.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise MalformedError(f"cannot be written as JSON: {error}") from error
    _check_characters(FORBIDDEN_UNESCAPED, text)
    _check_escaped(text, value)
    return text.encode()


def loads(data: bytes) -> JSON:
    """Parse JSON that nobody vouches for; the caller has bounded its length.

    Raises:
        MalformedError: not UTF-8, not JSON, a duplicate key, too deep, a number out of bounds, or
            text with forbidden characters.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 (byte {error.start})") from error
    _check_characters(FORBIDDEN_UNESCAPED, text)
    bare = _STRING.sub("", text)
    _check_depth(bare)
    numbers: dict[str, Any] = {}
    if _may_be_large(bare):  # otherwise spare the time, as to read numbers ourselves doubles it
        numbers = {"parse_int": _bounded_int, "parse_float": _finite_float}
    try:
        value = json.loads(
            text,
            object_pairs_hook=_checked_object,
            parse_constant=_refuse_constant,
            **numbers,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedError(f"is not valid JSON ({where})") from error
    _check_escaped(text, value)
    return value


def to_json(value: Any) -> JSON:
    """Turn a dataclass (and what it holds) into plain JSON values."""
    if type(value) in _PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        out = dict(getattr(value, "extra", {}))
        for item in fields(value):
            if item.name != "extra":
                out[item.name] = to_json(getattr(value, item.name))
        return out
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value


def from_json(cls: type[T], value: JSON, path: str = "") -> T:
    """Build the dataclass ``cls`` from plain JSON values.

    Raises:
        MalformedError: naming the first field that is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise _other_type(path, value, "an object")
    types_by_name = _annotations(typing.cast("Hashable", cls))
    known: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name == "extra":
            continue
        where = f"{path}.{item.name}" if path else item.name
        if item.name in value:
            known[item.name] = _convert(types_by_name[item.name], value[item.name], where)
        elif item.metadata.get(REQUIRED) or (
            item.default is MISSING and item.default_factory is MISSING
        ):
            raise MalformedError("is missing", about=f"the field {where}")
    if "extra" in types_by_name:
        known["extra"] = {k: v for k, v in value.items() if k not in types_by_name}
    return cls(**known)


@cache
def _annotations(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _convert(annotation: Any, value: JSON, path: str) -> Any:
    if annotation is Any or (type(value) is annotation and annotation in _PLAIN):
        return _bounded(value, path) if annotation in _LARGEST else value
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _convert_parts(origin, typing.get_args(annotation), value, path)
    if is_dataclass(annotation) and isinstance(annotation, type):
        return from_json(annotation, value, path)
    if annotation is float and type(value) is int:
        return float(_bounded(value, path))
    if type(value) is not annotation:
        raise _other_type(path, value, _TYPE_NAMES.get(annotation, annotation.__name__))
    return value


def _convert_parts(origin: Any, parts: tuple[Any, ...], value: JSON, path: str) -> Any:
    """Convert to an annotation that is made of others."""
    if origin is Annotated:
        converted = _convert(parts[0], value, path)
        if converted not in parts[1]:
            raise MalformedError(f"is {converted!r}, not {parts[1]}", about=f"the field {path}")
        return converted
    if origin in (types.UnionType, typing.Union):
        inner = next(part for part in parts if part is not type(None))
        return None if value is None else _convert(inner, value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _other_type(path, value, "a list")
        if parts[0] is float and value and all(type(item) is float for item in value):
            _bounded(max(map(abs, value)), path)
            return tuple(value)  # fingerprints hold many thousand numbers
        return tuple(_convert(parts[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, dict):
        raise _other_type(path, value, "an object")
    named, inner = parts
    return {
        _convert(named, key, path): _convert(inner, item, f"{path}.{key}")
        for key, item in value.items()
    }


def _other_type(path: str, value: JSON, expected: str) -> MalformedError:
    found = _TYPE_NAMES.get(type(value), type(value).__name__)
    return MalformedError(f"is {found}, not {expected}", about=f"the field {path}" if path else "")


def _bounded(value: Any, path: str) -> Any:
    if abs(value) > _LARGEST[type(value)]:
        raise MalformedError(f"is {value!r}, which is out of bounds", about=f"the field {path}")
    return value


def _check_characters(forbidden: re.Pattern[str], text: str) -> None:
    match = forbidden.search(text)
    if match:
        raise MalformedError(f"holds the forbidden character U+{ord(match[0]):04X}")


def _check_escaped(text: str, value: JSON) -> None:
    """Check what escapes in JSON stand for; hardly any message has one."""
    if "\\" not in text:
        return
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            _check_characters(FORBIDDEN, item)
        elif isinstance(item, Mapping):
            waiting += [*item, *item.values()]
        elif isinstance(item, Sequence):
            waiting += item


def _check_depth(text: str) -> None:
    brackets = text.encode().translate(None, _NO_BRACKETS)
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise MalformedError(f"is nested deeper than {MAX_DEPTH} levels")


def _may_be_large(text: str) -> bool:
    """Return whether there may be too long an integer, or a number that is not finite."""
    zeros = text.translate(_SAME_DIGITS)
    return "0" * (_MAX_DIGITS + 1) in zeros or "e000" in zeros or "e+000" in zeros


def _checked_object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedError(f"holds the field {twice!r} twice in one object")
    if any(len(name) > _MAX_NAME for name in out):
        raise MalformedError(f"holds a name of more than {_MAX_NAME} characters")
    return out


def _refuse_constant(text: str) -> None:
    raise MalformedError(f"holds {text}, which is not a finite number")


def _bounded_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise MalformedError(f"holds an integer of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedError(f"holds {text[:_MAX_DIGITS]}, which is not a finite number")
    return value
