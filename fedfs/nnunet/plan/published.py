"""The part of a site's own plan that it publishes, and the network that others build from it.

Rules:
 * Only what decides the network leaves the site, and what people want to read of a plan: patch
   size, batch size, spacing, architecture. Not shapes of images, and no intensities.
 * Whoever builds the network puts that into a skeleton of plans whose other fields are constants.
   The site's own network and the one that is built from the skeleton start from the same weights.
 * A configuration from the store is somebody else's word. It passes the allow-list like any plan,
   and its network is counted before it is built.
 * The module is pure: it imports nothing of nnU-Net.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedfs.aggregation.shared_tensors import MAX_PARAMETERS
from fedfs.errors import MalformedError
from fedfs.nnunet.allowed import allowlist

_PUBLISHED = ("patch_size", "batch_size", "spacing", "architecture", "previous_stage")
_RESAMPLING = "resample_data_or_seg_to_shape"
_PER_CHANNEL = "foreground_intensity_properties_per_channel"
_EXTREMES = ("min", "max")
_INTENSITIES = (
    "max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std",
)  # fmt: skip


def select_published(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return what may leave the site of a configuration of its plans.

    ``previous_stage`` is there in a cascade only: its second stage has more input channels.
    """
    settings = allowlist.resolve(plans["configurations"], configuration)
    return {key: settings[key] for key in _PUBLISHED if settings.get(key) is not None}


def without_extremes(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans without the smallest and largest voxel, which no normalisation reads."""
    intensities = {
        channel: {name: value for name, value in one.items() if name not in _EXTREMES}
        for channel, one in plans.get(_PER_CHANNEL, {}).items()
    }
    return {**plans, **({_PER_CHANNEL: intensities} if intensities else {})}


def skeleton(
    settings: Mapping[str, Any],
    *,
    configuration: str,
    dataset_name: str,
    plans_name: str,
    planner: str,
    dataset_json: Mapping[str, Any],
) -> dict[str, Any]:
    """Return plans around a published configuration, good for building its network only.

    Args:
        settings: what :func:`select_published` returned at the site; other keys are ignored.
        configuration: the study's.
        dataset_name: the study's.
        plans_name: the study's.
        planner: the study's; for the record.
        dataset_json: the study's.

    Raises:
        MalformedError: the configuration is refused, or its network is too large.
    """
    made = {
        **{key: settings[key] for key in _PUBLISHED if key in settings},
        "data_identifier": f"{plans_name}_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": [],
        "use_mask_for_norm": [],
        "batch_dice": False,
    }
    for what in ("data", "seg", "probabilities"):
        made[f"resampling_fn_{what}"] = _RESAMPLING
        made[f"resampling_fn_{what}_kwargs"] = {}
    configurations = {configuration: made}
    previous = made.get("previous_stage")
    if previous is not None:
        name = allowlist.check_file_name("previous_stage", previous)
        configurations.setdefault(name, {k: v for k, v in made.items() if k != "previous_stage"})
    n_channels = len(dataset_json["channel_names"])
    plans = {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "experiment_planner_used": planner,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        _PER_CHANNEL: {
            str(channel): dict.fromkeys(_INTENSITIES, 0.0) for channel in range(n_channels)
        },
        "configurations": configurations,
    }
    allowlist.check_plans(plans, configuration)
    check_size(plans, configuration, dataset_json)
    return plans


def check_size(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Refuse an architecture that passed the allow-list but cannot, or must not, be built.

    Raises:
        MalformedError: it has too many parameters, or not what it takes to count them.
    """
    n_labels = len(dataset_json["labels"])
    # A cascade sees the labels of its first stage as channels.
    n_inputs, n_outputs = len(dataset_json["channel_names"]) + n_labels, n_labels
    settings = allowlist.resolve(plans["configurations"], configuration)
    arguments = settings["architecture"]["arch_kwargs"]
    n_stages = arguments["n_stages"]
    n_axes = _n_axes(arguments)
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in arguments else "n_conv_per_stage"
    n_parameters = parameter_bound(
        features=_per_stage(arguments, "features_per_stage", n_stages),
        kernels=_volumes(arguments, "kernel_sizes", n_stages, n_axes),
        strides=_volumes(arguments, "strides", n_stages, n_axes),
        encoder=_per_stage(arguments, blocks, n_stages),
        decoder=_per_stage(arguments, "n_conv_per_stage_decoder", n_stages - 1),
        stem=arguments.get("stem_channels") or 0,
        n_inputs=n_inputs,
        n_outputs=n_outputs,
    )
    if n_parameters > MAX_PARAMETERS:
        raise MalformedError(
            f"has up to {n_parameters} parameters, more than {MAX_PARAMETERS}",
            about="the architecture",
        )


def parameter_bound(
    *,
    features: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    encoder: Sequence[int],
    decoder: Sequence[int],
    stem: int,
    n_inputs: int,
    n_outputs: int,
) -> int:
    """Return a number of parameters that nnU-Net's plain or residual U-Net does not exceed.

    Args:
        features: channels per stage, from the full resolution.
        kernels: weights of a kernel per pair of channels and stage.
        strides: the same of the transposed convolution into the stage above.
        encoder: convolutions (plain) or blocks (residual) per stage.
        decoder: convolutions per stage, from the bottleneck.
        stem: channels of the residual stem; 0 for those of the first stage.
        n_inputs: channels of the images.
        n_outputs: classes.
    """
    first = max(features[0], stem)
    total = 2 * max(n_inputs, first) * first * kernels[0]
    before = max(n_inputs, first)
    for stage, own in enumerate(features):
        # A block has two convolutions and one for its skip; each has a bias and a norm.
        widest = max(before, own)
        total += 3 * encoder[stage] * (widest * own * kernels[stage] + 3 * own)
        before = own
    for stage, n_convolutions in enumerate(reversed(decoder)):
        own, below = features[stage], features[stage + 1]
        total += own * (below * strides[stage + 1] + n_outputs + 4)
        total += n_convolutions * (2 * own * own * kernels[stage] + 3 * own)
    return total


def _n_axes(arguments: Mapping[str, Any]) -> int:
    operator = str(arguments.get("conv_op"))
    if not operator.endswith(("1d", "2d", "3d")):
        raise MalformedError("names no conv_op", about="the architecture")
    return int(operator[-2])


def _per_stage(arguments: Mapping[str, Any], key: str, n_stages: int) -> list[int]:
    value = arguments.get(key)
    if isinstance(value, int):
        return [value] * n_stages
    if (
        not isinstance(value, list | tuple)
        or len(value) != n_stages
        or not all(isinstance(item, int) for item in value)
    ):
        raise MalformedError(f"is not {n_stages} numbers", about=f"the architecture's {key}")
    return list(value)


def _volumes(arguments: Mapping[str, Any], key: str, n_stages: int, n_axes: int) -> list[int]:
    value = arguments.get(key)
    if isinstance(value, int):
        return [value**n_axes] * n_stages
    if not isinstance(value, list | tuple) or len(value) != n_stages:
        raise MalformedError(
            f"is not one entry for each of {n_stages} stages", about=f"the architecture's {key}"
        )
    edges = [[item] * n_axes if isinstance(item, int) else list(item) for item in value]
    if any(len(item) != n_axes for item in edges):
        raise MalformedError(
            f"has entries of other than {n_axes} axes", about=f"the architecture's {key}"
        )
    return [math.prod(item) for item in edges]
