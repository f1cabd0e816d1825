"""Strategies of packages that are installed beside fedfs: entry points of ``fedfs.strategies``.

Rules:
 * A name selects among what this host's operator has installed. Nothing is imported by a path or
   the name of a module that a message holds.
 * A package is imported when its strategy is asked for, and not before. This is an import like any
   other: it reads no file that is not code, and the rest of this room does not know of it.
 * What it gives is what fedfs has itself: a frozen dataclass derived from
   :class:`~fedfs.aggregation.strategies.fedavg.FedAvg`, whose fields are numbers with defaults.
"""

from dataclasses import MISSING, fields
from importlib.metadata import EntryPoint, entry_points

from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.errors import SetupError

GROUP = "fedfs.strategies"
"""Name of the group of entry points; the name of each is its strategy's."""


def names() -> list[str]:
    """Return the names of all strategies that packages have, ascending."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def package_of(name: str) -> dict[str, str]:
    """Return the package that has a strategy, and its version; empty if none has it."""
    return {
        point.dist.name: point.dist.version for point in _points(name) if point.dist is not None
    }


def find(name: str) -> type[FedAvg] | None:
    """Return the class of a strategy, upper or lower case; None if no package has it.

    Raises:
        SetupError: several packages have it, or its package is broken; names the package.
    """
    points = _points(name)
    if not points:
        return None
    if len(points) > 1:
        raise SetupError(
            f"Several packages have a strategy {name!r}: {', '.join(map(_package, points))}.",
            hint="uninstall all of them but one",
        )
    point = points[0]
    try:
        cls = point.load()
    except Exception as error:
        raise SetupError(
            f"Strategy {name!r} cannot be loaded from package {_package(point)}: {error!r}.",
            hint="repair or reinstall that package",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, FedAvg)):
        raise SetupError(
            f"{point.value} of package {_package(point)} is no strategy.",
            hint="it has to be a class derived from fedfs.aggregation.strategies.FedAvg",
        )
    for item in fields(cls):
        if item.init and item.default is MISSING:
            raise SetupError(
                f"Option {item.name!r} of strategy {name!r} has no default.",
                hint=f"that is for whoever maintains package {_package(point)}",
            )
    return cls


def _points(name: str) -> list[EntryPoint]:
    return [point for point in entry_points(group=GROUP) if point.name.lower() == name.lower()]


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
