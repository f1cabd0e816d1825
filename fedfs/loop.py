"""The loop around a step, which a site and the aggregator have in common.

``while step(): wait``: a step observes, decides, acts and publishes; the loop only waits between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one step did.

    Attributes:
        worked: something was done, look again at once.
        finished: nothing will ever be left to do.
        text: what was done or is waited for, in words.
    """

    worked: bool
    finished: bool
    text: str


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
    """
    worked = False
    while True:
        outcome = step()
        if outcome.worked:
            worked = True
            reset()
        elif outcome.finished or once:
            return Outcome(worked=worked, finished=outcome.finished, text=outcome.text)
        else:
            wait()
