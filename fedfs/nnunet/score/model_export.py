"""A global version as an ordinary nnU-Net model folder.

Rules:
 * The checkpoint is written by the trainer's own ``save_checkpoint``, so that every tool of nnU-Net
   takes it.
 * The folder appears whole, by one rename, and so does a fold that is added to it. What is there
   already stays: the same version of a fold counts as exported, a different one is an error, and so
   is a fold of a model with other plans.
 * Runs in a process of its own, see :mod:`fedfs.nnunet.system.isolated`.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.nnunet.allowed import allowlist, classes
from fedfs.nnunet.data.dataset_json import ordered, read_json
from fedfs.nnunet.settings import TrainerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import NnUNetPaths, set_variables
from fedfs.nnunet.system.output import capture_output
from fedfs.tensors.canonical import TensorFile, load_into, weights_sha256

log = logging.getLogger(__name__)

RECORD = "fedfs.json"
"""In the folder of a fold: which version it is, and the hash of its weights."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest(TrainerSettings):
    """A model to export, and its place.

    Attributes:
        tensors: safetensors file of canonical tensors.
        output: a results folder, as ``nnUNet_results``.
        dataset_name: ``DatasetXXX_NAME`` to export under.
        version: global version, for the record.
        epochs: nnU-Net epochs that went into it.
        kind: more fields of the record, where it is not the version itself.
        log: what nnU-Net logs of an epoch, for each version; drawn as ``progress.png``.
        summary: for ``validation/summary.json``, which nnU-Net's zip files take along.
        host: where the checkpoint is written, on its CPU.
    """

    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    tensors: str
    output: str
    dataset_name: str
    version: int
    epochs: int
    kind: Mapping[str, str] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportRequests:
    """Models that are exported by one process."""

    models: tuple[ExportRequest, ...]


def export_model(request: ExportRequest) -> Path:
    """Write the model folder and return it.

    Raises:
        MalformedError: the plans are refused.
        SetupError: there is no such trainer, or not for this host.
        TensorError: the tensors are not those of the network.
        UserError: a different model is there already.
    """
    plans = {**request.plans, "dataset_name": allowlist.check_dataset_name(request.dataset_name)}
    allowlist.check_plans(plans, request.configuration)
    allowlist.check_name("trainer", request.trainer)
    name = f"{request.trainer}__{plans['plans_name']}__{request.configuration}"
    target = Path(request.output) / request.dataset_name / name
    with TensorFile(Path(request.tensors)) as tensors:
        record = {
            "version": request.version,
            "fold": request.fold,
            "weights_sha256": weights_sha256(tensors),
            **request.kind,
        }
        fold = f"fold_{request.fold}"
        if (target / fold).exists():
            return _same(target, fold, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fedfs-export-", dir=target.parent) as temporary:
            made = _make(request, plans, tensors, Path(temporary))
            files.write_json(made / fold / RECORD, record)
            if target.exists():
                _add_fold(made, target, fold)
            else:
                made.rename(target)
    files.sync(target.parent)
    return target


def _add_fold(made: Path, target: Path, fold: str) -> None:
    """Move a fold into the folder of the others, if it is the same model's."""
    for name in ("plans.json", "dataset.json"):
        found = target / name
        if not found.exists() or read_json(found) != read_json(made / name):
            raise UserError(
                f"{target} exists and holds another model: its {name} is not this one's.",
                hint="choose another output folder, or move that one away",
            )
    (made / fold).rename(target / fold)
    files.sync(target)


def _make(
    request: ExportRequest, plans: Mapping[str, Any], tensors: TensorFile, room: Path
) -> Path:
    dataset_json = ordered(request.dataset_json)
    settings = replace(request, host=replace(request.host, device="cpu"))
    paths = NnUNetPaths(raw=room, preprocessed=room / "preprocessed", results=room / "results")
    with set_variables(paths.variables()), capture_output(log):
        trainer = classes.make_trainer(settings, plans, dataset_json)
        classes.initialize_without_data(trainer)
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # nnU-Net's spelling
        load_into(classes.plain_module(trainer), tensors)
        trainer.num_epochs = request.epochs
        trainer.current_epoch = request.epochs - 1  # saved as the number of completed epochs
        folder = Path(trainer.output_folder)
        shutil.rmtree(folder)  # holds a log of this moment only
        folder.mkdir()
        for number, epoch in enumerate(request.log):
            for name, value in epoch.items():
                trainer.logger.log(name, value, number)
        trainer.logger.plot_progress_png(str(folder))
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    files.write_json(folder / "validation" / "summary.json", request.summary)
    files.sync(folder / "checkpoint_final.pth")
    made = Path(trainer.output_folder_base)
    files.write_json(made / "plans.json", plans)
    files.write_json(made / "dataset.json", dataset_json)
    files.write_json(made / "dataset_fingerprint.json", request.fingerprint)
    return made


def _same(target: Path, fold: str, record: Mapping[str, Any]) -> Path:
    found = target / fold / RECORD
    if found.exists() and read_json(found) == record:
        log.info("%s has been exported before", target / fold)
        return target
    raise UserError(
        f"{target} exists and holds another model.",
        hint="choose another output folder, or move that one away",
    )
