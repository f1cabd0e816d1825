"""Audit of the choice of a configuration: it is made again from the scores that it names."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fedfs.errors import StudyError
from fedfs.exchange.choose_configuration import (
    choose_by_totals,
    choose_configuration,
    scored_sites,
)
from fedfs.exchange.observer import Observer
from fedfs.protocol import layout, participation
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding


def verify_choice(observer: Observer, tracks: Mapping[str, Observer]) -> Iterator[Finding]:
    """Choose the configuration again, and yield how that compares with the choice made.

    Args:
        observer: of what is common to all tracks.
        tracks: observers of the tracks.

    Raises:
        StoreError: the store cannot be read.
    """
    state = observer.refresh(everything=True)
    choice, key = state.choice, layout.choice()
    if choice is None:
        return
    active = participation.active_tracks({name: one.state for name, one in tracks.items()})
    by_totals = not state.charter.cross_validates
    scored = [] if by_totals else scored_sites(state, active)
    for site, sha256 in choice.sites.items():
        if site not in scored or state.digests[layout.cross_validation(site)] != sha256:
            yield Finding(key, PROBLEM, f"counts scores of {site} that are not there")
            return
    if later := sorted(set(scored) - set(choice.sites)):
        yield Finding(key, NOTE, f"was made without {', '.join(later)}, whose scores are there now")
    try:
        if by_totals:
            again = choose_by_totals(state, active)
        else:
            again = choose_configuration(state, list(choice.sites))
    except StudyError as error:
        yield Finding(key, PROBLEM, f"cannot be made again: {error}")
        return
    stamped = replace(again, study=choice.study, created_at=choice.created_at, extra=choice.extra)
    differs = [name for name, value in vars(stamped).items() if getattr(choice, name) != value]
    if differs:
        yield Finding(key, PROBLEM, f"made again, it has another {differs[0]}")
    else:
        source = "the totals of all tracks" if by_totals else f"{len(choice.sites)} sites"
        yield Finding(key, OK, f"made again from {source}: the same")
