"""The message that closes a study on one track, and a sentence for the log."""

from dataclasses import replace

from fedfs.exchange import secure_scores
from fedfs.protocol import decide_evaluation, ensemble, layout
from fedfs.protocol.messages import FinishedMessage
from fedfs.protocol.state import StudyState


def closing_message(version: int, state: StudyState) -> tuple[FinishedMessage, str]:
    """Return what says that ``version`` is the last, and a sentence for the log."""
    away = tuple(site for site in state.charter.active_sites if state.is_away(site))
    end = FinishedMessage(key=layout.FINISHED, version=version, weights_sha256="", away=away)
    if state.charter.evaluates:
        sites = decide_evaluation.sites_with_scores(state)
        scores = [score.key for score in state.evaluations.values() if score.site in sites]
        end = replace(end, scores={key: state.digests[key] for key in sorted(scores)})
        return end, f"closed the study with the scores of {', '.join(sites)}"
    weights, members = state.models[version].weights_sha256, ensemble.members(state)
    of = f" and the ensemble of {', '.join(members)}" if members else ""
    end = replace(end, weights_sha256=weights, members=members)
    totals = secure_scores.totals(state, version + 1)
    if totals:
        sha256 = state.digests[layout.mask_sum(version + 1)]
        end = replace(end, totals=totals, sum_sha256=sha256)
    return end, f"closed the study with version {version}{of}"
