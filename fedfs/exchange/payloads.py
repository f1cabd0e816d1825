"""Payloads of a study: written by a site, fetched from a store, checked by whoever reads them.

What is fetched has the bytes that were signed for, is decrypted, and is kept under its hash.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fedfs.errors import (
    MisplacedError,
    ObjectTooLargeError,
    SealedError,
    TensorError,
    TrainingError,
)
from fedfs.learner import Array, Tensors
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter, PayloadRef
from fedfs.store.base import ReadableStore
from fedfs.store.local_files import file_sha256, replacing
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.encodings import Encoding, Entry
from fedfs.tensors.encodings.base import Delta
from fedfs.tensors.encodings.slices import read_parts
from fedfs.tensors.norms import sum_of_squares
from fedfs.tensors.safetensors_layout import AnyArray
from fedfs.tensors.safetensors_writer import TensorWriter
from fedfs.trust import sealing
from fedfs.trust.recipients import Vault

MAX_MODEL_BYTES = 32 * 2**30
"""Largest model anybody downloads; nnU-Net's largest presets are well below 2 GB."""

_SEAL_BYTES = 65_536
"""Bytes that encryption may add to a payload, beside one part in a thousand."""

_SLICE = 1 << 16
"""Values of an update that are checked at a time: they stay in the processor's cache."""


def _forget(_name: str, _residual: Array) -> None:
    """Keep nothing of what an update does not carry."""


def update_encoding(charter: Charter) -> Encoding:
    """Return how updates are written."""
    return encodings.by_name(charter.encoding.name, charter.encoding.options)


def write_update(
    path: Path,
    encoding: Encoding,
    trained: Tensors,
    base: Tensors,
    residual: Tensors,
    *,
    clip_norm: float | None = None,
    keep: Callable[[str, Array], None] = _forget,
) -> None:
    """Write the payload of an update, tensor by tensor: memory is that of a few times the largest.

    An update that is longer than ``clip_norm`` is scaled down to it, together with what was not
    carried before: what is cut off is not kept, so that it does not come later all the same.

    Args:
        path: file to write.
        encoding: of the payload.
        trained: canonical name -> trained values.
        base: the same tensors of the version that was trained from.
        residual: what the last update did not carry; names may be missing.
        clip_norm: largest L2 norm over all tensors of what is encoded; None for any.
        keep: called with the name of each tensor and what this update does not carry of it; not if
            the encoding is lossless.

    Raises:
        TrainingError: values are not finite, or the encoding cannot hold them.
    """
    scale = 1.0
    if clip_norm is not None:
        scale = min(1.0, clip_norm / max(_norm(trained, base, residual), clip_norm))
    shapes = {name: values.shape for name, values in base.items()}
    try:
        announced = encodings.payload_layout(encoding, shapes)
        with TensorWriter(path, announced, synced=False, as_library=True) as file:
            for name, values in base.items():
                given = _scaled(scale, trained[name], values, residual.get(name))
                encoded = encoding.encode(name, *given)
                for key, array in encoded.payload.items():
                    file.write(key, array)
                if encoded.residual is not None:
                    keep(name, encoded.residual)
    except TensorError as error:
        raise TrainingError(
            f"The trained weights cannot be sent: {error.reason}.",
            kind="not-finite",
            hint="look for extreme intensities in the images; the log of this host has more",
        ) from error


def _norm(trained: Tensors, base: Tensors, residual: Tensors) -> float:
    """Return the L2 norm of ``trained - base + residual``."""
    squares = 0.0
    for name, values in base.items():
        delta = np.subtract(trained[name], values, dtype=np.float64)
        squares += sum_of_squares(delta + residual[name] if name in residual else delta)
    return math.sqrt(squares)


def _scaled(
    scale: float, trained: Array, base: Array, residual: Array | None
) -> tuple[Array, Array, Array | None]:
    """Return new values, base and residual so that their delta is ``scale`` times as long."""
    if scale < 1.0:
        moved = base + scale * np.subtract(trained, base, dtype=np.float64)
        trained = np.asarray(moved, dtype=np.float32)
        residual = None if residual is None else np.asarray(scale * residual, dtype=np.float32)
    return trained, base, residual


def update_layout(
    encoding: Encoding, base: TensorFile, names: Mapping[str, str]
) -> dict[str, Entry]:
    """Return every tensor that a site's payload has to hold, with type and shape.

    Args:
        encoding: of the payload.
        base: weights of the version that was trained from.
        names: canonical names of what the site shares, see
            :class:`fedfs.aggregation.shared_tensors.Share`.
    """
    return encodings.payload_layout(encoding, {name: base.shape(name) for name in names})


