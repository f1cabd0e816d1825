"""View of a store as a site has it, and names under which this host remembers the other side.

A study is carried as a whole, with all its tracks. Keys are here as they are on the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from fedfs.exchange.read import Observer, open_tracks
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import TRACKS, split_track
from fedfs.roles.courier import needed
from fedfs.roles.courier.needed import FOR
from fedfs.store.base import ReadableStore

NO_KEY = layout.Key("", "")
"""Stands for what is no key of the protocol."""

_Choose = Callable[[StudyState, Collection[str], str, Collection[str]], list[str]]


class SiteView:
    """A store as a site sees it: all tracks of the study.

    Args:
        store: the store.
        site: the site.

    Raises:
        StudyError: it holds no study.
        StoreError: it cannot be read.
    """

    def __init__(self, store: ReadableStore, site: str) -> None:
        self._store = store
        self._site = site
        self._observers = open_tracks(store, site=site)

    def refresh(self) -> None:
        """Look at everything again."""
        for observer in self._observers.values():
            observer.refresh(everything=True)

    @property
    def charter(self) -> Charter:
        """The charter in force; what it says of versions is that of the first track."""
        return self.state.charter

    @property
    def state(self) -> StudyState:
        """Accepted messages of the first track, and of all that tracks share."""
        return next(iter(self._observers.values())).state

    @property
    def sizes(self) -> dict[str, int]:
        """Key -> bytes of all objects."""
        return {
            one.track.on_store(key): size
            for one in self._observers.values()
            for key, size in one.sizes.items()
        }

    @property
    def rejected(self) -> dict[str, str]:
        """Key -> why the object under it is not accepted."""
        return {
            one.track.on_store(key): why
            for one in self._observers.values()
            for key, why in one.state.rejected.items()
        }

    @property
    def named(self) -> set[str]:
        """Keys of all payloads that messages name."""
        return self._of_all(lambda one: one.state.payloads())

    @property
    def is_over(self) -> bool:
        """True once the study is closed and the site has scored all that it should."""
        return all(participation.is_over(o.state, [self._site]) for o in self._observers.values())

    def for_site(self, known: Collection[str]) -> list[str]:
        """See :func:`fedfs.roles.courier.needed.for_site`."""
        return self._chosen(needed.for_site, known)

    def from_site(self, known: Collection[str]) -> list[str]:
        """See :func:`fedfs.roles.courier.needed.from_site`."""
        return self._chosen(needed.from_site, known)

    def holds(self, direction: str) -> list[str]:
        """See :func:`fedfs.roles.courier.needed.holds`."""
        return sorted(
            self._of_all(lambda o: needed.holds(o.state, o.sizes.keys(), self._site, direction))
        )

    def implied(self) -> set[str]:
        """See :func:`fedfs.roles.courier.needed.implied`."""
        return self._of_all(lambda one: needed.implied(one.state, self._site))

    def missing(self, keys: Collection[str], direction: str) -> list[str]:
        """See :func:`fedfs.roles.courier.needed.missing`."""
        return sorted(
            self._of_all(lambda o: needed.missing(o.state, _within(o, keys), self._site, direction))
        )

    def superseded(self, keys: Collection[str]) -> set[str]:
        """See :func:`fedfs.roles.courier.needed.superseded`."""
        return self._of_all(
            lambda one: needed.superseded(one.state, _within(one, keys), self._site)
        )

    def keys_of(self, store: ReadableStore) -> set[str]:
        """Return the keys of this study's objects on another store, also if it has none yet."""
        own = layout.site_prefix(self._site)
        prefixes = [layout.FEDERATION, layout.AGGREGATOR, own]
        for observer in self._observers.values():
            behind = observer.track.prefix
            prefixes += [behind + layout.AGGREGATOR, behind + own]
        return {entry.key for prefix in prefixes for entry in store.list(prefix)}

    def _chosen(self, choose: _Choose, known: Collection[str]) -> list[str]:
        """Return the keys chosen on each track; those that tracks share come with the first."""
        chosen: dict[str, None] = {}
        for one in self._observers.values():
            keys = choose(one.state, one.sizes.keys(), self._site, _within(one, known))
            chosen.update(dict.fromkeys(map(one.track.on_store, keys)))
        return list(chosen)

    def _of_all(self, keys_on: Callable[[Observer], Iterable[str]]) -> set[str]:
        return {one.track.on_store(key) for one in self._observers.values() for key in keys_on(one)}


def in_order(keys: Iterable[str]) -> list[str]:
    """Return keys in the order in which they are published: what tracks share, then each track."""
    of_track: dict[str, list[str]] = {}
    for text in sorted(keys):
        track, within = split_track(text)
        of_track.setdefault(f"{TRACKS}{track}/" if track else "", []).append(within)
    return [
        behind + key
        for behind, inside in sorted(of_track.items())
        for key in needed.in_order(inside)
    ]


def _within(observer: Observer, keys: Collection[str]) -> set[str]:
    """Return keys as a track has them, of those that are its own or shared."""
    pairs = map(split_track, keys)
    return {key for track, key in pairs if track in (None, observer.track.name)}


def memory_of(site: str, direction: str) -> str:
    """Return the name under which this host remembers what the other side has."""
    return f"courier-{direction}-{site}"


def other(direction: str) -> str:
    """Return the direction back."""
    return needed.FROM if direction == FOR else FOR
