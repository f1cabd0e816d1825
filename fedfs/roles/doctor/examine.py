"""Examination of a host: tries what its role does, and says what to do where that fails.

Rules:
 * Every finding is one line: what was looked at, how it is, what to do. One that cannot be made
   because of an earlier one is left out.
 * A problem keeps the role from working. A note is something to know.
"""

from collections.abc import Iterator
from pathlib import Path

from fedfs.errors import FedfsError
from fedfs.exchange.read import open_study
from fedfs.learner import OnProgress
from fedfs.protocol import layout
from fedfs.roles.doctor import host_checks, store_checks
from fedfs.roles.doctor.mount_checks import check_mount
from fedfs.roles.doctor.preflight import check_gpu_memory, check_new_dataset
from fedfs.roles.reader.finding import OK, PROBLEM, Finding
from fedfs.store import StorePlace, open_store
from fedfs.trust.keyring import Keyring

_GUESSED_MODEL_BYTES = 125_000_000


def examine(
    place: StorePlace,
    home: Path,
    *,
    site: str | None,
    dataset: str | None = None,
    num_processes: int = 1,
    on_progress: OnProgress = lambda _: None,
) -> Iterator[Finding]:
    """Yield the findings of a host as they are made.

    Args:
        place: the study's store.
        home: this host's fedfs home.
        site: the site that runs here; None for the aggregator.
        dataset: that the site would join with; None for the one that it has joined with.
        num_processes: that read its cases.
        on_progress: called after each of its cases.
    """
    yield from (host_checks.check_nnunet() if site is not None else ())
    try:
        store = open_store(place)
        observer = open_study(store, site=site)
    except FedfsError as error:
        yield Finding("store", PROBLEM, error.local_text, error.hint)
        return
    state, charter = observer.state, observer.state.charter
    sizes = (model.payload.size for model in state.models.values())
    given = (sum(one.payload.size for one in model.folds) for model in charter.given)
    model_bytes = max([*sizes, *given], default=_GUESSED_MODEL_BYTES)
    yield Finding("store", OK, f"{store.url} holds study {charter.name!r}")
    role = "aggregator" if site is None else f"site-{site}"
    keyring = Keyring(home, charter.study)
    yield host_checks.check_key(keyring, role, charter, site)
    own = layout.AGGREGATOR if site is None else layout.site_prefix(site)
    yield from store_checks.check_own_prefix(store, own)
    # A policy allows all tracks or none.
    yield store_checks.check_prefix_of_track(store, observer.track.on_store(own))
    yield store_checks.check_foreign_prefixes(store, state, site)
    yield store_checks.check_speed(store, own, model_bytes)
    yield from check_mount(store.watch_path())
    is_stranger = host_checks.is_stranger(keyring, charter, site)
    if is_stranger:  # nothing stays behind of a name that is mistyped
        for prefix in (own, observer.track.on_store(own)):
            store.remove_empty_folder(prefix)
    yield from host_checks.check_software(charter, site)
    if site is None:
        yield host_checks.check_strategy(charter)
    else:
        trainers = [charter.nnunet.trainer, *(model.trainer for model in charter.given)]
        yield from map(host_checks.check_trainer, dict.fromkeys(trainers))
        yield from (() if charter.evaluates else check_gpu_memory(charter))
        if dataset is not None:
            joined = keyring.memory.recall(role).get("dataset")
            yield from check_new_dataset(
                dataset, charter, num_processes, on_progress, joined=joined
            )
        elif not is_stranger:
            remembered, announced = keyring.memory.recall(role), state.n_cases(site)
            yield host_checks.check_dataset(remembered, charter, announced)
    yield from host_checks.check_disk(model_bytes, is_site=site is not None)
