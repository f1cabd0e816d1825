"""Is this host ready for its role? Tries what the role does, and says what to do where it fails.

Rules:
 * Every check is one line: what was looked at, how it is, what to do. One that cannot be made
   because of an earlier one is left out.
 * What is written to try the store lies under names that the protocol does not know, holds nothing,
   and is removed again where this role may remove.
 * A problem keeps the role from working. A note is something to know.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedfs.errors import (
    DatasetError,
    FedfsError,
    ObjectExistsError,
    StoreError,
    StorePermissionError,
    StudyError,
)
from fedfs.exchange.make_version import strategy_of
from fedfs.exchange.read import open_study
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.dataset import RawDataset, difference
from fedfs.nnunet.system.environment import NnUNetPaths, from_environment
from fedfs.protocol import codec, layout, software
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState, newest_charter
from fedfs.store import StorePlace, open_store
from fedfs.store.base import Store
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.signing import key_fingerprint

OK, NOTE, PROBLEM = "ok", "note", "problem"

N_WRITERS, N_RACES = 8, 4
_PROBE_BYTES = 4 << 20
_GUESSED_MODEL_BYTES = 125_000_000
_SKEW_NOTE_S, _SKEW_PROBLEM_S = 5.0, 300.0
_MIN_FREE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One line of the report; ``advice`` is empty where nothing is to be done."""

    what: str
    level: str
    result: str
    advice: str = ""


def examine(place: StorePlace, home: Path, *, site: str | None) -> Iterator[Check]:
    """Yield the checks of a host as they are made.

    Args:
        place: the study's store.
        home: this host's fedfs home.
        site: the site that runs here; None for the aggregator.
    """
    yield from (_nnunet() if site is not None else ())
    try:
        store = open_store(place)
        observer = open_study(store, site=site)
    except FedfsError as error:
        yield Check("store", PROBLEM, str(error), error.hint)
        return
    state, charter = observer.state, newest_charter(observer.state)
    yield Check("store", OK, f"{store.url} holds study {charter.name!r}")
    role = "aggregator" if site is None else f"site-{site}"
    yield _key(Keyring(home, charter.study), role, charter, site)
    own = layout.AGGREGATOR if site is None else layout.site_prefix(site)
    yield from _own_prefix(store, own)
    for track in charter.tracks[:1]:  # a policy allows all of them or none
        yield _on_tracks(store, layout.TrackPlace(track.name).on_store(own))
    yield from _foreign_prefixes(store, state, site)
    yield from _speed(store, own, state)
    yield from _software(charter, site)
    if site is None:
        yield _strategy(charter)
    else:
        yield _trainer(charter.nnunet.trainer)
        yield _dataset(Keyring(home, charter.study).recall(role), charter)
    yield from _disk(site, state)


def has_atomic_create(store: Store, prefix: str) -> tuple[bool, str]:
    """Return whether of several writers exactly one wins, and what was seen, in words.

    Raises:
        StoreError: the store cannot be written.
    """
    for _ in range(N_RACES):
        key = f"{prefix}doctor-{secrets.token_hex(6)}"

        def write(number: int, key: str = key) -> bool:
            try:
                return store.create(key, f"writer {number}".encode())
            except ObjectExistsError:
                return False

        with ThreadPoolExecutor(N_WRITERS) as pool:
            n_winners = sum(pool.map(write, range(N_WRITERS)))
        _remove(store, key)
        if n_winners != 1:
            return False, f"{n_winners} of {N_WRITERS} writers of one key were told that they won"
    return True, f"one winner in each of {N_RACES} races of {N_WRITERS} writers"


def require_atomic_create(store: Store) -> None:
    """Check that two aggregators could not both win.

    Raises:
        StudyError: they could.
        StoreError: the store cannot be written.
    """
    is_atomic, seen = has_atomic_create(store, layout.FEDERATION)
    if not is_atomic:
        raise StudyError(
            f"{store.url}: {seen}",
            hint="use another server; or give --one-aggregator and never run two",
        )


