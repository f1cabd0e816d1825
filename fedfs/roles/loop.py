"""The loop around a step, which a site and the aggregator have in common.

A step observes, decides, acts and publishes; the loop only waits between steps.
A store that cannot be reached now is waited for like anything else: a step may be repeated.
"""

import logging
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from fedfs.errors import StoreUnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one step.

    Attributes:
        worked: something was done, look again at once.
        finished: nothing will ever be left to do.
        text: a sentence on what was done, or is waited for.
        until_s: of a wait, the POSIX time at which it ends by itself.
        done: of the outcome of a whole process, the sentences on all that it has done.
    """

    worked: bool
    finished: bool
    text: str
    until_s: float = math.inf
    done: tuple[str, ...] = ()


def turns(step: Callable[[], Outcome], *, once: bool = False) -> Generator[Outcome, None, Outcome]:
    """Yield the outcome of each step until nothing is left to do, and return the last one.

    After an outcome that has not worked, the caller waits. See :func:`run`.
    """
    done: list[str] = []
    while True:
        try:
            outcome = step()
        except StoreUnavailableError as error:
            if once:
                raise
            log.warning("%s Trying again.", error.local_text)
            outcome = Outcome(worked=False, finished=False, text=error.local_text)
        else:
            if outcome.worked:
                done.append(outcome.text)
            elif outcome.finished or once:
                return replace(outcome, worked=bool(done), done=tuple(done))
        yield outcome


def run(step: Callable[[], Outcome], *, wait: Callable[[], object], reset: Callable[[], None],
        once: bool = False) -> Outcome:  # fmt: skip
    """Call ``step`` until nothing is left to do.

    Args:
        step: a site's or an aggregator's step.
        wait: waits for a change of the store.
        reset: called after work was done, so that the next wait is short.
        once: return instead of waiting.

    Returns:
        The last outcome: finished, or (``once``) waiting. ``worked`` says whether any step worked.

    Raises:
        StoreUnavailableError: the store cannot be reached, with ``once``.
        FedfsError: whatever else a step raises.
    """
    loop = turns(step, once=once)
    while True:
        try:
            outcome = next(loop)
        except StopIteration as end:
            last: Outcome = end.value
            return last
        if outcome.worked:
            reset()
        else:
            wait()
