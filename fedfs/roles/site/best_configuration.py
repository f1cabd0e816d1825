"""After all tracks: sites score configurations, ensembles and postprocessing; one is chosen.

Both are workers of :class:`~fedfs.roles.tracks.Tracks` which come after all tracks of their
process. What they publish is the study's and not a track's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedfs.errors import ObjectExistsError
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import Observer
from fedfs.learner import CrossValidated, OnProgress
from fedfs.protocol import layout
from fedfs.protocol.messages import CrossValidation
from fedfs.roles.loop import Outcome
from fedfs.roles.step import AfterTracks
from fedfs.trust import key_validity


class CrossValidator(Protocol):
    """Scores the final models at a site, as :mod:`fedfs.nnunet.score.cross_validation` does."""

    def __call__(self, on_progress: OnProgress) -> CrossValidated:
        """Return the sums of Dice over own validation cases.

        Raises:
            TrainingError: it failed.
        """


class SiteChoice(AfterTracks):
    """Publishes how the models score at a site.

    Args:
        site: the site.
        observer: of what is common to all tracks.
        tracks: observers of the tracks.
        publisher: signs with the site's key, on no track.
        status: takes the progress.
        validate: scores.
    """

    def __init__(
        self,
        site: str,
        *,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
        validate: CrossValidator,
    ) -> None:
        super().__init__(observer, tracks, publisher, status)
        self._site = site
        self._validate = validate

    def step(self) -> Outcome:
        """Score the models, unless that is done.

        Raises:
            TrainingError: it failed.
            StoreError: the store refuses.
        """
        state = self._observer.refresh(everything=True)
        if self._site in state.cross_validations:
            self._status.say("finished")
            return Outcome(worked=False, finished=True, text="has scored all models")
        key = key_validity.in_force(key_validity.of_site(state.charters, self._site), 0)
        self._publisher.use(key)
        self.on_work()
        self._status.say("cross-validation")
        found = self._validate(self._status.progress)
        try:
            self._publisher.message(
                CrossValidation,
                layout.cross_validation(self._site),
                site=self._site,
                n_cases=found.n_cases,
                weights={
                    name: one.state.models[one.state.newest].weights_sha256
                    for name, one in self._tracks.items()
                },
                scores=found.scores,
            )
        except ObjectExistsError as error:
            self._observer.refuse_foreign(error, writer="this site")
        return Outcome(
            worked=True, finished=False, text=f"scored all models on {found.n_cases} cases"
        )
