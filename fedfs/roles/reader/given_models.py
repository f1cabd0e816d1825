"""A study that trains nothing, for people: its models, who is waited for, scores at sites. Pure."""

from collections.abc import Iterator, Mapping

from fedfs.protocol import layout, participation
from fedfs.protocol.decide_evaluation import VERSION
from fedfs.protocol.messages import Charter, EvaluationMessage, GivenModel
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.units import format_count, format_size

NOT_TRAINED_HERE = "no model is trained in this study, so that none is kept apart"
"""Reason why all cases of a site are scored."""


def scores_of(state: StudyState, model: str) -> dict[str, EvaluationMessage]:
    """Return site -> scores of a given model there, by site."""
    variant = layout.score_of(model)
    found = {
        site: score
        for (site, version, of), score in state.evaluations.items()
        if (version, of) == (VERSION, variant)
    }
    return dict(sorted(found.items()))


def mean_dice_of(state: StudyState) -> dict[str, dict[str, float | None]]:
    """Return model -> site -> mean Dice, of the sites that have scored any model."""
    scores = {model.name: scores_of(state, model.name) for model in state.charter.given}
    sites = sorted({site for by_site in scores.values() for site in by_site})
    return {
        name: {site: by_site[site].mean_dice if site in by_site else None for site in sites}
        for name, by_site in scores.items()
    }


def progress_of(state: StudyState) -> tuple[str, tuple[str, ...], str]:
    """Return the phase, who is waited for, and since when, once enough sites take part."""
    sites = participation.participants(state)
    missing = tuple(site for site in sites if participation.unscored(state, site))
    if state.finished is not None:
        return "finished", missing, state.finished.created_at if missing else ""
    return "evaluating", missing or ("aggregator",), state.charter.created_at


def describe_models(charter: Charter) -> Iterator[tuple[str, str]]:
    """Yield name -> text of each given model."""
    for model in charter.given:
        yield model.name, _describe(model)


def _describe(model: GivenModel) -> str:
    folds = ", ".join(one.fold for one in model.folds)
    plural = "s" if len(model.folds) > 1 else ""
    size = sum(one.payload.tensors_size for one in model.folds)
    plans = "encrypted" if model.sealed else _planned(model.plans)
    return (
        f"{model.configuration}, {model.trainer}, fold{plural} {folds}, {format_size(size)}; "
        f"plans {plans}"
    )


def _planned(plans: Mapping[str, object]) -> str:
    return f"{plans.get('plans_name')} of {plans.get('dataset_name')}"


def facts_of(state: StudyState) -> dict[str, str]:
    """Return name -> text on what is evaluated, for a page."""
    n_sites = len(participation.believed_sites(state))
    return {
        **{f"Model {name}": text for name, text in describe_models(state.charter)},
        "Cases": f"all of {format_count(n_sites, 'site')}: {NOT_TRAINED_HERE}",
    }
