"""Times in messages: UTC as text, for people and for the one process that wrote them."""

import datetime
import functools

from fedfs.errors import MalformedError


def utc(now_s: float) -> str:
    """Return a POSIX time in seconds as UTC text, to the second."""
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.lru_cache(maxsize=1024)
def from_utc(text: str) -> float:
    """Return the POSIX time of UTC text as :func:`utc` writes it.

    Raises:
        MalformedError: it is not of that form.
    """
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError as error:
        raise MalformedError(
            "is not like 2026-01-31T12:00:00Z", about=f"the time {text!r}"
        ) from error
