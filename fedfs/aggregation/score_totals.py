"""Totals of scores over sites: numbers of one site, masked, and what their sum says.

A site's numbers of one model are ``[n_cases, mean, n_mean, class 1, n_1, class 2, n_2, ...]``: sums
of Dice over its cases, each with the number of cases in which it is defined. ``mean`` is the sum of
the site's mean over classes, which counts for all of its cases.

Rules:
 * Sums are whole numbers of 1/16384, so that a total is exact but for the rounding of each part.
 * Everything is modulo 2**32. A total of at most 262,143 cases fits; a site cannot know how many
   the others have, so that the total says whether it does.
 * A wrong mask, or a site that makes numbers up, gives a total that cannot be: of more cases than
   the sites have, or better than perfect.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedfs.errors import TensorError
from fedfs.learner import EvaluationResult
from fedfs.protocol.messages import DiceSum, ScoreTotal
from fedfs.trust.masks import Mask, MaskContext, mask_stream

_SCALE = 2**14
MAX_CASES = 2**18 - 1
"""Most cases of a total."""


def numbers_of(result: EvaluationResult, classes: Sequence[str]) -> Mask:
    """Return a site's numbers of one model, not masked.

    Args:
        result: the model's scores at the site.
        classes: of the study, in the order of all sites.
    """
    mean = result.mean_dice
    sums = [DiceSum(0.0, 0) if mean is None else DiceSum(mean * result.n_cases, result.n_cases)]
    sums += [_sum_of(result, name) for name in classes]
    numbers = [result.n_cases]
    for one in sums:
        numbers += [min(round(one.total * _SCALE), one.n * _SCALE), one.n]
    return np.asarray(numbers, dtype=np.uint32)


def _sum_of(result: EvaluationResult, name: str) -> DiceSum:
    """Return the sum of a class's Dice over cases; of pseudo Dice, as if each case had the mean."""
    if result.by_case:
        known = [of[name]["dice"] for of in result.by_case.values() if "dice" in of.get(name, {})]
        return DiceSum(math.fsum(known), len(known))
    score = result.classes.get(name)
    if score is None or score.dice is None:
        return DiceSum(0.0, 0)
    return DiceSum(score.dice * result.n_cases, result.n_cases)


def masks_of(parts: Iterable[tuple[bytes, MaskContext]], variant: str, n: int) -> Mask:
    """Return the sum of masks of scores, modulo 2**32.

    Args:
        parts: seed and context of each site's evaluation.
        variant: that was scored.
        n: how many numbers there are.
    """
    total = np.zeros(n, dtype=np.uint32)
    for seed, context in parts:
        total += mask_stream(seed, context, f"scores/{variant}").read(n)
    return total


def total_of(
    masked: Mapping[str, Mask], masks: Mask, classes: Sequence[str], n_cases: int
) -> ScoreTotal:
    """Return the total of masked numbers.

    Args:
        masked: site -> its numbers under their mask.
        masks: the sum of these masks.
        classes: of the study, in the order of all sites.
        n_cases: that the sites have announced.

    Raises:
        TensorError: no scores of these sites add up to it.
    """
    numbers = -masks
    for values in masked.values():
        numbers = numbers + values
    found, *rest = (int(number) for number in numbers)
    if n_cases > MAX_CASES:
        text = f"is of sites with {n_cases} cases, and one of more than {MAX_CASES} does not fit"
        raise TensorError(text, about="the total of scores")
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    if found > n_cases or any(n > found or total > n * _SCALE for total, n in pairs):
        text = "cannot be: a site has made up scores, or the sum of masks is not that of the sites"
        raise TensorError(text, about="the total of scores")
    mean, *by_class = (DiceSum(total / _SCALE, n) for total, n in pairs)
    return ScoreTotal(
        sites=tuple(sorted(masked)),
        n_cases=found,
        mean=mean,
        classes={name: one for name, one in zip(classes, by_class, strict=True) if one.n},
    )
