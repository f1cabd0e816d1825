"""The task of a round at a site, as the charter says it."""

from collections.abc import Mapping

from fedfs.aggregation import strategies
from fedfs.exchange.payloads import update_encoding
from fedfs.learner import PartialTraining, RoundTask
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.tensors.encodings.randk import RandK


def round_task(
    version: int,
    state: StudyState,
    *,
    private: frozenset[str],
    frozen: frozenset[str],
    shared: Mapping[str, str],
    local_minutes: float | None,
) -> RoundTask:
    """Return the training of one round.

    Args:
        version: that it begins from.
        state: accepted messages.
        private: own names of the tensors of which the site has its own values.
        frozen: those of the tensors that the study leaves as they are.
        shared: own name -> canonical name of the tensors of the site's updates.
        local_minutes: as of the charter, where this site wants less.
    """
    charter, schedule = state.charter, state.charter.schedule
    minutes = [m for m in (schedule.local_minutes, local_minutes) if m is not None]
    return RoundTask(
        version=version,
        weights_sha256=state.models[version].weights_sha256,
        first_epoch=version * schedule.local_epochs,
        n_epochs=schedule.local_epochs,
        total_epochs=schedule.rounds * schedule.local_epochs,
        iterations_per_epoch=schedule.iterations_per_epoch,
        val_iterations_per_epoch=schedule.val_iterations_per_epoch,
        max_seconds=60 * min(minutes) if minutes else None,
        proximal_mu=strategies.proximal_mu(charter.strategy.name, charter.strategy.options),
        private=private,
        frozen=frozen,
        partial=_partial(charter, shared),
        learning_rate=schedule.learning_rate,
    )


def _partial(charter: Charter, shared: Mapping[str, str]) -> PartialTraining | None:
    """Return which values are trained, where updates carry only some: no others are."""
    encoding = update_encoding(charter)
    if not shared or not isinstance(encoding, RandK):
        return None
    return PartialTraining(shared, encoding.fraction)
