"""Frozen dataclasses to JSON bytes and back.

Rules:
 * Writing is canonical: sorted keys, no white space, UTF-8, no NaN. Equal messages have equal
   bytes.
 * Reading is strict: no duplicate key, no NaN or Infinity, bounded depth, names and numbers, every
   field of the type its annotation says. What is wrong is named by its path,
   ``roster[2].public_key``.
 * Reading takes time in proportion to the number of bytes, whatever they are: it comes before any
   signature is looked at.
 * Fields this version does not know are kept in ``extra`` and written back, so that an old tool may
   amend what a newer one wrote.

Supported annotations: ``str``, ``int``, ``float``, ``bool``, ``X | None``, ``tuple[X, ...]``,
``Mapping[str, X]``, dataclasses of these, and ``JSON`` for an opaque value.
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
from typing import Any, TypeVar

from fedfs.errors import MalformedError

JSON = Any
MAX_DEPTH = 32
REQUIRED = "required"
"""In the metadata of a field: what is read has to have it, though it has a default here."""
_MAX_DIGITS = 24
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
        MalformedError: the value holds NaN, Infinity or something that is not JSON.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        raise MalformedError(f"cannot be written as JSON: {error}") from error


def loads(data: bytes) -> JSON:
    """Parse JSON that nobody vouches for; the caller has bounded its length.

    Raises:
        MalformedError: not UTF-8, not JSON, a duplicate key, too deep, or a number out of bounds.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 (byte {error.start})") from error
    bare = _STRING.sub("", text)
    _check_depth(bare)
    numbers: dict[str, Any] = {}
    if _may_be_large(bare):  # otherwise spare the time, as to read numbers ourselves doubles it
        numbers = {"parse_int": _bounded_int, "parse_float": _finite_float}
    try:
        return json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            **numbers,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedError(f"is not valid JSON ({where})") from error


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
    return typing.get_type_hints(cls)


def _convert(annotation: Any, value: JSON, path: str) -> Any:
    if annotation is Any or (type(value) is annotation and annotation in _PLAIN):
        return value
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return None if value is None else _convert(inner[0], value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _other_type(path, value, "a list")
        inner = typing.get_args(annotation)[0]
        if inner is float and all(type(item) is float for item in value):
            return tuple(value)  # fingerprints hold many thousand numbers
        return tuple(_convert(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _other_type(path, value, "an object")
        inner = typing.get_args(annotation)[1]
        return {key: _convert(inner, item, f"{path}.{key}") for key, item in value.items()}
    if is_dataclass(annotation) and isinstance(annotation, type):
        return from_json(annotation, value, path)
    if annotation is float and type(value) is int:
        return float(value)
    if type(value) is not annotation:
        raise _other_type(path, value, _TYPE_NAMES.get(annotation, annotation.__name__))
    return value


def _other_type(path: str, value: JSON, expected: str) -> MalformedError:
    found = _TYPE_NAMES.get(type(value), type(value).__name__)
    return MalformedError(f"is {found}, not {expected}", about=f"the field {path}" if path else "")


def _check_depth(text: str) -> None:
    brackets = text.encode().translate(None, _NO_BRACKETS)
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise MalformedError(f"is nested deeper than {MAX_DEPTH} levels")


def _may_be_large(text: str) -> bool:
    """Return whether there may be too long an integer, or a number that is not finite."""
    zeros = text.translate(_SAME_DIGITS)
    return "0" * (_MAX_DIGITS + 1) in zeros or "e000" in zeros or "e+000" in zeros


def _object_without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedError(f"holds the field {twice!r} twice in one object")
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
