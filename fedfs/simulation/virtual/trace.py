"""A trace: the sites of a consortium with their speed, their line, and when they work.

Rules:
 * Units are in the names. Times are UTC, and outages count from the start of the study.
 * A key that is not known is an error, as is a value that makes no sense; both name file and line.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_type_hints

from fedfs.errors import UserError
from fedfs.protocol.ranges import AT_LEAST_ONE, POSITIVE, Range
from fedfs.protocol.values import check_site

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NOT_NEGATIVE = Range(low=0)

At = Callable[..., str]
"""Returns where a key is, given the tables above it and its name: ``consortium.toml, line 3``."""
Span = tuple[float, float]
"""Begin and end; that of a day may end before it begins, in the next one."""
_T = TypeVar("_T")
_C = TypeVar("_C", bound="LineTrace | StudyTrace")

_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


class _UnusableError(Exception):
    """A value that makes no sense; says what it has to be."""


def _number(allowed: Range) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if value not in allowed:
            raise _UnusableError(f"it must be {allowed}")
        return float(value)

    return read


def _whole(allowed: Range) -> Callable[[Any], int]:
    return lambda value: int(_number(allowed)(value))


def _several(read: Callable[[Any], _T]) -> Callable[[Any], tuple[_T, ...]]:
    def read_all(value: Any) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise _UnusableError("it must be a list, in brackets")
        return tuple(read(one) for one in value)

    return read_all


def _minutes(value: Any) -> Span:
    """Read minutes, or the least and the most of them."""
    low, high = value if isinstance(value, list) and len(value) == 2 else (value, value)  # noqa: PLR2004  least and most
    if low not in POSITIVE or high not in POSITIVE or low > high:
        raise _UnusableError(
            "it must be minutes above 0, or the least and the most of them: [60, 90]"
        )
    return float(low), float(high)


def _hours(value: Any) -> Span:
    match = _HOURS.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] + match[2] == match[3] + match[4]:
        raise _UnusableError("it must be hours of a day, such as 20:00-06:00")
    return int(match[1]) + int(match[2]) / 60, int(match[3]) + int(match[4]) / 60


def _outage(value: Any) -> Span:
    names = {"after_hours", "hours"}
    if not isinstance(value, dict) or set(value) != names:
        raise _UnusableError("it must be like {after_hours = 48, hours = 240}")
    if value["after_hours"] not in NOT_NEGATIVE or value["hours"] not in POSITIVE:
        raise _UnusableError("it must have hours of at least 0, and last for some")
    return value["after_hours"], value["after_hours"] + value["hours"]


def _day(value: Any) -> int:
    if value not in DAYS:
        raise _UnusableError(f"it must be of {', '.join(DAYS)}")
    return DAYS.index(value)


def _start(value: Any) -> float:
    if not isinstance(value, datetime):
        raise _UnusableError("it must be a time such as 2026-01-05T08:00:00")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnusableError("it must be a text, in quotes")
    return value


@dataclass(frozen=True, kw_only=True)
class LineTrace:
    """A line to the store.

    Attributes:
        up_mb_per_s, down_mb_per_s: millions of bytes per second.
    """

    up_mb_per_s: Annotated[float, _number(POSITIVE)] = 100.0
    down_mb_per_s: Annotated[float, _number(POSITIVE)] = 100.0


@dataclass(frozen=True, kw_only=True)
class SiteTrace(LineTrace):
    """A site of a consortium.

    Attributes:
        cases: training cases.
        seconds_per_iteration: of training; validation takes a third of it.
        seconds_per_case: of fingerprint and preprocessing.
        minutes_between_drops: from one drop of the line to the next, least and most; (0, 0)
            for none.
        minutes_per_drop: until the line is back, least and most.
        compute_hours: spans of a day, in hours, in which the site may train; none for all day.
        outages: spans, in hours from the start of the study, in which the site is switched off.
        courier_days: days of the week on which a courier comes; none where there is a line.
        courier_hour: hour of the day at which he comes.
    """

    cases: Annotated[int, _whole(AT_LEAST_ONE)]
    seconds_per_iteration: Annotated[float, _number(POSITIVE)]
    seconds_per_case: Annotated[float, _number(NOT_NEGATIVE)] = 10.0
    minutes_between_drops: Annotated[Span, _minutes] = (0.0, 0.0)
    minutes_per_drop: Annotated[Span, _minutes] = (1.0, 1.0)
    compute_hours: Annotated[tuple[Span, ...], _several(_hours)] = ()
    outages: Annotated[tuple[Span, ...], _several(_outage)] = ()
    courier_days: Annotated[tuple[int, ...], _several(_day)] = ()
    courier_hour: Annotated[float, _number(Range(low=0, high=24))] = 12.0


@dataclass(frozen=True, kw_only=True)
class StudyTrace:
    """The study, as far as time depends on it.

    Attributes:
        start: POSIX seconds at which all sites have joined.
        parameters: of the network.
        rounds, local_iterations, val_iterations: as of ``fedfs init``.
    """

    start: Annotated[float, _start] = 1_767_600_000.0  # Monday, 2026-01-05, 8 h
    parameters: Annotated[int, _whole(AT_LEAST_ONE)] = 31_200_000
    rounds: Annotated[int, _whole(AT_LEAST_ONE)] = 20
    local_iterations: Annotated[int, _whole(AT_LEAST_ONE)] = 250
    val_iterations: Annotated[int, _whole(AT_LEAST_ONE)] = 50


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A consortium.

    Attributes:
        title, source: for people.
        sites: by name.
    """

    title: str
    source: str
    study: StudyTrace
    aggregator: LineTrace
    sites: Mapping[str, SiteTrace]


