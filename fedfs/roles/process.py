"""Parts of a process that sites and the aggregator share: status, locks, log, rollback guard."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedfs.errors import MisplacedError, SetupError
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import Observer
from fedfs.protocol.messages import Charter
from fedfs.roles.lock import hold_lock
from fedfs.roles.logfile import log_to_file
from fedfs.roles.loop import Outcome
from fedfs.store.base import Store
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import SigningKey

LOG = "log.txt"
"""The log of a process, in fedfs's own folder for its role."""


def publisher_on(store: Store, observer: Observer, keys: Sequence[SigningKey]) -> Publisher:
    """Return a publisher on the track and in the study that an observer looks at."""
    study = observer.state.charter.study
    return Publisher(store, keys, study, clock=time.time, track=observer.track)


def start_status(
    publisher: Publisher, interval_s: float, store: ReportingStore, site: str
) -> StatusReporter:
    """Return the reporter of a process's steps and transfers, to others and to the terminal.

    Args:
        publisher: signs with the role's key.
        interval_s: shortest time between two statuses of the same step.
        store: reports to the terminal so far.
        site: the site's name, or "" for the aggregator.
    """
    status = StatusReporter(
        publisher, site, interval_s=interval_s, clock=time.time,
        listener=store.on_progress,
    )  # fmt: skip
    store.on_progress = status.progress
    return status


@contextlib.contextmanager
def guard_against_rollback(
    keyring: Keyring, role: str, observers: Mapping[str, Observer], names: Sequence[str]
) -> Iterator[None]:
    """Refuse a store that was rolled back; in the end, note the newest version on this host.

    Another process of this host may have noted a newer one meanwhile, which stays.

    Args:
        keyring: of this host.
        role: of this process.
        observers: of each track.
        names: of the tracks of this process.

    Raises:
        MisplacedError: the store was rolled back.
    """
    for name in names:
        try:
            _note_seen(keyring, role, observers[name])
        except MisplacedError:  # or another process has looked since this one did
            observers[name].refresh(everything=True)
            _note_seen(keyring, role, observers[name])
    try:
        yield
    finally:
        for name in names:
            with contextlib.suppress(MisplacedError):
                _note_seen(keyring, role, observers[name])


def _note_seen(keyring: Keyring, role: str, observer: Observer) -> None:
    state, track = observer.state, observer.track.name
    charter, newest = state.charter, state.newest
    keyring.note_charter(charter.number, state.digests[charter.key])
    sha256 = state.models[newest].weights_sha256 if newest >= 0 else ""
    keyring.note_version(role, track, newest, sha256)


@contextlib.contextmanager
def hold_tracks(
    who: str, charter: Charter, folders: Mapping[str, Path], base: Path, *, once: bool
) -> Iterator[Outcome | None]:
    """Hold the tracks of a process on this host, and log to a file.

    Yields None; or, if cron started this process while the one before still works, the outcome.

    Args:
        who: the role that works here, for messages.
        charter: the study.
        folders: of each track of the process, by name.
        base: folder of the study, for the log, unless the process has one track of several.
        once: the process was started by cron.

    Raises:
        SetupError: a service was started twice.
    """
    with contextlib.ExitStack() as stack:
        for name, folder in folders.items():
            holder = stack.enter_context(hold_lock(folder / "lock"))
            if holder:
                where = f" on track {name}" if len(charter.tracks) > 1 else ""
                text = f"{holder} on this host is at work as {who}{where} already"
                if not once:
                    raise SetupError(f"{text}.", hint="stop it first, or let it work")
                yield Outcome(worked=True, finished=False, text=text)
                return
        has_one_of_several = len(folders) == 1 < len(charter.tracks)
        own = next(iter(folders.values())) if has_one_of_several else base
        stack.enter_context(log_to_file(own / LOG))
        yield None
