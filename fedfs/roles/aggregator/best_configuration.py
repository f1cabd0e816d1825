"""The aggregator chooses the best configuration once all tracks are done."""

from collections.abc import Mapping

from fedfs.exchange.choose_configuration import (
    choose_by_totals,
    choose_configuration,
    scored_sites,
)
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.protocol.actions import ChooseConfiguration, Done, Wait
from fedfs.protocol.last_version import decide_aggregator_after_tracks
from fedfs.protocol.state import StudyState
from fedfs.roles.step import AfterTracks
from fedfs.trust import key_validity


class AggregatorChoice(AfterTracks[ChooseConfiguration]):
    """Chooses once all sites that take part have scored, or of the tracks' totals."""

    def __init__(
        self,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
    ) -> None:
        super().__init__("the aggregator", observer, tracks, publisher, status)

    def decide(self, state: StudyState) -> ChooseConfiguration | Wait | Done:
        """See :func:`fedfs.protocol.last_version.decide_aggregator_after_tracks`."""
        return decide_aggregator_after_tracks(state, self._tracks)

    def keys(self, state: StudyState, action: ChooseConfiguration) -> list[str]:  # noqa: ARG002  see Role
        """Return the newest key of the aggregator: the choice is about no version."""
        return [key_validity.of_aggregator(state.charters)[-1].public_key]

    def act(self, action: ChooseConfiguration, state: StudyState) -> str:  # noqa: ARG002  see Role
        """Choose, and publish the choice.

        Raises:
            StudyError: what the sites scored does not fit together.
        """
        if state.charter.cross_validates:
            choice = choose_configuration(state, scored_sites(state, self._tracks))
        else:
            choice = choose_by_totals(state, self._tracks)
        chosen = self._publisher.publish(choice)
        return f"chose {chosen.words}"
