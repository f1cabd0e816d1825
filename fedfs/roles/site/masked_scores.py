"""A site's scores under a mask, where the charter asks for secure scores.

Each try to publish draws another seed, as for updates (:mod:`fedfs.roles.site.masked_update`).
"""

import dataclasses

from fedfs.aggregation.score_totals import masks_of, numbers_of
from fedfs.learner import EvaluationResult
from fedfs.protocol import score_rules
from fedfs.protocol.messages import EvaluationMessage, TrackCharter
from fedfs.roles.site.masked_update import draw_seed
from fedfs.trust.masks import MaskContext, as_text


def mask_scores(
    message: EvaluationMessage, result: EvaluationResult, charter: TrackCharter
) -> EvaluationMessage:
    """Return an evaluation that shows nothing without the sum of several masks.

    Args:
        message: the evaluation, of a variant that totals are made of.
        result: its scores.
        charter: in force.

    Raises:
        StudyError: there is no helper.
    """
    drawn = draw_seed(charter)
    context = MaskContext.of_update(charter, message.site, message.version)
    n = score_rules.n_values(charter)
    numbers = numbers_of(result, score_rules.class_names(charter))
    return dataclasses.replace(
        message.without_scores(suppressed=False),
        masked=as_text(numbers + masks_of([(drawn.seed, context)], message.variant, n)),
        seed=drawn.sealed,
        seed_for=drawn.sealed_for,
    )