def check_values(
    encoding: Encoding, payload: TensorFile, base: TensorFile, names: Mapping[str, str]
) -> float:
    """Decode a payload once; return how far it moves the model, as root mean square per value.

    Raises:
        TensorError: a value is not finite or out of range.
    """
    squares, n_values = 0.0, 0
    for name in names:
        n_values += math.prod(base.shape(name))
        squares += sum(map(sum_of_squares, _deltas(encoding, name, payload, base)))
    return math.sqrt(squares / n_values) if n_values else 0.0


def _deltas(
    encoding: Encoding, name: str, payload: TensorFile, base: TensorFile
) -> Iterator[Delta]:
    """Yield a tensor's decoded delta, in slices where the encoding has them."""
    if not encoding.elementwise:
        yield encoding.decode(name, payload, base.read(name))
        return
    parts: dict[str, AnyArray] = {}
    n = math.prod(base.shape(name))
    for start in range(0, n, _SLICE):
        stop = min(start + _SLICE, n)
        read_parts(encoding, name, payload, start, stop, parts)
        yield encoding.decode(name, parts, base.read_slice(name, start, stop))


def fetch_payload(
    store: ReadableStore,
    ref: PayloadRef,
    folder: Path,
    *,
    max_bytes: int,
    vault: Vault | None = None,
) -> Path:
    """Return a local copy of a tensor file, its hash checked; copies are kept by hash.

    Args:
        store: where it lies.
        ref: what a verified manifest says of it.
        folder: cache folder.
        max_bytes: the largest tensor file this reader accepts.
        vault: decrypts it, where it is encrypted.

    Raises:
        TensorError: too large, or its bytes are not those that were signed for.
        SealedError: it is encrypted for others.
        ObjectNotFoundError: it is not there.
        StoreError: the store cannot be read.
    """
    if not 0 < ref.tensors_size <= max_bytes:
        raise TensorError(
            f"has {ref.tensors_size} bytes; at most {max_bytes} are accepted", key=ref.key
        )
    if not 0 < ref.size <= ref.tensors_size + (ref.tensors_size >> 10) + _SEAL_BYTES:
        raise TensorError(f"has {ref.size} bytes encrypted, which is too many", key=ref.key)
    key = layout.parse(ref.key)
    if key is None or key.sha256 != ref.sha256:
        raise MisplacedError(f"names the payload {ref.key!r}, whose key is not that of its hash")
    path = folder / f"{ref.tensors_sha256}.safetensors"
    if path.exists() and file_sha256(path) == ref.tensors_sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    arrived = path.with_suffix(".age") if ref.is_sealed else path
    try:
        store.download(ref.key, arrived, max_bytes=ref.size)
    except ObjectTooLargeError as error:
        raise TensorError(f"is larger than the {ref.size} bytes signed for", key=ref.key) from error
    if arrived.stat().st_size != ref.size or file_sha256(arrived) != ref.sha256:
        arrived.unlink()
        raise TensorError("is damaged: its bytes are not those signed for", key=ref.key)
    if ref.is_sealed:
        try:
            decrypt(arrived, path, ref, vault)
        finally:
            arrived.unlink()
    return path


def decrypt(source: Path, target: Path, ref: PayloadRef, vault: Vault | None) -> None:
    """Decrypt a payload; it appears whole, and is what was signed for.

    Raises:
        SealedError: this host has no key for it.
        TensorError: what comes out is not what was signed for.
    """
    if vault is None:
        raise SealedError("is encrypted, and this host holds no key for it", key=ref.key)
    with replacing(target, durable=False, synced=False) as plain:
        with source.open("rb") as reader, plain.open("xb") as writer:
            sealing.unseal_file(reader, writer, vault.identities)
        if plain.stat().st_size != ref.content_size or file_sha256(plain) != ref.content_sha256:
            raise TensorError("is not what was signed for once it is decrypted", key=ref.key)


def prune_cache(folder: Path, keep: Iterable[str]) -> None:
    """Delete cached files whose name, a payload's hash, is not in ``keep``."""
    kept = {f"{name}.safetensors" for name in keep}
    for path in folder.glob("*.safetensors"):
        if path.name not in kept:
            path.unlink()
