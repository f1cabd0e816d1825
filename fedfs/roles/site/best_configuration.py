"""After all tracks: sites score configurations, ensembles and postprocessing; one is chosen.

Both are workers of :class:`~fedfs.roles.tracks.Tracks` which come after all tracks of their process. What
they publish is the study's and not a track's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fedfs.aggregation import best_configuration
from fedfs.errors import ObjectExistsError
from fedfs.exchange.publish import Publisher, StatusReporter
from fedfs.exchange.read import Observer
from fedfs.learner import CrossValidated, Report
from fedfs.nnunet.data.dataset import has_regions, ordered
from fedfs.nnunet.plan.planner import dataset_json
from fedfs.nnunet.score.summary import class_names
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Choice, CrossValidation
from fedfs.protocol.state import newest_charter
from fedfs.roles.loop import Outcome
from fedfs.trust import key_validity

NAME = "choice"
"""Of the worker, where tracks have theirs."""


class CrossValidator(Protocol):
    """Scores the final models at a site; :mod:`fedfs.nnunet.score.cross_validation` does with nnU-Net."""

    def __call__(self, report: Report) -> CrossValidated:
        """Return the sums of Dice over own validation cases.

        Raises:
            TrainingError: it failed.
        """


class _AfterTracks:
    """A worker behind all tracks, which keeps nothing in memory between two steps."""

    version = -1

    def __init__(
        self,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
    ) -> None:
        self._observer = observer
        self._all_tracks = tracks
        publisher.on_message = observer.note
        self._publisher = publisher
        self._status = status
        self.on_work: Callable[[], None] = lambda: None

    @property
    def _tracks(self) -> Mapping[str, Observer]:
        return _of_which_something_becomes(self._all_tracks)

    def rest(self) -> None:
        """See :meth:`fedfs.roles.tracks.Worker.rest`."""


class SiteChoice(_AfterTracks):
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


class AggregatorChoice(_AfterTracks):
    """Chooses once all sites that take part have scored.

    Args:
        observer: of what is common to all tracks.
        tracks: observers of the tracks.
        publisher: signs with the aggregator's key, on no track.
        status: tells others what is waited for.
    """

    def step(self) -> Outcome:
        """Choose, as soon as everybody has scored.

        Raises:
            StudyError: what the sites scored does not fit together.
            StoreError: the store refuses.
        """
        state = self._observer.refresh(everything=True)
        if state.choice is not None:
            self._status.say("finished")
            return Outcome(worked=False, finished=True, text=f"chose {state.choice.words}")
        missing = [site for site in self._scoring() if site not in state.cross_validations]
        if missing:
            reason = f"the cross-validation of {', '.join(missing)}"
            self._status.say("wait", waiting_for=reason)
            return Outcome(worked=False, finished=False, text=f"waiting for {reason}")
        self._publisher.use(key_validity.in_force(key_validity.of_aggregator(state.charters), 0))
        self.on_work()
        fields = decide(self._observer, self._tracks)
        try:
            made = self._publisher.message(Choice, layout.choice(), **fields)
        except ObjectExistsError as error:
            self._observer.refuse_foreign(error, writer="the aggregator")
            return Outcome(worked=True, finished=False, text="another aggregator was faster")
        return Outcome(worked=True, finished=False, text=f"chose {made.words}")

    def _scoring(self) -> list[str]:
        """Return the sites that take part in all tracks and are not away."""
        of_each = [set(participation.participants(one.state)) for one in self._tracks.values()]
        return sorted(set.intersection(*of_each))


def _of_which_something_becomes(tracks: Mapping[str, Observer]) -> dict[str, Observer]:
    return {name: one for name, one in tracks.items() if not participation.is_void(one.state)}


def decide(observer: Observer, tracks: Mapping[str, Observer]) -> dict[str, Any]:
    """Return the fields of the choice that follows from what the sites have scored.

    Only scores of the last versions count.

    Raises:
        StudyError: the sites scored different things, or nothing.
    """
    state, charter = observer.state, newest_charter(observer.state)
    tracks = _of_which_something_becomes(tracks)
    content = ordered(dataset_json(charter))
    last = {name: one.state.models[one.state.newest].weights_sha256 for name, one in tracks.items()}
    said = {
        site: message
        for site, message in sorted(state.cross_validations.items())
        if dict(message.weights) == last and message.n_cases
    }
    chosen = best_configuration.choose(
        {site: message.scores for site, message in said.items()},
        sum(message.n_cases for message in said.values()),
        configurations=participation.planned_configurations(state),
        classes=list(class_names(content).values()),
        overlap=has_regions(content),
    )
    fields = dataclasses.asdict(chosen)
    return {
        **fields,
        "dice": {name: _number(value) for name, value in chosen.dice.items()},
        "classes": {name: tuple(map(_number, pair)) for name, pair in chosen.classes.items()},
        "folds": charter.folds,
        "sites": {site: state.digests[message.key] for site, message in said.items()},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
