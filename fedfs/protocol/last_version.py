"""Decisions at the end: of a site that has finished the last version, and once all tracks are done.

Rules:
 * What the charter asks for comes first, and then what the site itself wants.
 * Where the charter asks for it, a site validates averages of versions; publishes its model, and
   scores those of the sites that made the last version. Where it wants to compare, it trains alone;
   where it wants a personal model, it fine-tunes the last version.
 * The ensemble of a study is scored once it is closed.
 * Nobody is waited for before all that this site can do alone is done.
"""

from collections.abc import Mapping

from fedfs.protocol import actions, ensemble
from fedfs.protocol.actions import Done, SiteAction, Wait
from fedfs.protocol.participation import has_scored, last_weights, models_to_score, participants
from fedfs.protocol.state import StudyState


def decide_after_last(state: StudyState, site: str, *, alone: bool, personal: bool) -> SiteAction:
    """Return what a site does once it has the final model.

    Args:
        state: what the site accepted from the store; the last version is validated in full.
        site: its name.
        alone: whether the site also wants a model of its own data alone.
        personal: whether the site lacks a personal model that it wants of the last version, or its
            published scores.
    """
    version = state.newest
    for variant in state.charter.averages:
        if (site, version, variant) not in state.evaluations:
            return actions.ScoreAverage(version, variant)
    if state.charter.cross_evaluates and site not in state.site_models:
        return actions.PublishModel(version)
    unscored = [of for of in state.site_models if not has_scored(state, site, of)]
    if unscored and state.charter.cross_evaluates:
        return actions.CrossEvaluate(version, min(unscored))
    if alone and (site, version, "local") not in state.evaluations:
        return actions.TrainAlone(version)
    if personal:
        return actions.FineTune(version)
    missing = [of for of in models_to_score(state, site) if of not in state.site_models]
    if missing:
        return Wait(
            f"the models of {', '.join(missing)}, to score them; the coordinator may pause a site "
            "that will not come back"
        )
    if not state.finished:
        return Wait("the aggregator to close the study")
    return ensemble.decide_site(state, site) or Done(
        f"finished: version {version} is the final model"
    )


def decide_site_after_tracks(
    state: StudyState, site: str, tracks: Mapping[str, StudyState]
) -> actions.CrossValidate | Done:
    """Return what ``site`` does once all tracks are done, from what is common to all of them."""
    if site in state.cross_validations:
        return Done("has scored all models")
    return actions.CrossValidate(last_weights(tracks))


def decide_aggregator_after_tracks(
    state: StudyState, tracks: Mapping[str, StudyState]
) -> actions.ChooseConfiguration | Wait | Done:
    """Return what the aggregator does once all tracks are done: see the site's counterpart.

    With secure scores the totals of all tracks are there then, and nothing else is waited for.
    """
    if state.choice is not None:
        return Done(f"chose {state.choice.words}")
    if not state.charter.cross_validates:
        return actions.ChooseConfiguration()
    scoring = set.intersection(*(set(participants(track)) for track in tracks.values()))
    missing = sorted(scoring - set(state.cross_validations))
    if missing:
        return Wait(f"the cross-validation of {', '.join(missing)}")
    if not scoring and not state.cross_validations:
        return Wait("the cross-validation of a site: all are paused or have left")
    return actions.ChooseConfiguration()
