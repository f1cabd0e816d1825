"""After all tracks: sites score configurations, ensembles and postprocessing; one is chosen.

Both are workers of :class:`~fedfs.roles.tracks.Tracks` which come after all tracks of their
process. What they publish is the study's and not a track's.
"""

from collections.abc import Callable, Mapping

from fedfs.aggregation.best_configuration import CrossValidated
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.learner import OnProgress
from fedfs.protocol import layout
from fedfs.protocol.actions import CrossValidate, Done
from fedfs.protocol.last_version import decide_site_after_tracks
from fedfs.protocol.messages import CrossValidation
from fedfs.protocol.state import StudyState
from fedfs.roles.step import AfterTracks
from fedfs.trust import key_validity


class SiteChoice(AfterTracks[CrossValidate]):
    """Publishes how the models score at a site.

    Args:
        site: the site.
        observer, tracks, publisher, status: as of a role behind all tracks.
        validate: returns the sums of Dice over own validation cases, as
            :mod:`fedfs.nnunet.score.cross_validation` does.
    """

    def __init__(
        self,
        site: str,
        *,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
        validate: Callable[[OnProgress], CrossValidated],
    ) -> None:
        super().__init__(f"site {site!r}", observer, tracks, publisher, status)
        self._site = site
        self._validate = validate

    def decide(self, state: StudyState) -> CrossValidate | Done:
        """See :func:`fedfs.protocol.last_version.decide_site_after_tracks`."""
        return decide_site_after_tracks(state, self._site, self._tracks)

    def keys(self, state: StudyState, action: CrossValidate) -> list[str]:  # noqa: ARG002  see Role
        """Return the keys of this site, the newest first: the scores are about no version."""
        tenures = key_validity.of_site(state.charters, self._site)
        return [tenure.public_key for tenure in reversed(tenures)]

    def act(self, action: CrossValidate, state: StudyState) -> str:  # noqa: ARG002  see Role
        """Score the models and publish the sums of Dice.

        Raises:
            TrainingError: it failed.
        """
        self._status.say("cross-validation")
        scored = self._validate(self._status.progress)
        self._publisher.publish(
            CrossValidation(
                key=layout.cross_validation(self._site),
                site=self._site,
                n_cases=scored.n_cases,
                weights=action.weights,
                scores=scored.scores,
            )
        )
        return f"scored all models on {scored.n_cases} cases"
