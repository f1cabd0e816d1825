"""Checks of a store, made by doing what the role does there.

What is written lies under names that the protocol does not know, holds nothing, and is removed
again where the role may remove.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fedfs.errors import ObjectExistsError, StoreError, StorePermissionError, StudyError
from fedfs.protocol import layout
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.store.base import Store

N_WRITERS, N_RACES = 8, 4
_PROBE_BYTES = 4 << 20
_SKEW_NOTE_S, _SKEW_PROBLEM_S = 5.0, 300.0


def has_atomic_create(store: Store, prefix: str) -> tuple[bool, str]:
    """Return whether exactly one of several writers wins, and a sentence with the numbers.

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
    text = f"one winner in each of {N_RACES} races of {N_WRITERS} writers"
    if not store.promises_one_winner:
        return False, f"{text}, which this kind of store does not promise"
    return True, text


def require_atomic_create(store: Store) -> None:
    """Check that two aggregators could not both win.

    Raises:
        StudyError: they could.
        StoreError: the store cannot be written.
    """
    is_atomic, text = has_atomic_create(store, layout.FEDERATION)
    if not is_atomic:
        raise StudyError(
            f"{store.url} may let several writers of one object win: {text}.",
            hint="use another server; or give --one-aggregator and never run two",
        )


def check_own_prefix(store: Store, own: str) -> Iterator[Finding]:
    """Write, list, read and delete below a role's own prefix; race writers; compare clocks."""
    key = f"{own}doctor-{secrets.token_hex(6)}"
    before_s = time.time()
    try:
        store.create(key, b"probe")
        after_s = time.time()
        listed = [entry for entry in store.list(own) if entry.key == key]
        yield Finding("write and read", OK, f"{own} can be written, listed and read")
        is_atomic, text = has_atomic_create(store, own)
    except StoreError as error:
        yield Finding("write and read", PROBLEM, str(error), error.hint)
        return
    advice = "" if is_atomic else "run one aggregator and one process per site, or another server"
    level = OK if is_atomic else PROBLEM if store.promises_one_winner else NOTE
    yield Finding("atomic create", level, text, advice)
    if not listed:
        yield Finding("listing", NOTE, "what is written is listed late", "rounds take longer")
    else:
        yield Finding("listing", OK, "what is written is listed at once")
        skew_s = listed[0].modified_s - (before_s + after_s) / 2
        allowed_s = max(_SKEW_NOTE_S, after_s - before_s)
        level = OK if abs(skew_s) <= allowed_s else NOTE
        level = PROBLEM if abs(skew_s) > _SKEW_PROBLEM_S else level
        advice = "" if level == OK else "set this host's clock by NTP"
        text = f"{round(skew_s, 1) + 0.0:+.1f} s against the store's"
        yield Finding("clock", level, text, advice)
    try:
        store.delete(key)
        yield Finding("delete", OK, f"{own} can be cleaned up")
    except StoreError as error:
        yield Finding("delete", NOTE, str(error), "old statuses stay; allow it to delete its own")


def check_prefix_of_track(store: Store, own: str) -> Finding:
    """Write, list and delete below a role's prefix on a track."""
    key = f"{own}doctor-{secrets.token_hex(6)}"
    try:
        store.create(key, b"probe")
        is_listed = any(entry.key == key for entry in store.list(own))
        store.delete(key)
    except StoreError as error:
        advice = "in a bucket, the policy has to be made with: fedfs deploy print s3-policy"
        return Finding("tracks", PROBLEM, str(error), advice)
    late = "" if is_listed else "; what is written there is listed late"
    return Finding("tracks", OK, f"{own} can be written and listed{late}")


def check_foreign_prefixes(store: Store, state: StudyState, site: str | None) -> Finding:
    """Try what a role need not be able to do; signatures protect the study nevertheless."""
    others = [entry.site for entry in state.charter.roster if entry.site != site]
    of_other = [layout.site_prefix(name) for name in others[:1]]
    written = [layout.FEDERATION, *of_other, *([] if site is None else [layout.AGGREGATOR])]
    read = [] if site is None else of_other
    able = [f"write {prefix}" for prefix in written if _can(partial(_touch, store, prefix))]
    able += [f"read {prefix}" for prefix in read if _can(partial(_list, store, prefix))]
    if able:
        advice = "not needed; in a bucket, deploy/s3 has a policy for each role"
        return Finding("limits", NOTE, f"this role can also {', '.join(able)}", advice)
    return Finding("limits", OK, "this role can do no more than it has to")


def check_speed(store: Store, own: str, model_bytes: int) -> Finding:
    """Upload and download some bytes; return the time that a round's model would take."""
    key = f"{own}doctor-{secrets.token_hex(6)}"
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
            return Finding("speed", PROBLEM, str(error), error.hint)
        finally:
            _remove(store, key)
    round_s = (up_s + down_s) * model_bytes / _PROBE_BYTES
    text = (
        f"{_PROBE_BYTES / 1e6 / up_s:.1f} MB/s up, {_PROBE_BYTES / 1e6 / down_s:.1f} MB/s down: "
        f"about {round_s:.0f} s for the {model_bytes / 1e6:.0f} MB up and down of a round"
    )
    return Finding("speed", OK, text)


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
