"""Decisions of a study that trains nothing: sites score the models that its charter gives.

Rules:
 * A site scores one given model after the other, in the charter's order. A site that is approved
   late does so too, also once the study is closed.
 * The aggregator closes the study when every site that takes part and is not away has scored all
   models, and as many sites as the charter asks for have done so. It makes no version.
"""

from fedfs.protocol import participation
from fedfs.protocol.actions import CloseStudy, Done, ScoreGiven, Wait
from fedfs.protocol.state import StudyState

VERSION = 0
"""The version that scores of given models and the end of such a study name."""


def decide_site(state: StudyState, site: str) -> ScoreGiven | Wait | Done:
    """Return what a site does next that takes part now."""
    unscored = participation.unscored(state, site)
    if unscored:
        return ScoreGiven(unscored[0])
    if state.finished is None:
        return Wait("the aggregator to close the study")
    return Done("finished: this site has scored all models")


def decide_aggregator(state: StudyState) -> CloseStudy | Wait | Done:
    """Return what the aggregator does next."""
    if state.finished is not None:
        return Done("finished: the study is closed")
    charter = state.charter
    missing = [s for s in participation.participants(state) if participation.unscored(state, s)]
    if missing:
        return Wait(f"the scores of {', '.join(missing)}")
    scored = sites_with_scores(state)
    if len(scored) < charter.min_sites:
        have = f"{len(scored)} of {charter.min_sites} sites have scored"
        return Wait(f"the coordinator to approve sites, or one to come back: {have}")
    return CloseStudy(VERSION)


def sites_with_scores(state: StudyState) -> list[str]:
    """Return the sites on the roster that have scored all models, also those that are away now."""
    sites = participation.believed_sites(state)
    return [site for site in sites if not participation.unscored(state, site)]
