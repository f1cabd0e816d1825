"""Tensors that a study leaves as they are: fetched, checked, put beside what it trains.

They are part of the weights that the charter names, which lie on the store once. Whoever needs them
takes them from there, and believes them if they have the hash that the charter was signed with.
"""

from contextlib import ExitStack
from pathlib import Path

from fedfs.aggregation.trained_tensors import frozen_names
from fedfs.errors import TensorError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.learner import Array
from fedfs.protocol.messages import Charter
from fedfs.store.base import ReadableStore
from fedfs.tensors.canonical import TensorFile, stream_safetensors, weights_sha256
from fedfs.trust.recipients import Vault


def fetch_frozen(
    charter: Charter, store: ReadableStore, folder: Path, vault: Vault | None = None
) -> Path | None:
    """Return a file that holds a study's frozen tensors, and others; None if there are none.

    Args:
        charter: of the study.
        store: where its weights are.
        folder: cache.
        vault: decrypts them, where they are encrypted.

    Raises:
        TensorError: it is damaged, or its frozen tensors are not those that were signed for.
        ObjectNotFoundError, SealedError, StoreError: it cannot be read.
    """
    spec, ref = charter.train_only, charter.pretrained
    if spec is None or ref is None:
        return None
    path = fetch_payload(store, ref, folder, max_bytes=MAX_MODEL_BYTES, vault=vault)
    with TensorFile(path) as file:
        if weights_sha256(file, frozen_names(charter, file.names)) != spec.frozen_sha256:
            raise TensorError("has other frozen tensors than the charter", key=ref.key)
    return path


def load_frozen(
    charter: Charter, store: ReadableStore, folder: Path, vault: Vault | None = None
) -> dict[str, Array]:
    """Return a study's frozen tensors; see :func:`fetch_frozen`."""
    path = fetch_frozen(charter, store, folder, vault)
    if path is None:
        return {}
    with TensorFile(path) as file:
        return {name: file.read(name) for name in frozen_names(charter, file.names)}


def complete(
    charter: Charter,
    version: Path,
    store: ReadableStore,
    folder: Path,
    vault: Vault | None = None,
) -> Path:
    """Return a file of a version together with what its study leaves frozen.

    Args:
        charter: of the study.
        version: tensors that it trains.
        store: where its weights are.
        folder: for what is fetched and made.
        vault: decrypts them, where they are encrypted.

    Raises: as :func:`fetch_frozen`.
    """
    path = fetch_frozen(charter, store, folder / "frozen", vault)
    if path is None:
        return version
    with ExitStack() as stack:
        trained, given = (stack.enter_context(TensorFile(file)) for file in (version, path))
        parts = dict.fromkeys(frozen_names(charter, given.names), given)
        parts |= dict.fromkeys(trained.names, trained)
        made = folder / "complete.safetensors"
        stream_safetensors(
            made, {n: of.shape(n) for n, of in parts.items()}, lambda name: parts[name].read(name)
        )
    return made
