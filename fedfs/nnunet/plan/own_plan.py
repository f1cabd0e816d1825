"""A site's plan for itself, made once and kept in its own folder.

Rules:
 * nnU-Net's planner decides from the site's own fingerprint, as it would without a federation.
 * Plans and fingerprint stay at the site; :mod:`fedfs.nnunet.plan.published` says what does not.
 * Fingerprint, plan and initial weights are a file each, complete or absent. A kill loses the one
   that is being made; what is there already is not made again.
 * A file counts only with the hash of everything that it depends on, and if it is undamaged. Else
   it is made anew. Geometries are sorted, so the same images give the same file.
 * Pretrained weights are laid over the initial ones when these are read: the file does not depend
   on them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation.fingerprints import merge_fingerprints, to_nnunet
from fedfs.errors import DatasetError, RejectedError, SetupError
from fedfs.learner import Array, OwnPlan, SiteFingerprint
from fedfs.nnunet.data import preprocess
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.fingerprint import reader_name
from fedfs.nnunet.plan import plans, published
from fedfs.nnunet.plan.overlay import overlay_tensors
from fedfs.nnunet.settings import LearnerSettings, PlannerSettings, Planning
from fedfs.nnunet.system import files
from fedfs.tensors.canonical import TensorFile, weights_sha256, write_safetensors

log = logging.getLogger(__name__)

_FINGERPRINT = "own_fingerprint.json"
_PLAN = "own_plan.json"
_INITIAL = "initial.safetensors"
_MADE_FOR = "made for"
"""Entry of its header: hash of what the weights follow from, and their own."""
_ONLY_WEIGHTS = ("seed", "pretrained", "alignment")


class OwnPlanner:
    """Makes and keeps a site's plan; :meth:`make` and :meth:`initial` import nnunetv2.

    Args:
        settings: with :attr:`~fedfs.nnunet.settings.LearnerSettings.planning`.
        dataset: the site's.

    Raises:
        SetupError: the settings do not say how to plan.
    """

    def __init__(self, settings: LearnerSettings, dataset: RawDataset) -> None:
        if settings.planning is None:
            raise SetupError(
                "This learner was not told how to plan for itself.",
                hint="sites plan for themselves in a study of the mode asym only",
            )
        self._planning: Planning = settings.planning
        self._settings = settings
        self._dataset = dataset
        measured = [dataset.name, dataset.facts(), [case.name for case in dataset.cases]]
        told = {k: v for k, v in asdict(settings.planning).items() if k not in _ONLY_WEIGHTS}
        self._measured = files.json_sha256(measured)
        self._planned = files.json_sha256(
            [self._measured, told, settings.configuration, settings.trainer]
        )

    def kept(self) -> OwnPlan | None:
        """Return the plan if it has been made."""
        value = _read(self._path(_PLAN), self._planned)
        return None if value is None else self._own_plan(value)

    def fingerprint(self) -> dict[str, Any] | None:
        """Return the fingerprint in nnU-Net's format if it has been kept."""
        return _read(self._path(_FINGERPRINT), self._measured)

    def keep_fingerprint(self, measured: SiteFingerprint) -> None:
        """Keep what was measured.

        Raises:
            DatasetError: a channel has no foreground in any case, so it cannot be normalised.
        """
        names = self._dataset.dataset_json["channel_names"]
        for index, channel in enumerate(measured.channels):
            if not channel.n_cases:
                raise DatasetError(
                    f"In {self._dataset.name}, no case has a foreground voxel in channel {index} "
                    f"({names[str(index)]}).",
                    hint="check that the segmentations hold the labels of dataset.json",
                )
        value = to_nnunet(merge_fingerprints({self._dataset.name: measured}))
        _write(self._path(_FINGERPRINT), self._measured, value)

    def make(self) -> OwnPlan:
        """Plan, make the initial weights, keep both.

        Raises:
            SetupError: the fingerprint has not been kept, or nnunetv2 lacks planner or trainer.
            MalformedError: a name or planner option is refused.
            StudyError: nnU-Net plans no such configuration for these data.
        """
        fingerprint = self.fingerprint()
        if fingerprint is None:
            raise SetupError("The dataset has not been measured yet.")
        planner = {one.name: getattr(self._planning, one.name) for one in fields(PlannerSettings)}
        result = plans.plan(
            plans.PlanRequest(
                fingerprint=fingerprint,
                n_cases=len(self._dataset.cases),
                configuration=self._settings.configuration,
                **planner,
            )
        )
        adopted = preprocess.adopt(result.plans, self._dataset, reader_name(self._dataset))
        tensors = self._make_initial(adopted)
        value = {
            "plans": adopted,
            "fingerprint": fingerprint,
            "tensors": {name: list(array.shape) for name, array in tensors.items()},
        }
        _write(self._path(_PLAN), self._planned, value)
        return self._own_plan(value)

    def initial(self, plan: OwnPlan) -> dict[str, Array]:
        """Return the initial weights of the network; make them again if they are not kept.

        Raises:
            SetupError: nnunetv2 has no such trainer.
        """
        tensors = self._kept_initial(plan) or self._make_initial(plan.plans)
        planning = self._planning
        if planning.pretrained is None:
            return tensors
        return overlay_tensors(tensors, planning.pretrained, alignment=planning.alignment)

    def _kept_initial(self, plan: OwnPlan) -> dict[str, Array] | None:
        path = self._path(_INITIAL)
        try:
            with TensorFile(path) as file:
                made_for, _, digest = file.metadata.get(_MADE_FOR, "").partition(" ")
                if made_for != self._made_for(plan.plans):
                    return None
                file.check_against(plan.tensors)
                tensors = {name: np.asarray(file[name], dtype=np.float32) for name in file.names}
        except FileNotFoundError:
            return None
        except (OSError, RejectedError) as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            return None
        if weights_sha256(tensors) != digest:
            log.warning("%s is damaged and is made again", path)
            return None
        return tensors

    def _make_initial(self, adopted: Mapping[str, Any]) -> dict[str, Array]:
        path = self._path(_INITIAL)
        tensors = plans.initial_tensors(
            plans.WeightsRequest(
                plans=adopted,
                dataset_json=self._planning.dataset_json,
                configuration=self._settings.configuration,
                trainer=self._settings.trainer,
                seed=self._planning.seed,
                output=str(path),
                host=self._settings.host,
            )
        )
        made_for = f"{self._made_for(adopted)} {weights_sha256(tensors)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, tensors, metadata={_MADE_FOR: made_for})
        return tensors

    def _own_plan(self, value: Mapping[str, Any]) -> OwnPlan:
        return OwnPlan(
            plans=value["plans"],
            fingerprint=value["fingerprint"],
            configuration=published.select_published(value["plans"], self._settings.configuration),
            tensors={name: tuple(shape) for name, shape in value["tensors"].items()},
            n_cases=len(self._dataset.cases),
            plans_sha256=files.json_sha256(value["plans"]),
        )

    def _made_for(self, adopted: Mapping[str, Any]) -> str:
        return files.json_sha256([adopted, self._settings.trainer, self._planning.seed])

    def _path(self, name: str) -> Path:
        return self._settings.state_dir / name


def _write(path: Path, made_for: str, value: Mapping[str, Any]) -> None:
    record = {"made_for": made_for, "sha256": files.json_sha256(value), "value": value}
    files.write_json(path, record)


def _read(path: Path, made_for: str) -> dict[str, Any] | None:
    """Return what is kept there for ``made_for``; None if nothing is, or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["made_for"] != made_for:
            log.info("%s was made of other cases or settings and is made again", path)
            return None
        value: dict[str, Any] = record["value"]
        if files.json_sha256(value) == record["sha256"]:
            return value
        log.warning("%s is damaged and is made again", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s is unusable (%s) and is made again", path, error)
    return None
