"""A site's member of an ensemble: the model that its update says, whoever decodes it."""

import tempfile
from pathlib import Path

import numpy as np

from fedfs.errors import SealedError, StudyError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload, update_encoding
from fedfs.learner import Array
from fedfs.protocol.ensemble import BASE
from fedfs.protocol.messages import PayloadRef
from fedfs.protocol.state import StudyState
from fedfs.store.base import ReadableStore
from fedfs.tensors.canonical import TensorFile, stream_safetensors
from fedfs.trust.recipients import Vault


def write_member(
    site: str, state: StudyState, store: ReadableStore, vault: Vault | None, path: Path
) -> None:
    """Write the tensors of a site's model after the only round.

    Args:
        site: whose update is on the store.
        state: accepted messages.
        store: shows the track.
        vault: decrypts, where payloads are encrypted; the site can read its own update.
        path: safetensors file to write.

    Raises:
        StudyError: this host cannot decrypt the update.
        TensorError, ObjectNotFoundError, StoreError: see
            :func:`fedfs.exchange.payloads.fetch_payload`.
    """
    update, encoding = state.updates[site, BASE], update_encoding(state.charter)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        base_path = WeightFiles(store, Path(folder) / "base", vault).fetch(state.models, BASE)
        update_path = _fetch_update(update.payload, store, Path(folder), vault)
        with TensorFile(base_path) as base, TensorFile(update_path) as payload:

            def trained(name: str) -> Array:
                values = base.read(name)
                return np.asarray(values + encoding.decode(name, payload, values), dtype=np.float32)

            stream_safetensors(path, {name: base.shape(name) for name in base.names}, trained)


def _fetch_update(ref: PayloadRef, store: ReadableStore, folder: Path, vault: Vault | None) -> Path:
    try:
        return fetch_payload(store, ref, folder, max_bytes=MAX_MODEL_BYTES, vault=vault)
    except SealedError as error:
        raise StudyError(
            "This host cannot decrypt the update that it has published.",
            hint="is this the host that the site joined on? Its encryption key is needed",
        ) from error
