"""Copy between two stores that one host sees."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from fedfs.errors import ObjectNotFoundError
from fedfs.exchange.observer import MAX_ENVELOPE_BYTES
from fedfs.exchange.payloads import MAX_MODEL_BYTES
from fedfs.learner import OnProgress, Progress
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.courier.seen import SiteView
from fedfs.roles.log_format import set_log_fields
from fedfs.roles.loop import Outcome, run
from fedfs.roles.polling import Waiter, WaitSettings
from fedfs.roles.reader.units import format_count
from fedfs.store.base import Store

log = logging.getLogger(__name__)


class Sync:
    """Copies what sites need from the hub to their store, and what they have published back.

    It keeps what it has read: a further look lists both stores and reads only what is new.

    Args:
        hub: where the aggregator works.
        outpost: where the sites work; may be empty.
        sites: their names; the helper may be among them.
        on_progress: called with the progress.
    """

    def __init__(
        self, hub: Store, outpost: Store, sites: Sequence[str], *, on_progress: OnProgress
    ) -> None:
        self._hub, self._outpost = hub, outpost
        self._sites = tuple(sites)
        self._on_progress = on_progress
        self._views: dict[tuple[str, str], SiteView] = {}

    def copy(self) -> tuple[int, int]:
        """Copy what is new; return how many objects to the outpost, and to the hub.

        Raises:
            StoreError: a store refuses, or holds something else under a key.
            StudyError: the hub holds no study.
        """
        there = back = 0
        for site in self._sites:
            in_hub = self._look(self._hub, site)
            known = in_hub.keys_of(self._outpost)
            wanted = in_hub.select(lambda track: track.for_site(), known=known)
            there += _copy(self._hub, self._outpost, wanted, self._on_progress)
            here = self._look(self._outpost, site)
            wanted = here.select(lambda track: track.from_site(), known=in_hub.sizes.keys())
            back += _copy(self._outpost, self._hub, wanted, self._on_progress)
        return there, back

    def step(self) -> Outcome:
        """Copy once; finished when the study is, and the sites' last scores are at the hub."""
        there, back = self.copy()
        text = f"copied {format_count(there, 'object')} to the outpost, {back} back"
        if there or back:
            log.info("%s", text)
        is_over = all(self._views[self._hub.url, site].is_over for site in self._sites)
        return Outcome(worked=bool(there or back), finished=is_over, text=text)

    def _look(self, store: Store, site: str) -> SiteView:
        view = self._views.get((store.url, site))
        if view is None:
            view = self._views[store.url, site] = SiteView(store, site)
            set_log_fields(study=view.state.charter.study)
        else:
            view.refresh()
        return view


def run_sync(
    hub: Store,
    outpost: Store,
    sites: Sequence[str],
    *,
    on_progress: OnProgress,
    once: bool,
    settings: WaitSettings,
) -> Outcome:
    """Copy once, or until the study is finished; see :class:`Sync`."""
    sync = Sync(hub, outpost, sites, on_progress=on_progress)
    if once:
        outcome = sync.step()
        return replace(outcome, done=(outcome.text,)) if outcome.worked else outcome
    folder = outpost.watch_path() or hub.watch_path()
    with Waiter(folder, settings, rng=random.Random()) as waiter:  # noqa: S311  jitter
        return run(sync.step, wait=waiter.wait, reset=waiter.reset)


def _copy(source: Store, target: Store, keys: Sequence[str], on_progress: OnProgress) -> int:
    n_copied = 0
    with target.scratch() as folder:
        for number, key in enumerate(keys):
            on_progress(Progress("copy", number, len(keys), "objects"))
            parsed = parse_on_store(key)
            try:
                if parsed is not None and parsed.is_payload:
                    path = folder / "payload"
                    source.download(key, path, max_bytes=MAX_MODEL_BYTES)
                    n_copied += target.adopt(key, path)
                else:
                    data = source.get(key, max_bytes=MAX_ENVELOPE_BYTES)
                    n_copied += target.create(key, data)
            except ObjectNotFoundError:
                log.info("%s is gone", key)  # an old status, or pruned
    return n_copied
