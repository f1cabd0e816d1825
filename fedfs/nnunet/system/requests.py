"""Requests to child processes as JSON values, and back.

A request is a dataclass. Its fields hold JSON values, paths, other dataclasses, and tuples and sets
of these; the annotations say which. Both ends are this version of fedfs on this host, so nothing is
checked as a message from the store is (:mod:`fedfs.protocol.codec`).
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a request, or what a field of one holds, as JSON values."""
    if is_dataclass(value):
        return {one.name: to_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the request that :func:`to_json` has written down; fields may be absent."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin is types.UnionType:
        return _convert(arguments[0], value)  # the other one is None
    if hint is Path:
        return Path(value)
    if is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value)
    if origin in (tuple, frozenset):
        return origin(_convert(arguments[0], one) for one in value)
    return value
