"""Open a study for reading: find it on a store, and look at its tracks."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fedfs.errors import ObjectNotFoundError, StudyError
from fedfs.exchange.observer import MAX_ENVELOPE_BYTES, Observer
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, chosen_tracks
from fedfs.protocol.track_place import TrackPlace
from fedfs.store.base import ReadableStore
from fedfs.store.prefix import TrackReader
from fedfs.trust.recipients import Vault
from fedfs.trust.verify import TrustedView


def open_study(
    store: ReadableStore,
    *,
    site: str | None = None,
    skip: Iterable[str] = (),
    cache: Callable[[str], Path] | None = None,
    vault: Vault | None = None,
    scores: bool = False,
    track: str | None = None,
    first: tuple[Charter, bytes] | None = None,
    view: type[TrustedView] = TrustedView,
) -> Observer:
    """Find the study on a store and return an observer of one track that has looked once.

    Every track shows what the whole study has in common: charters, joins, fingerprints, the choice.

    Args:
        store: where to look.
        site: the site that looks; None sees all; see :class:`Observer`.
        skip: kinds of messages that the caller has no use for.
        cache: the study's id -> folder for copies of messages; see :class:`Observer`.
        vault: what this host can decrypt; None for nothing.
        scores: also follow the scores of all sites; see :class:`Observer`.
        track: the track to look at; None for the first one.
        first: the study's first charter and its bytes, where they have been read already.
        view: verifies what is read.

    Raises:
        StudyError: the store holds no study that can be trusted.
        UserError: the study has no such track.
        RejectedError: it holds one, written by a newer major version of the protocol.
        StoreError: the store cannot be read.
    """
    charter, data = first or _first_charter(store)
    if track is not None:
        chosen_tracks(charter, [track])
    place = TrackPlace.of(charter, track)
    copies = None if cache is None else cache(charter.study)
    observer = Observer(
        TrackReader(store, place),
        view(data, keys=vault, track=place),
        site=site,
        skip=skip,
        cache=copies / place.name if copies is not None else None,
        vault=vault,
        scores=scores,
    )
    observer.refresh()
    if site is not None and observer.state.charter.shares_models:
        observer.refresh(everything=True)  # now that it is known whose models there may be
    return observer


def open_tracks(
    store: ReadableStore, *, only: Sequence[str] = (), **options: Any
) -> dict[str, Observer]:
    """Return observers of the tracks of a study, by name.

    Args:
        store: where the study is.
        only: names of the tracks to look at; none for all.
        options: as of :func:`open_study`.

    Raises:
        FedfsError: see :func:`open_study`.
    """
    first = _first_charter(store)
    return {
        name: open_study(store, track=name, first=first, **options)
        for name in chosen_tracks(first[0], only)
    }


def _first_charter(store: ReadableStore) -> tuple[Charter, bytes]:
    """Return the charter that a study began with, and the bytes that hold it.

    Raises:
        StudyError, RejectedError, StoreError: see :func:`open_study`.
    """
    try:
        data = store.get(layout.charter(1), max_bytes=MAX_ENVELOPE_BYTES)
    except ObjectNotFoundError as error:
        raise StudyError(
            f"{store.url} holds no federation.",
            hint="check the path, and that its share is mounted; fedfs init STORE begins a study",
        ) from error
    return TrustedView(data).state.charter, data
