"""Averages of versions as local files: of the last ones, made here, and the exponential one.

Rules:
 * A mean is formed in float64, in the order of the versions, and rounded to float32 once: the same
   bits on every host. It is made tensor by tensor, in the memory of one.
 * Version 0 holds the initial weights and is part of no mean.
 * The exponential average is the aggregator's work; what is fetched has the bytes signed for.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fedfs.errors import ObjectNotFoundError, StudyError, UserError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.learner import Array
from fedfs.protocol.state import StudyState
from fedfs.store.base import ReadableStore
from fedfs.tensors.canonical import TensorFile, stream_safetensors
from fedfs.trust.recipients import Vault


def last_versions(version: int, n: int) -> range:
    """Return the last ``n`` versions up to one.

    Raises:
        UserError: there are not as many.
    """
    if not 1 <= n <= version:
        raise UserError(
            f"The mean of the last {n} versions cannot be made of versions 1 to {version}.",
            hint="version 0, the initial weights, is never part of it",
        )
    return range(version - n + 1, version + 1)


def write_mean(
    state: StudyState, weights: WeightFiles, versions: Sequence[int], path: Path
) -> None:
    """Write the mean of versions.

    Args:
        state: accepted messages.
        weights: where versions are fetched to.
        versions: ascending, at least one.
        path: safetensors file to write.

    Raises:
        StudyError: a version is not on the store any more.
        TensorError: a payload is damaged.
        StoreError: the store cannot be read.
    """
    with ExitStack() as stack:
        files = []
        for version in versions:
            try:
                fetched = weights.fetch(state.models, version)
            except ObjectNotFoundError as error:
                raise StudyError(
                    f"Version {version} is not on the store any more.",
                    hint="average fewer versions; the aggregator keeps those of --keep-versions",
                ) from error
            files.append(stack.enter_context(TensorFile(fetched)))
        first = files[0]

        def mean(name: str) -> Array:
            total = np.zeros(first.shape(name), dtype=np.float64)
            for file in files:
                total += file.read(name)
            return np.asarray(total / len(files), dtype=np.float32)

        stream_safetensors(path, {name: first.shape(name) for name in first.names}, mean)


def fetch_ema(
    state: StudyState, store: ReadableStore, version: int, folder: Path, vault: Vault | None
) -> Path:
    """Return a file of the exponential average of the versions up to one.

    Raises:
        StudyError: the study has none, or it is not on the store any more.
        TensorError: it is damaged.
        StoreError: the store cannot be read.
    """
    ref = state.models[version].ema
    if ref is None:
        raise StudyError(
            f"There is no exponential average with version {version}.",
            hint="one is made from version 1 on, in a study that began with --ema",
        )
    try:
        return fetch_payload(store, ref, folder, max_bytes=MAX_MODEL_BYTES, vault=vault)
    except ObjectNotFoundError as error:
        raise StudyError(
            f"The exponential average with version {version} is not on the store any more.",
            hint="take that of a newer version; the aggregator keeps those of --keep-versions",
        ) from error
