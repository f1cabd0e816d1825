"""Parts of a process that sites and the aggregator share: status, locks, log, rollback guard."""

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedfs.errors import MisplacedError, SetupError
from fedfs.exchange.gate import Gate
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.protocol.messages import Charter
from fedfs.roles.lock import hold_lock
from fedfs.roles.logfile import log_to_file
from fedfs.roles.loop import Outcome
from fedfs.store.base import Store
from fedfs.store.reporting import ReportingStore
from fedfs.trust import key_validity
from fedfs.trust.keyring import Keyring
from fedfs.trust.signing import key_fingerprint

log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")

LOG = "log.txt"
"""The log of a process, in fedfs's own folder for its role."""


def require_coordinator(charter: Charter, expected_key: str | None, place: object) -> None:
    """Check, before a host joins, that a study is led by the key that its operator expects.

    Args:
        charter: in force.
        expected_key: fingerprint, as told by telephone; None for any.
        place: where the study is, for the message.

    Raises:
        MisplacedError: it is led by another key.
    """
    found = key_fingerprint(charter.coordinator_key)
    if expected_key is not None and expected_key.replace(" ", "") != found.replace(" ", ""):
        raise MisplacedError(
            f"is led by the key {found}, not by {expected_key}",
            about=f"the study at {place}",
            hint="do not join; tell the coordinator",
        )


def publisher_on(
    store: Store, observer: Observer, keyring: Keyring, role: str, gate: Gate
) -> Publisher:
    """Return a publisher on the track and in the study that an observer looks at.

    It signs with the newest key of the role that counts: one that was made and is not approved yet
    would be refused.

    Args:
        store: where to.
        observer: has looked at the study.
        keyring: of this host.
        role: ``aggregator``, or ``site-<name>``.
        gate: passed by everything that is published.

    Raises:
        KeyFileError: this host has no key of the role, or one is unreadable.
    """
    tenures = key_validity.of_role(observer.state.charters, role)
    publisher = Publisher(
        store,
        keyring.load_all(role),
        observer.state.charter.study,
        clock=time.time,
        track=observer.track,
        gate=gate,
        reload=lambda: keyring.load_all(role),
    )
    for tenure in reversed(tenures):
        if publisher.use(tenure.public_key):
            break
    return publisher


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
    """Refuse a store that was rolled back, and note on this host what is accepted meanwhile.

    Each charter and version is noted with the look that accepts it, as a process may be killed at
    any time. Another process of this host may have noted a newer one, which stays.

    Args:
        keyring: of this host.
        role: of this process.
        observers: of each track.
        names: of the tracks of this process.

    Raises:
        MisplacedError: the store was rolled back.
    """
    seen = {name: _Seen(keyring, role, observers[name]) for name in names}
    for name in names:
        try:
            seen[name].note()
        except MisplacedError:  # or another process has looked since this one did
            observers[name].refresh(everything=True)
            seen[name].note()
        observers[name].on_accepted = seen[name].note_newer
    yield


class _Seen:
    """Notes the newest charter and version of a track on this host."""

    def __init__(self, keyring: Keyring, role: str, observer: Observer) -> None:
        self._keyring, self._role, self._observer = keyring, role, observer
        self._noted = (0, -1)

    def note(self) -> None:
        """Note what the observer has accepted.

        Raises:
            MisplacedError: this host has seen something newer, or something else.
        """
        state, track = self._observer.state, self._observer.track.name
        charter, newest = state.charter, state.newest
        self._keyring.memory.note_charter(charter.number, state.digests[charter.key])
        sha256 = state.models[newest].weights_sha256 if newest >= 0 else ""
        self._keyring.memory.note_version(self._role, track, newest, sha256)
        self._noted = charter.number, newest

    def note_newer(self) -> None:
        """Note what has been accepted since, unless another process has seen more."""
        state = self._observer.state
        if (state.charter.number, state.newest) != self._noted:
            try:
                self.note()
            except MisplacedError:
                pass
            except SetupError as error:  # the disk is full: work goes on, and the next look notes
                log.warning("not noted on this host what the store shows: %s", error)


@contextlib.contextmanager
def hold_tracks(
    who: str, charter: Charter, folders: Mapping[str, Path], base: Path, *, once: bool
) -> Iterator[Outcome | None]:
    """Hold the tracks of a process on this host, remove what a killed one left, log to a file.

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
            _sweep(folder)
        has_one_of_several = len(folders) == 1 < len(charter.tracks)
        own = next(iter(folders.values())) if has_one_of_several else base
        stack.enter_context(log_to_file(own / LOG))
        yield None


def _sweep(folder: Path) -> None:
    """Remove temporary folders of a process that was killed; payloads in them are large."""
    for place in (folder, folder / "tensors"):
        for left in place.glob("tmp*") if place.is_dir() else ():
            if _TEMPORARY.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
