"""Copy between two stores that one host sees."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fedfs import exchange
from fedfs.bundles.seen import NO_KEY, keys_of, look
from fedfs.errors import ObjectNotFoundError
from fedfs.learner import Progress, Report
from fedfs.loop import Outcome, run
from fedfs.observe import MAX_ENVELOPE_BYTES, MAX_MODEL_BYTES, open_study
from fedfs.protocol import layout, rounds
from fedfs.status import counted
from fedfs.store.base import Store
from fedfs.watch import Waiter, WaitSettings

log = logging.getLogger(__name__)


def sync(hub: Store, outpost: Store, sites: Sequence[str], *, report: Report) -> tuple[int, int]:
    """Copy what sites need from the hub to their store, and what they have published back.

    Args:
        hub: where the aggregator works.
        outpost: where the sites work.
        sites: their names.
        report: hears of progress.

    Returns:
        Objects copied to the outpost, and to the hub.

    Raises:
        StoreError: a store refuses, or holds something else under a key.
        StudyError: the hub holds no study.
    """
    there = back = 0
    for site in sites:
        state = look(hub, site).state
        in_hub, in_outpost = keys_of(hub, site), keys_of(outpost, site)
        wanted = exchange.for_site(state, in_hub, site, in_outpost)
        there += _copy(hub, outpost, wanted, report)
        state = look(outpost, site).state
        wanted = exchange.from_site(state, keys_of(outpost, site), site, in_hub)
        back += _copy(outpost, hub, wanted, report)
    return there, back


def run_sync(
    hub: Store,
    outpost: Store,
    sites: Sequence[str],
    *,
    report: Report,
    once: bool,
    settings: WaitSettings,
) -> Outcome:
    """Copy once, or until the study is finished; see :func:`sync`."""

    def step() -> Outcome:
        there, back = sync(hub, outpost, sites, report=report)
        text = f"copied {counted(there, 'object')} to the sites, {back} from them"
        if there or back:
            log.info("%s", text)
        state = open_study(hub, skip=layout.STATUS_KINDS).state
        is_over = rounds.is_over(state, sites)
        return Outcome(worked=bool(there or back), finished=is_over, text=text)

    if once:
        return step()
    folder = outpost.watch_path() or hub.watch_path()
    with Waiter(folder, settings, rng=random.Random()) as waiter:  # noqa: S311  jitter
        return run(step, wait=waiter.wait, reset=waiter.reset)


def _copy(source: Store, target: Store, keys: Sequence[str], report: Report) -> int:
    n_copied = 0
    with tempfile.TemporaryDirectory(prefix="fedfs-sync-") as folder:
        for number, key in enumerate(keys):
            report(Progress("copy", number, len(keys), "objects"))
            parsed = layout.parse(key) or NO_KEY
            try:
                if parsed.is_payload:
                    path = Path(folder) / "payload"
                    source.download(key, path, max_bytes=MAX_MODEL_BYTES)
                    n_copied += target.upload(key, path)
                else:
                    data = source.get(key, max_bytes=MAX_ENVELOPE_BYTES)
                    n_copied += target.create(key, data)
            except ObjectNotFoundError:
                log.info("%s is gone", key)  # an old status, or pruned
    return n_copied
