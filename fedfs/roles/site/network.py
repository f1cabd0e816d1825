"""A site's network at a global version: what it shares, as the version has it, and what is its own.

In the mode ``ffe`` the whole network is the version's, but for what sites keep local. That, and in
the mode ``asym`` the site's private tensors, are those that its last update left at the site.
Before its first, they are the version's, where it has them, or as the trainer initialises them.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfs.aggregation.shared_tensors import Share, share_of
from fedfs.errors import SetupError, StudyError, TrainingError
from fedfs.exchange.averages import fetch_ema, last_versions, write_mean
from fedfs.exchange.frozen_tensors import load_frozen
from fedfs.exchange.global_weights import WeightFiles
from fedfs.learner import Array, Learner, OnProgress, OwnPlan, Tensors
from fedfs.protocol.messages import ASYM, SitePlan
from fedfs.protocol.state import StudyState
from fedfs.roles.site.residual import KeptTensorFiles
from fedfs.store.base import ReadableStore
from fedfs.tensors.canonical import TensorFile, weights_sha256
from fedfs.trust.recipients import Vault

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteNetwork:
    """A site's network at a version, to train from and to evaluate.

    Attributes:
        version: the global version.
        weights_sha256: of the global version.
        share: what the site shares.
        shared: canonical name -> tensor of the version, as far as it is in the site's updates.
        frozen: own name -> tensor that the study leaves as it is.
        tensors: own name -> tensor, all of the site's network.
        residual: what the site's last update did not carry, read when it is looked up. Of local
            tensors there is none: the site trains on from its own values, which have it.
    """

    version: int
    weights_sha256: str
    share: Share
    shared: Tensors
    frozen: Tensors
    tensors: Tensors
    residual: Tensors

    @property
    def private(self) -> frozenset[str]:
        """Own names of the tensors of which the site has its own values."""
        return self.share.private(set(self.tensors) - set(self.frozen))

    def with_shared(self, version: Tensors) -> dict[str, Array]:
        """Return the site's network with other values of what versions have, by canonical name."""
        private = {name: self.tensors[name] for name in self.private}
        return {**self.share.compose(version, private), **self.frozen}

    def require_frozen(self, trained: Tensors) -> None:
        """Check that training has left the frozen tensors as they were, bit by bit.

        Raises:
            TrainingError: it has not.
        """
        changed = [
            name
            for name, values in self.frozen.items()
            if values.tobytes() != trained[name].tobytes()
        ]
        if changed:
            raise TrainingError(
                f"Training has changed the tensor {changed[0]}, which this study leaves as it is.",
                kind="crash",
                hint="the trainer writes it without a gradient; choose another trainer",
            )


def own_plan(learner: Learner, published: SitePlan, on_progress: OnProgress) -> OwnPlan:
    """Return the site's own plan, made again (mode ``asym``).

    Raises:
        SetupError: it is not the one that the site has published.
    """
    own = learner.plan(on_progress, is_published=True)
    if own.plans_sha256 != published.plans_sha256:
        raise SetupError(
            "Planning gives another plan than this site has published.",
            hint="the dataset, nnunetv2 or how this site plans has changed since: "
            "restore it, or start a new study",
        )
    return own


