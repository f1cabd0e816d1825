"""``fedfs status`` of a study that trains nothing: each given model at each site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedfs.roles.reader.status import StudyStatus


def models_line(view: StudyStatus) -> str:
    """Return the models with their mean Dice at the sites that have scored them, as text."""
    parts = []
    for name, by_site in view.given_dice.items():
        known = [dice for dice in by_site.values() if dice is not None]
        mean = f" {sum(known) / len(known):.4f} ({_sites(known)})" if known else " -"
        parts.append(name + mean)
    return ", ".join(parts)


def _sites(known: Sequence[float]) -> str:
    return "one site" if len(known) == 1 else f"mean of {len(known)} sites"


def columns_of(view: StudyStatus) -> tuple[str, ...]:
    """Return the headings of the table of sites."""
    return ("site", "state", "cases", "doing", "last seen", *view.given_dice, "failures")


def rows_of(view: StudyStatus) -> list[tuple[object, ...]]:
    """Return a row for each site, with its mean Dice of each model."""
    return [
        (s.site, s.state, s.n_cases, s.activity, s.since, *_dice(view, s.site), s.failures or "")
        for s in view.sites
    ]


def _dice(view: StudyStatus, site: str) -> list[str]:
    found = (by_site.get(site) for by_site in view.given_dice.values())
    return ["-" if dice is None else f"{dice:.4f}" for dice in found]
