"""A new study that goes on where a finished one ended: same plan, its last version as version 0.

Rules:
 * What decides the network, its images and its folds is the finished study's: dataset, plan,
   configuration, planner, trainer, fold. All else is said anew; so are roster and keys.
 * The finished study is read and verified like by any other reader, from its store alone.
 * What was encrypted stays so: an encrypted study is gone on from by an encrypted one only.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import SealedError, StudyError, UserError
from fedfs.exchange.frozen_tensors import complete
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.read import open_study
from fedfs.nnunet.allowed import allowlist, classes
from fedfs.nnunet.data.dataset_json import difference, ordered
from fedfs.protocol import codec, software
from fedfs.protocol.messages import ASYM, Continued, TrackCharter, track_names
from fedfs.store.base import ReadableStore
from fedfs.tensors.canonical import TensorFile, weights_sha256
from fedfs.trust.recipients import Vault

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedStudy:
    """A study to go on from.

    Attributes:
        charter: its last one.
        continues: what the new charter says of it; its plan has its old names still.
        weights: file of its last version, of all its tensors.
    """

    charter: TrackCharter
    continues: Continued
    weights: Path

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return :class:`~fedfs.roles.coordinator.options.StudyOptions` of a study that goes on.

        Args:
            given: what the coordinator has chosen; nothing that is only a default.

        Raises:
            UserError: it is not as in the finished study, where it has to be.
        """
        dataset, spec = self.charter.dataset, self.charter.nnunet
        fixed = {
            "mode": self.charter.mode,
            "configuration": self.charter.configuration,
            "planner": spec.planner,
            "trainer": spec.trainer,
            "fold": self.charter.fold,
            "gpu_memory_target_gb": spec.gpu_memory_target_gb,
            "target_spacing": spec.target_spacing,
            "planner_options": dict(spec.planner_options),
        }
        for name, value in fixed.items():
            if name in given and given[name] != value:
                raise UserError(
                    f"The {name} {given[name]!r} is not that of study {self.charter.name!r}, which "
                    f"has {value!r}.",
                    hint="leave it out: a study that continues another one has the same network",
                ).of(name)
        content = ordered(self.charter.dataset_json())
        differs = difference(codec.to_json(dataset), given.get("dataset_json", content))
        if differs:
            raise UserError(
                f"The dataset.json disagrees with study {self.charter.name!r}:\n  "
                + "\n  ".join(differs),
                hint="leave out --dataset-json: channels and labels are those of that study",
            ).of("dataset_json")
        if self.charter.encryption and not given.get("encryption"):
            raise UserError(
                f"Study {self.charter.name!r} is encrypted; the new one would show its plan and "
                "weights to all who can read the store.",
                hint=f"give --encryption {self.charter.encryption}",
            ).of("encryption")
        return {"dataset_name": dataset.name, "dataset_json": content, **given, **fixed}


def read_finished(
    store: ReadableStore, folder: Path, track: str | None = None, vault: Vault | None = None
) -> FinishedStudy:
    """Return a finished study, verified.

    Args:
        store: where it is.
        folder: for its last version, which is downloaded.
        track: that is gone on from; a study of several tracks needs its name.
        vault: decrypts it, where it is encrypted.

    Raises:
        StudyError: there is none, it is not finished, or it cannot be gone on from.
        SealedError: it is encrypted, and this host cannot read it.
        RejectedError: its last version or its plan is not as it should be.
        StoreError: the store cannot be read.
    """
    observer = open_study(store, track=track, vault=vault)
    state = observer.state
    charter, plan, finished = state.charter, state.plan, state.finished
    if track is None and len(charter.tracks) > 1:
        raise StudyError(
            f"Study {charter.name!r} has several tracks.",
            hint=f"name the one to go on from with --continue-track: "
            f"{', '.join(track_names(charter))}",
        )
    if charter.mode == ASYM:
        raise StudyError(
            f"Study {charter.name!r} cannot be continued: in the mode asym every site has a "
            "network of its own, part of which only the site has.",
            hint="start anew; --pretrained takes a site's exported model",
        )
    if charter.withholds:
        raise StudyError(
            f"Study {charter.name!r} cannot be continued: its last version lacks the normalisation "
            "layers, which every site has kept to itself.",
            hint="start anew; --pretrained takes a site's exported model",
        )
    if charter.evaluates:
        raise StudyError(
            f"Study {charter.name!r} trains nothing, so that there is nothing to go on from.",
            hint="--pretrained takes a checkpoint of a model that it evaluates",
        )
    if plan is None or finished is None or finished.version not in state.models:
        raise StudyError(
            f"Study {charter.name!r} is not finished: it has version {max(state.newest, 0)} of "
            f"{charter.schedule.rounds}.",
            hint=f"wait for it, see: fedfs status {store.url}",
        )
    if not plan.plans:
        raise SealedError(
            "is encrypted, and this host holds no key for it",
            about=f"the study {charter.name!r}",
            hint="go on from it on its coordinator's host, or on that of one of its sites",
        )
    model = state.models[finished.version]
    if model.weights_sha256 != finished.weights_sha256:
        raise StudyError(
            f"Study {charter.name!r} ended with other weights than its last version.",
            hint="check that study with: fedfs verify",
        )
    allowlist.check_plans(plan.plans, charter.configuration)
    for difference_ in software.differences(plan.versions, classes.versions()):
        log.warning("%s of study %r", difference_, charter.name)
    version = WeightFiles(observer.store, folder, vault).fetch(state.models, finished.version)
    weights, sha256 = version, model.weights_sha256
    if charter.train_only is not None:
        weights = complete(charter, version, observer.store, folder, vault)
        with TensorFile(weights) as file:
            sha256 = weights_sha256(file)
    return FinishedStudy(
        charter=charter,
        continues=Continued(
            study=charter.study,
            version=finished.version,
            weights_sha256=sha256,
            plans=plan.plans,
            versions=plan.versions,
        ),
        weights=weights,
    )