def _key(keyring: Keyring, role: str, charter: Charter, site: str | None) -> Check:
    try:
        public = keyring.load(role).public
    except FedfsError as error:
        return Check("key", PROBLEM, str(error), error.hint)
    expected = charter.aggregator_key
    if site is not None:
        entry = charter.entry(site)
        if entry is None:
            return Check(
                "key", PROBLEM, f"site {site!r} is not approved yet",
                "ask the coordinator to run: fedfs approve STORE " + site,
            )  # fmt: skip
        if entry.state != "active":
            return Check("key", NOTE, f"site {site!r} is {entry.state}", "ask the coordinator")
        expected = entry.public_key
    if public != expected:
        return Check("key", PROBLEM, "the study names another key", "is this the right host?")
    return Check("key", OK, key_fingerprint(public))


def _own_prefix(store: Store, own: str) -> Iterator[Check]:
    key = f"{own}doctor-{secrets.token_hex(6)}"
    before_s = time.time()
    try:
        store.create(key, b"probe")
        after_s = time.time()
        found = [entry for entry in store.list(own) if entry.key == key]
        yield Check("write and read", OK, f"{own} can be written, listed and read")
        is_atomic, seen = has_atomic_create(store, own)
    except StoreError as error:
        yield Check("write and read", PROBLEM, str(error), error.hint)
        return
    yield Check(
        "atomic create", OK if is_atomic else PROBLEM, seen,
        "" if is_atomic else "run one aggregator and one process per site, or another server",
    )  # fmt: skip
    if not found:
        yield Check("listing", NOTE, "what is written is listed late", "rounds take longer")
    else:
        yield Check("listing", OK, "what is written is listed at once")
        skew_s = found[0].modified_s - (before_s + after_s) / 2
        allowed_s = max(_SKEW_NOTE_S, after_s - before_s)
        level = OK if abs(skew_s) <= allowed_s else NOTE
        level = PROBLEM if abs(skew_s) > _SKEW_PROBLEM_S else level
        advice = "" if level == OK else "set this host's clock by NTP"
        yield Check("clock", level, f"{round(skew_s, 1) + 0.0:+.1f} s against the store's", advice)
    try:
        store.delete(key)
        yield Check("delete", OK, f"{own} can be cleaned up")
    except StoreError as error:
        yield Check("delete", NOTE, str(error), "old statuses stay; allow it to delete its own")


def _on_tracks(store: Store, own: str) -> Check:
    key = f"{own}doctor-{secrets.token_hex(6)}"
    try:
        store.create(key, b"probe")
        found = any(entry.key == key for entry in store.list(own))
        store.delete(key)
    except StoreError as error:
        advice = "in a bucket, the policy has to be made with: deploy/s3/render.py --tracks"
        return Check("tracks", PROBLEM, str(error), advice)
    late = "" if found else "; what is written there is listed late"
    return Check("tracks", OK, f"{own} can be written and listed{late}")


def _foreign_prefixes(store: Store, state: StudyState, site: str | None) -> Iterator[Check]:
    """What this role should not be able to do; signatures protect the study nevertheless."""
    others = [entry.site for entry in newest_charter(state).roster if entry.site != site]
    prefixes = [layout.FEDERATION, *map(layout.site_prefix, others[:1])]
    prefixes += [] if site is None else [layout.AGGREGATOR]
    able = [f"write {prefix}" for prefix in prefixes if _can(partial(_touch, store, prefix))]
    if site is not None:
        able += [
            f"read {prefix}" for prefix in map(layout.site_prefix, others[:1])
            if _can(partial(_list, store, prefix))
        ]  # fmt: skip
    if able:
        yield Check(
            "limits", NOTE, f"this role can also {', '.join(able)}",
            "not needed; in a bucket, deploy/s3 has a policy for each role",
        )  # fmt: skip
    else:
        yield Check("limits", OK, "this role can do no more than it has to")


