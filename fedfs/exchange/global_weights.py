"""Weights of global versions as local files: fetched, made from deltas, checked, kept.

Rules:
 * A version travels as its weights, or as a delta to the version before, which also has its weights
   in full (a keyframe) now and then. What is read is what costs the fewest bytes: deltas from a
   version that is here, or the newest keyframe and the deltas after it.
 * Old payloads may have been deleted. What leads to the newest version in full is there.
 * Whatever way it was made, a version's weights are believed only if they have the hash that its
   manifest was signed for: all hosts have the same bits.
 * The folder is a cache. It may be deleted at any time, and is checked anew by every process.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedfs.errors import MisplacedError, ObjectNotFoundError, RejectedError, TensorError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload, prune_cache
from fedfs.protocol.messages import ModelManifest, PayloadRef
from fedfs.store.base import ReadableStore
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, stream_safetensors, weights_sha256
from fedfs.trust.recipients import Vault

_PREFIX = "weights-"


class WeightFiles:
    """The weights of versions in a folder.

    Args:
        store: where versions are published.
        folder: the cache; made when it is needed.
        vault: decrypts them, where they are encrypted.
    """

    def __init__(self, store: ReadableStore, folder: Path, vault: Vault | None = None) -> None:
        self._store = store
        self._vault = vault
        self._folder = folder
        self._checked: set[str] = set()

    def fetch(self, models: Mapping[int, ModelManifest], version: int) -> Path:
        """Return a file of a version's weights, float32.

        Args:
            models: accepted manifests of all versions up to this one.
            version: the version wanted.

        Raises:
            TensorError: a payload is damaged, or leads to other weights than were signed for.
            ObjectNotFoundError: a payload is not there.
            StoreError: the store cannot be read.
        """
        try:
            return self._make(models, self._cheapest_start(models, version), version)
        except ObjectNotFoundError:
            # Deltas from a version that is here go earlier than those from the newest full one.
            full = max((n for n in models if n <= version and models[n].full), default=version)
            return self._make(models, full, version)

    def keep(self, sha256: str, path: Path) -> Path:
        """Move a file into the cache whose weights are known to have this hash."""
        target = self._path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        self._checked.add(sha256)
        return target

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all weights but those with these hashes, and payloads they were made from."""
        prune_cache(self._folder, (f"{_PREFIX}{sha256}" for sha256 in keep))

    def _make(self, models: Mapping[int, ModelManifest], start: int, version: int) -> Path:
        path = self._begin(models[start])
        for number in range(start + 1, version + 1):
            path = self._apply(models[number], path)
        return path

    def _cheapest_start(self, models: Mapping[int, ModelManifest], version: int) -> int:
        """Return the version from which on deltas are applied: one that is here, or a full one."""
        n_bytes = 0
        full: tuple[int, int] | None = None
        for number in range(version, -1, -1):
            model = models[number]
            if self._is_here(model.weights_sha256):
                return number if full is None or n_bytes <= full[0] else full[1]
            if model.full is not None and full is None:
                full = (n_bytes + model.full.size, number)
            n_bytes += model.payload.size
            if full is not None and n_bytes >= full[0]:
                break
        if full is None:
            raise MisplacedError(
                "cannot be made: no full version leads to it", key=models[version].key
            )
        return full[1]

    def _is_here(self, sha256: str) -> bool:
        path = self._path(sha256)
        if not path.exists():
            self._checked.discard(sha256)
        elif sha256 not in self._checked:
            try:
                self._check(path, sha256)
            except RejectedError:
                path.unlink()
        return sha256 in self._checked

    def _begin(self, model: ModelManifest) -> Path:
        if self._is_here(model.weights_sha256):
            return self._path(model.weights_sha256)
        if model.full is None:
            raise MisplacedError("cannot be made: its weights are nowhere in full", key=model.key)
        return self._accept(model, self._fetch(model.full))

    def _apply(self, model: ModelManifest, base_path: Path) -> Path:
        """Make a version from the one before and its delta."""
        encoding = encodings.by_name(model.encoding, model.encoding_options)
        delta_path = self._fetch(model.payload)
        made = self._folder / f"made-{model.version:05d}-{os.getpid()}.safetensors"
        with TensorFile(base_path) as base, TensorFile(delta_path) as delta:
            shapes = {name: base.shape(name) for name in base.names}
            delta.check_layout(encodings.payload_layout(encoding, shapes))
            stream_safetensors(
                made, shapes, lambda name: encoding.reconstruct(name, delta, base.read(name))
            )
        delta_path.unlink()
        return self._accept(model, made)

    def _fetch(self, ref: PayloadRef) -> Path:
        return fetch_payload(
            self._store, ref, self._folder, max_bytes=MAX_MODEL_BYTES, vault=self._vault
        )

    def _accept(self, model: ModelManifest, path: Path) -> Path:
        try:
            self._check(path, model.weights_sha256)
        except RejectedError as error:
            path.unlink()
            raise TensorError(error.fault, about=error.about, key=model.key) from error
        return self.keep(model.weights_sha256, path)

    def _check(self, path: Path, sha256: str) -> None:
        with TensorFile(path) as file:
            if weights_sha256(file) != sha256:
                raise TensorError("has other weights than those signed for")
        self._checked.add(sha256)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{_PREFIX}{sha256}.safetensors"
