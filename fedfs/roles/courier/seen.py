"""View of a store as a site or the helper has it, and the memory of what the other side has.

A study is carried as a whole, with all its tracks. Keys are here as they are on the store.
"""

from collections.abc import Callable, Collection, Iterable

from fedfs.exchange.observer import Observer
from fedfs.exchange.read import open_tracks
from fedfs.protocol import layout, participation
from fedfs.protocol.areas import named_by_request
from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import TRACKS, split_track
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.courier import needed
from fedfs.roles.courier.needed import TrackContent
from fedfs.roles.courier.needed_by_helper import HelperContent
from fedfs.store.base import ReadableStore


class SiteView:
    """A store as a site sees it: all tracks of the study.

    Args:
        store: the store.
        site: the site, or the helper in place of one.

    Raises:
        StudyError: it holds no study.
        StoreError: it cannot be read.
    """

    def __init__(self, store: ReadableStore, site: str) -> None:
        self._site = site
        self._observers = open_tracks(store, site=site)
        if site == HELPER_SITE:
            self.refresh()  # now that it is known which messages of sites a request names

    def refresh(self) -> None:
        """Look at everything again."""
        for observer in self._observers.values():
            observer.refresh(everything=True)

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
        return set(self.select(lambda track: track.state.payloads()))

    @property
    def is_over(self) -> bool:
        """True once the study is closed and the site has scored all that it should."""
        scoring = [self._site] if self._site != HELPER_SITE else []
        return all(participation.is_over(o.state, scoring) for o in self._observers.values())

    def select(
        self,
        choose: Callable[[TrackContent], Iterable[str]],
        *,
        keys: Collection[str] | None = None,
        known: Collection[str] = (),
    ) -> list[str]:
        """Return the keys chosen on each track; those that tracks share come with the first.

        Args:
            choose: which keys of a track.
            keys: of the objects to choose from; None for all on the store.
            known: keys that the other side has.
        """
        chosen: dict[str, None] = {}
        content_class = HelperContent if self._site == HELPER_SITE else TrackContent
        for one in self._observers.values():
            content = content_class(
                state=one.state,
                keys=one.sizes.keys() if keys is None else _within(one, keys),
                site=self._site,
                known=_within(one, known),
            )
            chosen.update(dict.fromkeys(map(one.track.on_store, choose(content))))
        return list(chosen)

    def keys_of(self, store: ReadableStore) -> set[str]:
        """Return the keys of this study's objects on another store, also if it has none yet."""
        own = layout.site_prefix(self._site)
        prefixes = [layout.FEDERATION, layout.AGGREGATOR, own]
        for observer in self._observers.values():
            behind = observer.track.prefix
            prefixes += [behind + layout.AGGREGATOR, behind + own]
            if self._site == HELPER_SITE:
                named = {text.rpartition("/")[0] for text in named_by_request(observer.state)}
                prefixes += [f"{behind}{folder}/" for folder in sorted(named)]
        return {entry.key for prefix in prefixes for entry in store.list(prefix)}


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