def adopted_plan(
    state: StudyState, site: str, learner: Learner, on_progress: OnProgress
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return plans and fingerprint that a site trains with: the federated, or its own (``asym``).

    Raises:
        StudyError: there is no plan yet.
        SetupError: the site's own plan is not the one that it has published.
    """
    if state.plan is None:
        raise StudyError("There is no plan to adopt.")
    if state.charter.mode != ASYM:
        return state.plan.plans, state.plan.fingerprint
    own = own_plan(learner, state.site_plans[site], on_progress)
    return own.plans, own.fingerprint


class SiteNetworks:
    """Puts a site's network together, and keeps what its updates leave behind.

    Args:
        site: the site's name.
        store: where versions are published.
        learner: initialises private tensors.
        folder: fedfs's own folder for this site.
        cache: for versions; by default a part of that folder.
        vault: decrypts versions, where they are encrypted.
    """

    def __init__(
        self,
        site: str,
        store: ReadableStore,
        learner: Learner,
        folder: Path,
        *,
        cache: Path | None = None,
        vault: Vault | None = None,
    ) -> None:
        self._site = site
        self._store, self._vault, self._folder = store, vault, folder
        self._learner = learner
        self._weights = WeightFiles(store, cache or folder / "models", vault)
        self._kept_files = KeptTensorFiles(folder)
        self._loaded: SiteNetwork | None = None
        self._frozen: Tensors | None = None

    def load(self, version: int, state: StudyState) -> SiteNetwork:
        """Return the site's network at a version; the last one stays in memory.

        Raises:
            TensorError, ObjectNotFoundError, StoreError: see
            :meth:`fedfs.exchange.global_weights.WeightFiles`.
        """
        self._read_own_plan(state)
        model = state.models[version]
        if self._loaded is not None and self._loaded.version == version:
            return self._loaded  # evaluated, now to be trained from
        path = self._weights.fetch(state.models, version)
        self._weights.prune([model.weights_sha256])
        with TensorFile(path) as file:
            share = share_of(state, self._site, file.names)
            of_version = {name: file.read(name) for name in share.in_versions}
        before = {number for number in self._published(state) if number < version}
        kept = self._kept_files.load(version, before, without=share.local)
        private = self._private(share, state, kept.private, is_first=not before)
        if self._frozen is None:
            self._frozen = load_frozen(
                state.charter, self._store, self._folder / "pretrained", self._vault
            )
        self._loaded = SiteNetwork(
            version,
            model.weights_sha256,
            share,
            shared={name: of_version[name] for name in share.own},
            frozen=self._frozen,
            tensors={**share.compose(of_version, private), **self._frozen},
            residual=kept.residual,
        )
        return self._loaded

    def at_average(self, version: int, variant: str, state: StudyState) -> tuple[Tensors, str]:
        """Return the site's network with an average of versions, and the hash of its tensors.

        What the site has values of its own of, it has as at that version.

        Args:
            version: the last that counts.
            variant: ``average`` or ``ema``, as the charter says.
            state: accepted messages.

        Raises: as :meth:`load`.
        """
        network = self.load(version, state)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            if variant == "ema":
                path = fetch_ema(state, self._store, version, Path(folder), self._vault)
            else:
                path = Path(folder) / "mean.safetensors"
                versions = last_versions(version, state.charter.average_last)
                write_mean(state, self._weights, versions, path)
                self._weights.prune([network.weights_sha256])
            with TensorFile(path) as file:
                tensors = network.with_shared({n: file.read(n) for n in network.share.in_versions})
        return tensors, weights_sha256(tensors)

    def keeping(
        self, network: SiteNetwork, state: StudyState, *, trained: Tensors, is_lossless: bool
    ) -> AbstractContextManager[Callable[[str, Array], None]]:
        """Keep what an update from ``network`` leaves behind, while it is encoded.

        Args:
            network: that was trained.
            state: accepted messages.
            trained: its tensors, by own name.
            is_lossless: the update leaves no residual.

        Returns:
            A context that gives a function, which takes the residual of each tensor.
        """
        shapes = {name: values.shape for name, values in network.shared.items()}
        return self._kept_files.writing(
            network.version,
            self._published(state),
            residual={} if is_lossless else shapes,
            private={name: trained[name] for name in network.private},
        )

    def _read_own_plan(self, state: StudyState) -> None:
        """Make the site's own plan again where it is encrypted for a key that was lost."""
        published = state.site_plans.get(self._site)
        if state.charter.mode == ASYM and published is not None and not published.tensors:
            own = own_plan(self._learner, published, lambda _: None)
            state.site_plans[self._site] = replace(
                published, configuration=own.configuration, tensors=own.tensors
            )

    def _private(
        self, share: Share, state: StudyState, kept: Tensors, *, is_first: bool
    ) -> Tensors:
        plan, local = state.site_plans.get(self._site), share.local.values()
        names = share.private(plan.tensors if plan else local)
        if not names:
            return {}
        if names == set(kept):
            return kept
        if not is_first:
            log.warning("this site's private tensors are lost: it starts them anew")
        elsewhere = names - set(local)  # the version has the others
        initial = self._learner.initial_weights() if elsewhere else {}
        return {name: initial[name] for name in elsewhere}

    def _published(self, state: StudyState) -> set[int]:
        return {version for site, version in state.updates if site == self._site}