def _speed(store: Store, own: str, state: StudyState) -> Iterator[Check]:
    key = f"{own}doctor-{secrets.token_hex(6)}"
    model_bytes = _model_bytes(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe"
        path.write_bytes(secrets.token_bytes(_PROBE_BYTES))
        try:
            began_s = time.perf_counter()
            store.upload(key, path)
            up_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            store.download(key, path, max_bytes=_PROBE_BYTES)
            down_s = time.perf_counter() - began_s
        except StoreError as error:
            yield Check("speed", PROBLEM, str(error), error.hint)
            return
        finally:
            _remove(store, key)
    round_s = (up_s + down_s) * model_bytes / _PROBE_BYTES
    yield Check(
        "speed", OK,
        f"{_PROBE_BYTES / 1e6 / up_s:.1f} MB/s up, {_PROBE_BYTES / 1e6 / down_s:.1f} MB/s down: "
        f"about {round_s:.0f} s for the {model_bytes / 1e6:.0f} MB up and down of a round",
    )  # fmt: skip


def _nnunet() -> Iterator[Check]:
    try:
        paths = from_environment(os.environ)
    except FedfsError as error:
        yield Check("nnU-Net", PROBLEM, str(error), error.hint)
        return
    yield Check("nnU-Net", OK, f"raw {paths.raw}, results {paths.results}")
    import torch  # noqa: PLC0415  takes seconds

    if torch.cuda.is_available():
        yield Check("device", OK, torch.cuda.get_device_name(0))
    else:
        yield Check("device", NOTE, "no CUDA device", "training on the CPU takes much longer")
    workers = os.environ.get("nnUNet_n_proc_DA", "nnU-Net's choice")  # noqa: SIM112  nnU-Net's name
    yield Check("workers", OK, f"{workers} for augmentation, {os.cpu_count()} processors")


def _software(charter: Charter, site: str | None) -> Iterator[Check]:
    if not charter.nnunet.versions:
        return
    found = software.differences(charter.nnunet.versions, classes.versions())
    for one in found:
        level = PROBLEM if one.matters and site is not None else NOTE
        yield Check("versions", level, str(one), one.advice)
    if not found:
        yield Check("versions", OK, "nnU-Net and torch are the charter's")


def _strategy(charter: Charter) -> Check:
    try:
        strategy_of(charter)
    except FedfsError as error:
        return Check("strategy", PROBLEM, str(error), error.hint)
    return Check("strategy", OK, f"{charter.strategy.name} is installed")


def _trainer(name: str) -> Check:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what nnU-Net imports
            classes.trainer_class(name)
    except FedfsError as error:
        return Check("trainer", NOTE, str(error), error.hint)  # this host may allow it
    return Check("trainer", OK, f"{name} is one of nnU-Net's own")


def _dataset(remembered: Mapping[str, object], charter: Charter) -> Check:
    name = remembered.get("dataset")
    if not name:
        return Check("dataset", PROBLEM, "this site has not joined", "run: fedfs site join")
    try:
        raw = RawDataset.open(from_environment(os.environ), str(name))
        disagreement = difference(codec.to_json(charter.dataset), raw.dataset_json)
    except FedfsError as error:
        skips = isinstance(error, DatasetError) and remembered.get("skip_broken")
        return Check("dataset", NOTE if skips else PROBLEM, str(error), error.hint)
    if disagreement:
        return Check("dataset", PROBLEM, "; ".join(disagreement), "talk to the coordinator")
    return Check("dataset", OK, f"{name} agrees with the charter")


def _disk(site: str | None, state: StudyState) -> Iterator[Check]:
    folder = default_cache()
    if site is not None:
        try:
            paths: NnUNetPaths = from_environment(os.environ)
        except FedfsError:
            return  # said already
        folder = paths.results
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needed = max(_MIN_FREE_BYTES, 4 * _model_bytes(state))
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < needed:
        yield Check("disk", PROBLEM, text, f"at least {needed / 1e9:.1f} GB are needed")
    else:
        yield Check("disk", OK, text)


def _model_bytes(state: StudyState) -> int:
    if state.newest < 0:
        return _GUESSED_MODEL_BYTES
    return max(model.payload.size for model in state.models.values())


def _touch(store: Store, prefix: str) -> None:
    key = f"{prefix}doctor-{secrets.token_hex(6)}"
    store.create(key, b"probe")
    _remove(store, key)


def _list(store: Store, prefix: str) -> None:
    for _ in store.list(prefix):
        return


def _can(act: Callable[[], object]) -> bool:
    try:
        act()
    except StorePermissionError:
        return False
    return True


def _remove(store: Store, key: str) -> None:
    try:
        store.delete(key)
    except StoreError:
        return  # a role that may not delete leaves a name that nobody reads
