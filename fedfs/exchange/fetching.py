"""Get payloads from a store: checked against what was signed for, decrypted, kept by hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedfs.errors import MisplacedError, ObjectTooLargeError, SealedError, TensorError
from fedfs.protocol import layout
from fedfs.protocol.messages import PayloadRef
from fedfs.store.base import ReadableStore
from fedfs.store.local_files import file_sha256, replacing
from fedfs.trust import sealing
from fedfs.trust.recipients import Vault

MAX_MODEL_BYTES = 32 * 2**30
"""Largest model anybody downloads; nnU-Net's largest presets are well below 2 GB."""

_SEAL_BYTES = 65_536
"""What encryption may add to a payload, beside one part in a thousand."""


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
    with replacing(target, durable=False) as plain:
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