def parse_trace(table: Mapping[str, Any], at: At) -> Trace:
    """Return the trace that a TOML file holds.

    Args:
        table: its content.
        at: says where in the file a key is.

    Raises:
        UserError: a key is unknown, missing or has a value that makes no sense.
    """
    known = ("title", "source", "study", "aggregator", "sites")
    _check_names(table, known, at, ())
    sites = table.get("sites")
    if not isinstance(sites, dict) or not sites:
        raise UserError(f"{at()} has no sites.", hint="each has a table of its own: [sites.north]")
    for name in sites:
        try:
            check_site(name)
        except UserError as error:
            text = f"{at('sites', name)}: site name {name!r} is not usable."
            raise UserError(text, hint=error.hint) from error
    texts = {name: _read(_text, table.get(name, ""), at, (name,)) for name in ("title", "source")}
    return Trace(
        **texts,
        study=_table(StudyTrace, table.get("study", {}), at, ("study",)),
        aggregator=_table(LineTrace, table.get("aggregator", {}), at, ("aggregator",)),
        sites={name: _table(SiteTrace, sites[name], at, ("sites", name)) for name in sorted(sites)},
    )


def _table(cls: type[_C], table: Any, at: At, place: Sequence[str]) -> _C:
    if not isinstance(table, dict):
        raise UserError(f"{at(*place)}: {place[-1]} is not a table.", hint=f"[{'.'.join(place)}]")
    known = {one.name: one.default for one in fields(cls)}
    _check_names(table, tuple(known), at, place)
    for name, default in known.items():
        if name not in table and default is MISSING:
            raise UserError(
                f"{at(*place)}: {'.'.join(place)} has no {name}.", hint="every site needs it"
            )
    hints = get_type_hints(cls, include_extras=True)
    return cls(
        **{
            name: _read(hints[name].__metadata__[0], value, at, (*place, name))
            for name, value in table.items()
        }
    )


def _read(read: Callable[[Any], _T], value: Any, at: At, place: Sequence[str]) -> _T:
    try:
        return read(value)
    except _UnusableError as error:
        text = f"{at(*place)}: {place[-1]} cannot be {value!r}."
        raise UserError(text, hint=str(error)) from None


def _check_names(
    table: Mapping[str, Any], known: Sequence[str], at: At, place: Sequence[str]
) -> None:
    for name in table:
        if name not in known:
            raise UserError(
                f"{at(*place, name)}, names {name!r}, which a trace does not have.",
                hint=f"it has {', '.join(known)}",
            )
