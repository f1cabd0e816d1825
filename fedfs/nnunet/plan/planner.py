"""Plans and initial weights for the aggregator, made by nnU-Net in a process of its own.

Implements :class:`fedfs.roles.aggregator.planning.Planner`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import MalformedError, TrainingError
from fedfs.nnunet.plan import published
from fedfs.nnunet.plan.plans import PlanRequest, PlanResult, WeightsRequest
from fedfs.nnunet.system.environment import DEFAULT_HOST, HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.protocol.messages import Charter, PlanMessage, TrackCharter


class NnUNetPlanner:
    """Plans and makes initial weights with nnU-Net.

    Args:
        folder: for temporary files.
        host: hardware and software that the aggregator has.
    """

    def __init__(self, folder: Path, host: HostSettings = DEFAULT_HOST) -> None:
        self._folder = folder
        self._host = host

    def plan(self, charter: Charter, fingerprint: Mapping[str, Any], n_cases: int) -> PlanResult:
        """See :meth:`fedfs.roles.aggregator.planning.Planner.plan`."""
        spec = charter.nnunet
        request = PlanRequest(
            dataset_name=charter.dataset.name,
            dataset_json=charter.dataset_json(),
            fingerprint=fingerprint,
            n_cases=n_cases,
            configuration=",".join(charter.configurations),
            planner=spec.planner,
            plans_name=spec.plans_name,
            gpu_memory_target_gb=spec.gpu_memory_target_gb,
            target_spacing=spec.target_spacing,
            planner_options=spec.planner_options,
        )
        return PlanResult(**self._run("plan", request))

    def initial_weights(
        self, charter: TrackCharter, plan: PlanMessage, path: Path, *, pretrained: Path | None
    ) -> None:
        """See :meth:`fedfs.roles.aggregator.planning.Planner.initial_weights`."""
        request = WeightsRequest(
            plans=plan.plans,
            dataset_json=plan.dataset_json,
            configuration=charter.configuration,
            trainer=charter.nnunet.trainer,
            seed=charter.seed,
            output=str(path),
            pretrained=None if pretrained is None else str(pretrained),
            keep_local=charter.keep_local,
            host=self._host,
        )
        self._run("initial_weights", request)

    def network_weights(
        self,
        charter: TrackCharter,
        configuration: Mapping[str, Any],
        path: Path,
        *,
        pretrained: Path | None = None,
        alignment: str = "resolution",
    ) -> None:
        """See :meth:`fedfs.roles.aggregator.planning.Planner.network_weights`.

        The weights are bit by bit those that the site has, given the same versions of torch and
        nnunetv2.

        Raises:
            MalformedError: the configuration is refused, or no network can be built of it.
            TrainingError: memory ran out.
        """
        spec, content = charter.nnunet, charter.dataset_json()
        request = WeightsRequest(
            plans=published.skeleton(
                configuration,
                configuration=charter.configuration,
                dataset_name=charter.dataset.name,
                plans_name=spec.plans_name,
                planner=spec.planner,
                dataset_json=content,
            ),
            dataset_json=content,
            configuration=charter.configuration,
            trainer=spec.trainer,
            seed=charter.seed,
            output=str(path),
            pretrained=None if pretrained is None else str(pretrained),
            alignment=alignment,
            keep_local=charter.keep_local,
            host=self._host,
        )
        try:
            self._run("initial_weights", request)
        except TrainingError as error:
            if error.kind != "crash":
                raise
            text = "describes an architecture of which no network can be built"
            hint = f"nnU-Net says: {error}"  # may name paths; what is published has no hint
            raise MalformedError(text, about="the plan", hint=hint) from error

    def _run(self, function: str, request: PlanRequest | WeightsRequest) -> dict[str, Any]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return run_isolated(function, request, workdir=self._folder)
