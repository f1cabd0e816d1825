"""Work of a site on models that parties of a study share: its own, other sites', given ones."""

from collections.abc import Callable

from fedfs.learner import Learner
from fedfs.protocol import actions
from fedfs.protocol.state import StudyState
from fedfs.roles.site.announcement import require_cases
from fedfs.roles.site.network import SiteNetworks
from fedfs.roles.site.scoring import Scoring

SharedModelAction = (
    actions.PublishModel | actions.CrossEvaluate | actions.ScoreGiven | actions.ScoreEnsemble
)


def act_on_shared_models(
    action: SharedModelAction,
    state: StudyState,
    *,
    scoring: Scoring,
    networks: SiteNetworks,
    learner: Learner,
    say: Callable[[str], None],
) -> str:
    """Publish a model, or score one, and return a sentence for the log.

    Args:
        action: to carry out.
        state: accepted messages.
        scoring: publishes.
        networks: of this site.
        learner: knows the site's data.
        say: tells the step of the status.
    """
    match action:
        case actions.PublishModel(version):
            say("publish model")
            if state.charter.ensemble:
                return scoring.publish_member(state)
            return scoring.publish_model(networks.load(version, state), state.charter)
        case actions.CrossEvaluate(version, of):
            say("score others")
            return scoring.score_other(state.site_models[of], version)
        case actions.ScoreEnsemble(version):
            say("score ensemble")
            names = sorted(state.finished.members) if state.finished is not None else []
            return scoring.score_ensemble([state.site_models[name] for name in names], version)
        case actions.ScoreGiven(name):
            say("score models")
            require_cases(learner.dataset_facts()["n_cases"], state.charter, "scores")
            return scoring.score_given(name, state.charter)
