"""Audit of the end of a study: scores of given models, and members of an ensemble."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedfs.errors import ObjectNotFoundError, RejectedError, SealedError, StudyError
from fedfs.exchange.ensemble_member import write_member
from fedfs.exchange.observer import Observer
from fedfs.protocol import layout
from fedfs.protocol.ensemble import BASE
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.store.local_files import file_sha256


def verify_scores(observer: Observer) -> Iterator[Finding]:
    """Compare the scores that a study was closed with, which trains nothing, with those there."""
    state = observer.state
    if state.finished is None:
        yield Finding("scores", OK, f"{len(state.evaluations)} so far")
        return
    found = state.finished.scores
    yield from _exchanged(observer, found)
    same = sum(state.digests.get(text) == sha256 for text, sha256 in found.items())
    yield Finding("scores", OK, f"{same} of {len(found)} are those the study closed with")


def verify_members(observer: Observer, folder: Path) -> Iterator[Finding]:
    """Make each member of an ensemble again from the update of its site, and compare.

    Args:
        observer: has looked at all that the track shows.
        folder: for payloads.

    Raises:
        StoreError: the store cannot be read.
    """
    state = observer.state
    members = state.finished.members if state.finished is not None else {}
    yield from _exchanged(observer, {layout.site_model(s): h for s, h in members.items()})
    for site in sorted(members):
        if site in state.site_models and (site, BASE) in state.updates:
            yield _member(site, state, observer, folder)


def _member(site: str, state: StudyState, observer: Observer, folder: Path) -> Finding:
    subject, payload = f"member {site}", state.site_models[site].payload
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "member.safetensors"
        try:
            write_member(site, state, observer.store, observer.vault, path)
        except ObjectNotFoundError as error:
            text = f"cannot be made again, as old payloads are gone: {error}"
            return Finding(subject, NOTE, text)
        except (SealedError, StudyError):
            text = "cannot be made again here: this host cannot decrypt its update"
            return Finding(subject, NOTE, text)
        except RejectedError as error:
            return Finding(subject, PROBLEM, f"cannot be made again: {error.reason}")
        if file_sha256(path) != payload.tensors_sha256:
            return Finding(subject, PROBLEM, f"is not what the update of {site} says")
    return Finding(subject, OK, f"made again from the update of {site}: bit by bit the same")


def _exchanged(observer: Observer, named: Mapping[str, str]) -> Iterator[Finding]:
    """Yield messages that are not those which the closing message names."""
    digests = observer.state.digests
    for text, sha256 in sorted(named.items()):
        key = layout.parse(text)
        is_seen = key is not None and observer.site in (None, key.site)
        if is_seen and digests.get(text) != sha256:
            fault = "is not what" if text in digests else "is not there, and is what"
            yield Finding(text, PROBLEM, f"{fault} the aggregator closed the study with")
