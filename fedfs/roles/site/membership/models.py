"""Models that a site tests for membership: versions, its own updates, and what it trained itself.

Rules:
 * An update is what its readers make of it: the version that it was trained from, and the payload
   on the store, decoded. What its encoding left out is in the model that the site trained.
 * What the site keeps to itself (private and local tensors) it has as it is now, in all of them:
   nobody else has it.
 * With secure sums nobody reads an update: there is none among them.
 * The store is read, and nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfs.errors import ObjectNotFoundError, SealedError, StudyError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.observer import Observer
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload, update_encoding
from fedfs.learner import Array, Learner, Tensors
from fedfs.nnunet.plan.pretrained import read_checkpoint
from fedfs.nnunet.score.finish import find_validation
from fedfs.nnunet.system.files import file_sha256
from fedfs.roles.site.network import SiteNetworks
from fedfs.roles.site.residual import KeptTensorFiles
from fedfs.roles.site.training import LOCAL, PERSONAL, training_folder
from fedfs.tensors.canonical import TensorFile

VERSION, UPDATE, TRAINED = "version", "update", "trained"
KINDS = {
    UPDATE: "the site's update, as the aggregator sees it",
    TRAINED: "the model that the site trained, of which the update is what was sent",
    VERSION: "a global version, as all sites see it",
    LOCAL: "the site's local model, which stays here",
    PERSONAL: "the site's personal model, which stays here",
}
"""Kind of model -> what it is, and who sees it."""


@dataclass(frozen=True, order=True)
class Target:
    """A model to test.

    Attributes:
        version: the global version; of an update, that which it was trained from.
        kind: one of :data:`KINDS`.
        sha256: of what it is made from.
    """

    version: int
    kind: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """Name of a file of it."""
        return f"{self.kind}-{self.version:05d}"


class SiteModels:
    """The models of a site on one track.

    Args:
        site: the site's name.
        observer: shows the track.
        learner: initialises private tensors.
        folder: fedfs's own folder for the site's track.
        scratch: folder for what is fetched.
    """

    def __init__(
        self, site: str, observer: Observer, learner: Learner, folder: Path, scratch: Path
    ) -> None:
        self._site, self._state, self._store = site, observer.state, observer.store
        self._vault, self._folder, self._scratch = observer.vault, folder, scratch
        self._weights = WeightFiles(self._store, scratch / "versions", self._vault)
        networks = SiteNetworks(
            site, self._store, learner, folder, cache=scratch / "versions", vault=self._vault
        )
        self.network = networks.load(self._state.newest, self._state)
        self._kept = KeptTensorFiles(folder)

    def targets(self) -> Iterator[Target]:
        """Return all of them, in the order in which they were made."""
        state, newest = self._state, self._state.newest
        is_masked = state.charter.secure_sums is not None
        for version in range(newest + 1):
            yield Target(version, VERSION, state.models[version].weights_sha256)
            update = state.updates.get((self._site, version))
            if update is not None and not is_masked:
                yield Target(version, UPDATE, update.payload.tensors_sha256)
        if self._numbers and not is_masked and self._residuals()[1]:
            last = max(self._numbers)
            sent = state.updates[self._site, last].payload.tensors_sha256
            yield Target(last, TRAINED, sent)
        for kind in (LOCAL, PERSONAL):
            path = self._checkpoint(kind)
            if path is not None:
                yield Target(newest, kind, file_sha256(path))

    def tensors(self, target: Target) -> Tensors:
        """Return the weights of a model, by this site's own names.

        Raises:
            StudyError: this host cannot read it, or not any more.
            RejectedError, StoreError: see :func:`fedfs.exchange.payloads.fetch_payload`.
        """
        if target.kind in (LOCAL, PERSONAL):
            path = self._checkpoint(target.kind)
            return {} if path is None else read_checkpoint(path)
        try:
            base = self._version(target.version)
            if target.kind == VERSION:
                return self.network.with_shared(base)
            sent = self._sent(target.version, base)
        except ObjectNotFoundError as error:
            raise StudyError(
                f"The payload of {target.kind} {target.version} is not on the store any more.",
                hint="test each version while it is there: --keep-versions deletes it later",
            ) from error
        except SealedError as error:
            raise StudyError(
                f"The payload of {target.kind} {target.version} is encrypted for others only.",
                hint="is this the host that the site joined on? Its encryption key is needed",
            ) from error
        if target.kind == TRAINED:
            before, after = self._residuals()
            sent = {
                name: value + after.get(name, np.float32(0)) - before.get(name, np.float32(0))
                for name, value in sent.items()
            }
        own = self.network.share.own
        return {
            **self.network.with_shared({**base, **sent}),
            **{own[name]: value for name, value in sent.items()},
        }

    def _version(self, version: int) -> dict[str, Array]:
        path = self._weights.fetch(self._state.models, version)
        self._weights.prune([self._state.models[version].weights_sha256])
        with TensorFile(path) as file:
            return {name: file.read(name) for name in self.network.share.in_versions}

    def _sent(self, version: int, base: Tensors) -> dict[str, Array]:
        """Return what whoever reads an update takes for the trained tensors."""
        encoding = update_encoding(self._state.charter)
        path = fetch_payload(
            self._store,
            self._state.updates[self._site, version].payload,
            self._scratch / "updates",
            max_bytes=MAX_MODEL_BYTES,
            vault=self._vault,
        )
        with TensorFile(path) as payload:
            made = {
                name: np.asarray(
                    base[name] + encoding.decode(name, payload, base[name]), dtype=np.float32
                )
                for name in self.network.share.own
            }
        path.unlink()
        return made

    @property
    def _numbers(self) -> set[int]:
        return {version for site, version in self._state.updates if site == self._site}

    def _residuals(self) -> tuple[Tensors, Tensors]:
        """Return what encoding left out until before the last update, and after it."""
        last = max(self._numbers)
        before, after = (self._kept.load(n, self._numbers) for n in (last, last + 1))
        return before.residual, after.residual

    def _checkpoint(self, kind: str) -> Path | None:
        """Return nnU-Net's checkpoint of an own model that has been made."""
        validation = find_validation(training_folder(self._folder, kind))
        path = validation and validation.folder.with_name("checkpoint_final.pth")
        return path if path and path.exists() else None
