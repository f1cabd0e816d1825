"""Memory of the aggregation after a version: fetched, or made again from the updates since.

Rules:
 * What a strategy remembers, and what deltas of versions have not carried yet, is as large as the
   model. Where versions travel as deltas it is published now and then only, and the record of every
   version has its hash.
 * The memory after any other version is made again, version by version, from the last one that is
   here or on the store: the same updates give the same bits. ``keyframe_every`` bounds how far that
   goes back, and :mod:`fedfs.exchange.retention` keeps what it takes.
 * A memory is believed if it has the hash that its record was signed for.
"""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from fedfs.aggregation.combine import Outputs, Written
from fedfs.aggregation.shared_tensors import share_of
from fedfs.aggregation.trained_tensors import check_no_frozen
from fedfs.errors import ObjectNotFoundError, TensorError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.make_version import make_version, outputs_in
from fedfs.exchange.payloads import MAX_MODEL_BYTES, update_encoding, update_layout
from fedfs.exchange.secure_sum import unmask
from fedfs.protocol.messages import Charter, PayloadRef, RoundRecord, UpdateManifest
from fedfs.protocol.state import StudyState
from fedfs.store.local_files import file_sha256
from fedfs.tensors.canonical import TensorFile

log = logging.getLogger(__name__)

Fetch = Callable[[PayloadRef, int], Path]
"""Returns the local file of a payload of at most so many bytes."""


def is_published_with(version: int, charter: Charter, *, has_delta: bool) -> bool:
    """Return whether the memory after a version lies on the store.

    Args:
        version: its number.
        charter: of the study.
        has_delta: the version travels as a delta.
    """
    return not has_delta or version % charter.keyframe_every == 0


class MemoryFiles:
    """Memories after versions in a folder, under their hashes.

    Args:
        weights: of versions.
        folder: where they are; may be deleted at any time.
        fetch: of payloads, into any folder.
    """

    def __init__(self, weights: WeightFiles, folder: Path, fetch: Fetch) -> None:
        self._weights, self._folder, self._fetch = weights, folder, fetch

    def of(self, state: StudyState, version: int) -> Path | None:
        """Return a file of the memory after a version; None if there is none.

        Raises:
            TensorError: a payload is damaged, or leads to another memory than was signed for.
            ObjectNotFoundError, SealedError, StoreError: what it takes cannot be read.
        """
        first = version
        while (path := self._ready(state.rounds[first])) is None and first > 0:
            if not state.rounds[first].memory_sha256:
                break
            first -= 1
        for number in range(first + 1, version + 1):
            before, path = path, self._make(state, state.rounds[number], path)
            if before is not None and number > first + 1:
                before.unlink()
        if version > first:
            text = "made the memory after version %d again, from what followed version %d"
            log.info(text, version, first)
        return path

    def keep(self, sha256: str, path: Path) -> Path:
        """Move a file here that is known to have this hash."""
        target = self._path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        return target

    def _ready(self, record: RoundRecord) -> Path | None:
        """Return the memory after a version, if it is here or on the store."""
        sha256 = record.memory_sha256
        if sha256 and self._path(sha256).exists() and file_sha256(self._path(sha256)) == sha256:
            return self._path(sha256)
        return self._fetch(record.state, MAX_MODEL_BYTES) if record.state else None

    def _make(self, state: StudyState, record: RoundRecord, before: Path | None) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            written, outputs = make_again(
                state, record, self._weights, Path(folder), fetch=self._fetch, memory=before
            )
            is_same = written.has_state and file_sha256(outputs.state) == record.memory_sha256
            if not is_same or written.weights_sha256 != record.weights_sha256:
                raise TensorError(
                    "made again, is not the one that was signed for",
                    about=f"the memory after version {record.version}",
                )
            self._weights.keep(written.weights_sha256, outputs.model)
            return self.keep(record.memory_sha256, outputs.state)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.safetensors"


def make_again(
    state: StudyState,
    record: RoundRecord,
    weights: WeightFiles,
    folder: Path,
    *,
    fetch: Fetch,
    memory: Path | None,
    ema: Path | None = None,
) -> tuple[Written, Outputs]:
    """Make a version again from the updates that its record names; return what came out.

    Args:
        state: accepted messages.
        record: of the version.
        weights: of versions.
        folder: for the files that are made.
        fetch: of updates.
        memory: after the version before; None if there is none.
        ema: likewise the exponential average; what is made of it is worth nothing without.

    Raises:
        TensorError: a payload is damaged, or holds other tensors than its site shares.
        ObjectNotFoundError, SealedError, StoreError: an update or a version cannot be read.
        SetupError, StudyError: see :func:`fedfs.exchange.make_version.make_version`.
    """
    manifests = []
    for used in record.updates:
        update = state.updates.get((used.site, used.base_version))
        if update is None:
            raise ObjectNotFoundError(
                f"The update of {used.site} from version {used.base_version} is not seen here.",
                hint="look from the host of the coordinator or of the aggregator",
            )
        manifests.append(update)
    payloads = {}
    for update in manifests:
        path = payloads[update.key] = fetch(update.payload, MAX_MODEL_BYTES)
        _check_layout(state, update, path, weights)
    summed = None
    if state.charter.secure_sums is not None and manifests:
        target = folder / "sum.safetensors"
        summed = unmask(state, record.version, payloads, target, fetch=fetch)
    outputs = outputs_in(folder)
    written = make_version(
        state,
        weights,
        outputs,
        version=record.version,
        updates=manifests,
        payloads=payloads,
        weights={used.site: used.weight for used in record.updates},
        memory=memory,
        ema=ema,
        summed=summed,
    )
    return written, outputs


def _check_layout(
    state: StudyState, update: UpdateManifest, path: Path, weights: WeightFiles
) -> None:
    base_path = weights.fetch(state.models, update.base_version)
    encoding = update_encoding(state.charter)
    with TensorFile(base_path) as base, TensorFile(path) as file:
        names = share_of(state, update.site, base.names).own
        check_no_frozen(state.charter, file.names)
        file.check_layout(update_layout(encoding, base, names))
