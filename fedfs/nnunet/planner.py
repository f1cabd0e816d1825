"""The aggregator's :class:`~fedfs.aggregator.Planner`: nnU-Net in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.nnunet.plans import PlanRequest, WeightsRequest
from fedfs.nnunet.process import run_isolated
from fedfs.protocol import codec
from fedfs.protocol.messages import Charter, PlanMessage


@dataclass(frozen=True)
class Planned:
    """What planning gives: nnU-Net plans, the ``dataset.json`` they were made for, versions."""

    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    versions: Mapping[str, str]


class NnUNetPlanner:
    """Plans and makes initial weights with nnU-Net.

    Args:
        folder: for temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plan(self, charter: Charter, fingerprint: Mapping[str, Any], n_cases: int) -> Planned:
        """See :meth:`fedfs.aggregator.Planner.plan`."""
        spec = charter.nnunet
        request = PlanRequest(
            dataset_name=charter.dataset.name,
            dataset_json=_dataset_json(charter),
            fingerprint=fingerprint,
            n_cases=n_cases,
            configuration=spec.configuration,
            planner=spec.planner,
            plans_name=spec.plans_name,
            gpu_memory_target_gb=spec.gpu_memory_target_gb,
            target_spacing=spec.target_spacing,
            planner_options=spec.planner_options,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        return Planned(**run_isolated("plan", request, workdir=self._folder))

    def initial_weights(
        self, charter: Charter, plan: PlanMessage, path: Path, *, pretrained: Path | None
    ) -> None:
        """See :meth:`fedfs.aggregator.Planner.initial_weights`."""
        request = WeightsRequest(
            plans=plan.plans,
            dataset_json=plan.dataset_json,
            configuration=charter.nnunet.configuration,
            trainer=charter.nnunet.trainer,
            seed=charter.schedule.seed,
            output=str(path),
            pretrained=None if pretrained is None else str(pretrained),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        run_isolated("initial_weights", request, workdir=self._folder)


def _dataset_json(charter: Charter) -> dict[str, Any]:
    content: dict[str, Any] = codec.to_json(charter.dataset)
    content.pop("name")
    return content
