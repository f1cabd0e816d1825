"""Decisions about an ensemble: the models of one round, whose probabilities are averaged.

Rules:
 * Members are the sites whose update went into the only version: each publishes the model that its
   update says. The aggregator waits for the models of those that are not away, and names the
   members as it closes the study: they are the same everywhere, whoever goes later.
 * Every site that has the last version scores the ensemble of these members on its own cases.
"""

from fedfs.protocol import actions
from fedfs.protocol.actions import Wait
from fedfs.protocol.participation import lacks_ensemble_score, participants
from fedfs.protocol.state import StudyState

BASE = 0
"""The version that members are trained from."""


def owes_model(state: StudyState, site: str) -> bool:
    """Return whether a site has to publish the model that its update says."""
    has_trained = (site, BASE) in state.updates
    return state.charter.ensemble and has_trained and site not in state.site_models


def decide_site(state: StudyState, site: str) -> actions.ScoreEnsemble | Wait | None:
    """Return what a site does with the ensemble of a closed study; None for nothing."""
    if state.finished is None or not lacks_ensemble_score(state, site):
        return None
    missing = sorted(state.finished.members.keys() - state.site_models.keys())
    if missing:
        return Wait(f"the models of {', '.join(missing)}, which the ensemble is made of")
    return actions.ScoreEnsemble(state.finished.version)


def awaited_models(state: StudyState) -> list[str]:
    """Return the sites whose models the aggregator waits for before it closes the study."""
    if not state.charter.ensemble:
        return []
    present = participants(state)
    return [s for s in _contributors(state) if s in present and s not in state.site_models]


def members(state: StudyState) -> dict[str, str]:
    """Return site -> hash of its site-model, of those that an ensemble has when it is closed."""
    if not state.charter.ensemble:
        return {}
    models = state.site_models
    return {s: state.digests[models[s].key] for s in _contributors(state) if s in models}


def _contributors(state: StudyState) -> list[str]:
    record = state.rounds.get(state.newest)
    return sorted(update.site for update in record.updates) if record is not None else []
