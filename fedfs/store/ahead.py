"""Parts of an object, several on their way at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def in_order(calls: Iterable[Callable[[], _T]], *, at_once: int) -> Iterator[_T]:
    """Make calls in threads, and yield what they return in the order of the calls.

    Args:
        calls: taken one by one, so that there are no more results than one beyond ``at_once``.
        at_once: calls that are made at the same time, also while a result is used.

    Raises:
        Exception: of a call; those that have not begun are not made.

    >>> list(in_order((lambda number=number: number**2 for number in range(4)), at_once=2))
    [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(at_once) as pool:
        coming: deque[Future[_T]] = deque()
        try:
            for call in calls:
                coming.append(pool.submit(call))
                if len(coming) > at_once:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
