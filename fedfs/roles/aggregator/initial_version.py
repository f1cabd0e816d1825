"""Version 0: the weights that all sites start from."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from fedfs.aggregation import alignment
from fedfs.aggregation.shared_tensors import asym_spec, shared_by
from fedfs.aggregation.trained_tensors import frozen_names
from fedfs.errors import RejectedError, StudyError
from fedfs.protocol import codec
from fedfs.protocol.messages import Charter, Continued, TrainOnly
from fedfs.protocol.state import StudyState
from fedfs.roles.aggregator.planning import Planner, using
from fedfs.tensors.canonical import TensorFile, stream_safetensors, weights_sha256


def write_initial_weights(
    state: StudyState, planner: Planner, path: Path, *, pretrained: Path | None, scratch: Path
) -> None:
    """Write version 0 to ``path``.

    Args:
        state: has a plan.
        planner: knows nnU-Net.
        path: safetensors file to write.
        pretrained: canonical tensors to start from.
        scratch: folder for intermediate files.

    Raises:
        StudyError: there is no plan; or a site's network is not the one it announced; or the
            weights are not those that the study continues from; or those that it leaves frozen are
            not the network's.
    """
    charter, plan = state.charter, state.plan
    if plan is None:
        raise StudyError("There is no plan to initialise a network from.")
    spec = asym_spec(charter)
    if spec is None:
        if charter.continues is not None:
            _copy(pretrained, charter.continues, path)
        else:
            planner.initial_weights(charter, plan, path, pretrained=pretrained)
        if charter.train_only is not None:
            _leave_frozen(charter, charter.train_only, path, scratch)
        return
    in_plan = [name for group in plan.shared for name in group.tensors]
    first = {name: shared_by(state)[name][0] for name in in_plan}
    made: dict[bytes, Path] = {}
    with ExitStack() as stack:
        files: dict[str, TensorFile] = {}
        own_names: dict[str, dict[str, str]] = {}
        for site in sorted(set(first.values())):
            network = codec.dumps(state.site_plans[site].configuration)
            if network not in made:
                made[network] = scratch / f"network-{len(made)}.safetensors"
                with using("plan", site):
                    planner.network_weights(
                        charter,
                        state.site_plans[site].configuration,
                        made[network],
                        pretrained=pretrained,
                        alignment=spec.alignment,
                    )
            files[site] = stack.enter_context(TensorFile(made[network]))
            own_names[site] = alignment.own_names(state.site_plans[site].tensors, spec.alignment)
            try:
                files[site].check_against(state.site_plans[site].tensors)
            except RejectedError as error:
                raise StudyError(
                    f"The plan of {site} leads to another network than announced: {error.reason}.",
                    hint="do the site and the aggregator have the same version of nnunetv2?",
                ) from error
        shapes = {name: files[s].shape(own_names[s][name]) for name, s in first.items()}
        stream_safetensors(
            path, shapes, lambda name: files[first[name]].read(own_names[first[name]][name])
        )


def _copy(weights: Path | None, continues: Continued, path: Path) -> None:
    """Copy the whole of a version: other than pretrained weights, segmentation layers too."""
    if weights is None:
        raise StudyError(
            f"The charter names no weights of study {continues.study}.",
            hint="ask the coordinator to begin the study again with this version of fedfs",
        )
    with TensorFile(weights) as file:
        if weights_sha256(file) != continues.weights_sha256:
            raise StudyError(
                f"The weights on the store are not version {continues.version} of study "
                f"{continues.study}.",
                hint="start anew: fedfs init on another store",
            )
    shutil.copyfile(weights, path)


def _leave_frozen(charter: Charter, part: TrainOnly, path: Path, scratch: Path) -> None:
    """Leave in a file of all tensors those that are trained."""
    made = scratch / "trained.safetensors"
    with TensorFile(path) as file:
        frozen = frozen_names(charter, file.names)
        if weights_sha256(file, frozen) != part.frozen_sha256:
            raise StudyError(
                "The network of this plan does not have the tensors that the study leaves frozen.",
                hint="plan with the architecture of the pretrained network; "
                "then begin the study again",
            )
        shapes = {name: file.shape(name) for name in set(file.names) - set(frozen)}
        stream_safetensors(made, shapes, file.read)
    made.replace(path)
