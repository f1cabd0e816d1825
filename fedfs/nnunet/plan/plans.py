"""Planning from a fingerprint: the federated one, at the aggregator, or a site's own, at the site.

Rules:
 * nnU-Net's own planner makes the plan. It is given a raw dataset without images, the fingerprint
   and ``numTraining``, summed over the sites, because the batch size depends on it.
 * There is no image here to try readers on: the reader is the first that nnU-Net lists for the file
   ending. Sites put their own into the plan, and nothing else but their dataset's name.
 * Preprocessed data are kept apart from those of plans that a site made for itself: every
   configuration's ``data_identifier`` carries the name of these plans.
 * Initial weights come from the trainer's own ``initialize`` under a seed: the same for the same
   architecture and seed. torch's random stream in this process is as before.

Both functions import nnunetv2. The aggregator runs them in a process of their own, see
:mod:`fedfs.nnunet.system.isolated`.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation.trained_tensors import is_segmentation_layer
from fedfs.errors import StudyError, UserError
from fedfs.learner import Array
from fedfs.nnunet.allowed import allowlist, classes
from fedfs.nnunet.data.dataset_json import ordered, read_json
from fedfs.nnunet.plan.overlay import overlay_tensors
from fedfs.nnunet.settings import PlannerSettings, TrainerSettings
from fedfs.nnunet.system.environment import AUGMENTATION_WORKERS, NnUNetPaths, set_variables
from fedfs.nnunet.system.output import capture_output
from fedfs.tensors.canonical import TensorFile, extract, write_safetensors

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PlannerSettings):
    """Input of a plan.

    Attributes:
        fingerprint: federated fingerprint in nnU-Net's format.
        n_cases: cases of all sites together.
        configuration: must be among the configurations that nnU-Net plans; or several, separated
            by commas, of which one must be.
    """

    fingerprint: Mapping[str, Any]
    n_cases: int
    configuration: str


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """Plans and the ``dataset.json`` they were made for, as JSON values, and package versions."""

    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class WeightsRequest(TrainerSettings):
    """Input of version 0.

    Attributes:
        plans: nnU-Net plans.
        dataset_json: as in the plan's result.
        seed: of torch's random numbers while the network is made.
        pretrained: safetensors of canonical tensors to start from, segmentation layers apart.
        alignment: take of the pretrained tensors what fits, see :mod:`fedfs.nnunet.plan.overlay`;
            None to require that they are those of this very network.
        output: safetensors file to write.
        keep_local: as of the charter: the names of these tensors have to tell them.
        host: where the network is made, on its CPU.
    """

    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    fold: str = "all"
    seed: int
    output: str
    pretrained: str | None = None
    alignment: str | None = None
    keep_local: str = ""


def plan(request: PlanRequest) -> PlanResult:
    """Plan with nnU-Net's planner.

    Raises:
        MalformedError: a name or planner option is refused.
        SetupError: nnunetv2 has no such planner.
        StudyError: nnU-Net plans no such configuration for these data.
    """
    allowlist.check_dataset_name(request.dataset_name)
    allowlist.check_file_name("plans_name", request.plans_name)
    allowlist.check_planner_options(request.planner_options)
    allowlist.check_planning(request.gpu_memory_target_gb, request.target_spacing)
    dataset_json = {**ordered(request.dataset_json), "numTraining": request.n_cases}
    with _empty_room() as paths, capture_output(log):
        raw, preprocessed = (
            paths.raw / request.dataset_name,
            paths.preprocessed / request.dataset_name,
        )
        _write(raw / "dataset.json", {**dataset_json, "dataset": {}})
        _write(preprocessed / "dataset_fingerprint.json", request.fingerprint)
        planner = _make_planner(request, dataset_json)
        planner.plan_experiment()
        # Read what nnU-Net wrote: by then everything in it is JSON.
        plans: dict[str, Any] = read_json(preprocessed / f"{request.plans_name}.json")
    configurations = plans["configurations"]
    wanted = request.configuration.split(",")
    planned = [name for name in wanted if name in configurations]
    if not planned:
        raise StudyError(
            f"nnU-Net plans no configuration {' or '.join(wanted)} for these data.",
            hint=f"begin a study of what it plans: fedfs init ... -c "
            f"{','.join(sorted(configurations))}",
        )
    plans = rename_plans(plans, dataset_name=request.dataset_name, plans_name=request.plans_name)
    for name in planned:
        allowlist.check_plans(plans, name)
    return PlanResult(
        plans=plans,
        dataset_json={**request.dataset_json, "numTraining": request.n_cases},
        versions=classes.versions(),
    )


def rename_plans(plans: Mapping[str, Any], *, dataset_name: str, plans_name: str) -> dict[str, Any]:
    """Return plans under another name, and for another dataset, as nnU-Net moves them."""
    configurations = {}
    for name, configuration in plans["configurations"].items():
        keeps_data = "data_identifier" in configuration
        own = {"data_identifier": f"{plans_name}_{name}"} if keeps_data else {}
        configurations[name] = {**configuration, **own}
    return {
        **plans,
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "configurations": configurations,
    }


def initial_weights(request: WeightsRequest) -> None:
    """Write what :func:`initial_tensors` returns to ``request.output``.

    Raises: as :func:`initial_tensors`.
    """
    write_safetensors(Path(request.output), initial_tensors(request))


def initial_tensors(request: WeightsRequest) -> dict[str, Array]:
    """Build the network as the trainer does and return its canonical tensors.

    Raises:
        MalformedError: the plans are refused.
        SetupError: there is no such trainer, or not for this host.
        StudyError: the names of normalisation layers do not tell them.
        UserError: the pretrained weights do not fit the network.
    """
    import torch

    from fedfs.nnunet.plan.normalisation import check_normalisation

    allowlist.check_plans(request.plans, request.configuration)
    settings = replace(request, host=replace(request.host, device="cpu"))
    with _empty_room(), capture_output(log):
        trainer = classes.make_trainer(settings, request.plans, ordered(request.dataset_json))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            classes.initialize_without_data(trainer)
    tensors = extract(classes.plain_module(trainer))
    if request.keep_local:
        check_normalisation(classes.plain_module(trainer))
    if request.pretrained is None:
        return tensors
    if request.alignment is None:
        return _replaced(tensors, Path(request.pretrained))
    return overlay_tensors(tensors, Path(request.pretrained), alignment=request.alignment)


def _make_planner(request: PlanRequest, dataset_json: Mapping[str, Any]) -> Any:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    options: dict[str, Any] = {"plans_name": request.plans_name}
    if request.gpu_memory_target_gb is not None:
        options["gpu_memory_target_in_gb"] = request.gpu_memory_target_gb
    if request.target_spacing is not None:
        options["overwrite_target_spacing"] = [float(mm) for mm in request.target_spacing]
    planner = classes.planner_class(request.planner)(request.dataset_name, **options)
    for name, value in request.planner_options.items():
        before = getattr(planner, name)
        # JSON knows one kind of number; nnU-Net counts in integers.
        setattr(planner, name, int(value) if isinstance(before, int) else float(value))
    try:
        reader = determine_reader_writer_from_dataset_json(dict(dataset_json), verbose=False)
    except RuntimeError as error:
        raise StudyError(
            f"nnU-Net has no reader for the file ending {dataset_json['file_ending']}.",
            hint="see the file endings in nnU-Net's dataset_format.md",
        ) from error
    planner.determine_reader_writer = lambda: reader
    return planner


def _replaced(tensors: dict[str, Array], pretrained: Path) -> dict[str, Array]:
    """Return the pretrained tensors, with the network's own segmentation layers (nnU-Net)."""
    out = dict(tensors)
    with TensorFile(pretrained) as given:
        for name, own in tensors.items():
            if is_segmentation_layer(name):
                continue
            if name not in given:
                raise UserError(
                    f"The pretrained weights have no tensor {name}.",
                    hint="plan with the architecture of the pretrained network",
                )
            if given.shape(name) != own.shape:
                raise UserError(
                    f"The pretrained tensor {name} has shape {list(given.shape(name))}, "
                    f"the network's has {list(own.shape)}.",
                    hint="plan with the architecture of the pretrained network",
                )
            out[name] = np.asarray(given[name], dtype=np.float32)
    return out


@contextmanager
def _empty_room() -> Iterator[NnUNetPaths]:
    """Set nnU-Net's variables to temporary folders."""
    with tempfile.TemporaryDirectory(prefix="fedfs-plan-") as folder:
        paths = NnUNetPaths(*(Path(folder, name) for name in ("raw", "preprocessed", "results")))
        variables = paths.variables()
        for path in variables.values():
            Path(path).mkdir()
        # With 0 workers, which suits small machines for training, planning fails.
        if os.environ.get(AUGMENTATION_WORKERS, "") == "0":
            variables[AUGMENTATION_WORKERS] = "1"
        with set_variables(variables):
            yield paths


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value), encoding="utf-8")
