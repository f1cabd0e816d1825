"""Allow-list for plans from the store, checked before nnU-Net sees them.

nnU-Net resolves names in plans to Python objects and calls them: ``pydoc.locate`` on the network
class and its building blocks, a search through its own modules for preprocessors, readers,
resampling functions and label managers that returns whatever has the name. A signed plan is still
somebody else's word.

Rules:
 * Every name that nnU-Net would resolve is one of those listed here. Keys that nnU-Net ignores are
   left alone.
 * Every name that becomes part of a path is a plain file name.
 * Numbers are finite and within what a machine can hold.
 * The module is pure: it imports nothing of nnU-Net.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, permutations
from typing import Any

from fedfs.errors import MalformedError
from fedfs.nnunet.allowed import names

_PERMUTATIONS = (*permutations(range(2)), *permutations(range(3)))
MAX_CONFIGURATIONS = 32
MAX_CHANNELS = 256
MAX_EDGE = 2048
MAX_PATCH_VOXELS = 2**27
MAX_BATCH_SIZE = 10_000
MAX_FEATURES = 4096
MAX_STAGES = 16
MAX_BLOCKS = 64
MAX_NUMBER = 1e30
MIN_MEMORY_GB, MAX_MEMORY_GB = 1e-4, 1e5
MIN_SPACING_MM, MAX_SPACING_MM = 1e-6, 1e6

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,119}")
_DATASET_NAME = re.compile(r"Dataset\d{3}_[A-Za-z0-9_-]{1,100}")


def check_name(kind: str, name: Any) -> str:
    """Return ``name`` if it may be the name of a trainer, planner or the like.

    Raises:
        MalformedError: naming ``kind``.
    """
    return _matching(_IDENTIFIER, kind, name, "is not a Python identifier")


def check_file_name(kind: str, name: Any) -> str:
    """Return ``name`` if it may be part of nnU-Net's paths (plans, configuration).

    Raises:
        MalformedError: naming ``kind``.
    """
    return _matching(_FILE_NAME, kind, name, "is not a plain file name")


def check_dataset_name(name: Any) -> str:
    """Return ``name`` if it follows ``DatasetXXX_NAME``.

    Raises:
        MalformedError: it does not.
    """
    return _matching(_DATASET_NAME, "dataset_name", name, "does not follow DatasetXXX_NAME")


def check_planner_options(options: Mapping[str, Any]) -> None:
    """Check attributes that are set on nnU-Net's planner.

    Raises:
        MalformedError: an attribute is not among ``names.PLANNER_OPTIONS``, or not a sane number.
    """
    for name, value in options.items():
        _one_of("planner option", name, names.PLANNER_OPTIONS)
        _number(f"planner option {name}", value, low=0, high=MAX_FEATURES, open_low=True)


def check_planning(
    gpu_memory_target_gb: float | None, target_spacing: Sequence[float] | None
) -> None:
    """Check what nnU-Net's planner is told of memory and spacing; with 0 it never ends.

    Raises:
        MalformedError: a number makes no sense.
    """
    if gpu_memory_target_gb is not None:
        _number("gpu_memory_target_gb", gpu_memory_target_gb, low=MIN_MEMORY_GB, high=MAX_MEMORY_GB)
    if target_spacing is None:
        return
    if len(_list("target_spacing", target_spacing)) not in (2, 3):
        raise MalformedError("has not 2 or 3 axes", about="the target_spacing")
    for mm in target_spacing:
        _number("target_spacing", mm, low=MIN_SPACING_MM, high=MAX_SPACING_MM)


def check_plans(plans: Mapping[str, Any], configuration: str) -> None:
    """Check nnU-Net plans; ``configuration`` must be among them and be complete.

    Raises:
        MalformedError: naming the first field that is refused.
    """
    check_dataset_name(plans.get("dataset_name"))
    check_file_name("plans_name", plans.get("plans_name"))
    _one_of("image_reader_writer", plans.get("image_reader_writer"), names.READERS)
    _one_of("label_manager", plans.get("label_manager"), names.LABEL_MANAGERS)
    check_name("experiment_planner_used", plans.get("experiment_planner_used"))
    for key in ("transpose_forward", "transpose_backward"):
        if tuple(_list(key, plans.get(key))) not in _PERMUTATIONS:
            raise MalformedError("is not a permutation of the axes", about=f"the {key}")
    _intensities(plans.get("foreground_intensity_properties_per_channel"))
    configurations = _object("configurations", plans.get("configurations"))
    if len(configurations) > MAX_CONFIGURATIONS:
        raise MalformedError(f"has more than {MAX_CONFIGURATIONS} configurations", about="the plan")
    if configuration not in configurations:
        raise MalformedError(
            f"is not in the plan, which has {_shown(sorted(configurations))}",
            about=f"the configuration {_shown(configuration)}",
        )
    for name in configurations:
        check_file_name("configuration", name)
        _configuration(f"configurations.{name}", resolve(configurations, name), configurations)


def resolve(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration together with what it inherits.

    Raises:
        MalformedError: it inherits from nothing, or in a circle.
    """
    chain_of: list[Mapping[str, Any]] = []
    current: Any = name
    while current is not None:
        where = f"the configurations.{name}.inherits_from"
        if not isinstance(current, str) or current not in configurations:
            raise MalformedError(f"names no configuration: {_shown(current)}", about=where)
        if len(chain_of) > len(configurations):
            raise MalformedError("leads in a circle", about=where)
        chain_of.append(_object(f"configurations.{current}", configurations[current]))
        current = chain_of[-1].get("inherits_from")
    return dict(chain.from_iterable(part.items() for part in reversed(chain_of)))


def _configuration(path: str, value: Mapping[str, Any], others: Collection[str]) -> None:
    check_file_name(f"{path}.data_identifier", value.get("data_identifier"))
    _one_of(f"{path}.preprocessor_name", value.get("preprocessor_name"), names.PREPROCESSORS)
    for scheme in _list(f"{path}.normalization_schemes", value.get("normalization_schemes")):
        _one_of(f"{path}.normalization_schemes", scheme, names.NORMALIZATION)
    for use in _list(f"{path}.use_mask_for_norm", value.get("use_mask_for_norm")):
        if not isinstance(use, bool):
            raise MalformedError(
                f"holds {_shown(use)}, not true or false", about=f"the {path}.use_mask_for_norm"
            )
    for what in ("data", "seg", "probabilities"):
        key = f"resampling_fn_{what}"
        _one_of(f"{path}.{key}", value.get(key), names.RESAMPLING)
        _options(f"{path}.{key}_kwargs", value.get(f"{key}_kwargs"))
    _number(f"{path}.batch_size", value.get("batch_size"), low=1, high=MAX_BATCH_SIZE, whole=True)
    patch = _list(f"{path}.patch_size", value.get("patch_size"))
    for edge in patch:
        _number(f"{path}.patch_size", edge, low=1, high=MAX_EDGE, whole=True)
    if len(patch) not in (2, 3) or math.prod(patch) > MAX_PATCH_VOXELS:
        raise MalformedError(
            "has not 2 or 3 axes, or too many voxels", about=f"the {path}.patch_size"
        )
    for mm in _list(f"{path}.spacing", value.get("spacing")):
        _number(f"{path}.spacing", mm, low=0, high=MAX_NUMBER, open_low=True)
    if not isinstance(value.get("batch_dice"), bool):
        raise MalformedError("is not true or false", about=f"the {path}.batch_dice")
    for key in ("previous_stage", "next_stage"):
        stage = value.get(key)
        if stage is not None and (not isinstance(stage, str) or stage not in others):
            raise MalformedError(
                f"names no configuration: {_shown(stage)}", about=f"the {path}.{key}"
            )
    _architecture(f"{path}.architecture", value.get("architecture"))


def _architecture(path: str, value: Any) -> None:
    architecture = _object(path, value)
    _one_of(f"{path}.network_class_name", architecture.get("network_class_name"), names.NETWORKS)
    for key in _list(f"{path}._kw_requires_import", architecture.get("_kw_requires_import")):
        _one_of(f"{path}._kw_requires_import", key, names.BUILDING_BLOCKS)
    arguments = _object(f"{path}.arch_kwargs", architecture.get("arch_kwargs"))
    for key, argument in arguments.items():
        _argument(f"{path}.arch_kwargs.{key}", key, argument)
    if "n_stages" not in arguments:
        raise MalformedError("is missing", about=f"the {path}.arch_kwargs.n_stages")


def _argument(path: str, key: str, value: Any) -> None:
    if key in names.PER_STAGE:
        high = MAX_FEATURES if key == "features_per_stage" else MAX_BLOCKS
        for number in _flat(path, value):
            _number(path, number, low=1, high=high, whole=True)
    elif key == "n_stages":
        _number(path, value, low=1, high=MAX_STAGES, whole=True)
    elif (
        key not in names.BUILDING_BLOCKS
        and key not in names.ARCHITECTURE_OPTIONS
        and key not in names.OTHER_ARGUMENTS
    ):
        raise MalformedError("is not an argument of the network", about=f"the {path}")
    elif value is None:
        return
    elif key in names.BUILDING_BLOCKS:
        _one_of(path, value, names.BUILDING_BLOCKS[key])
    elif key in names.ARCHITECTURE_OPTIONS:
        _options(path, value, high=MAX_FEATURES)  # PReLU takes a number of parameters here
    elif not isinstance(value, bool):
        _number(path, value, low=1, high=MAX_FEATURES, whole=True)


def _intensities(value: Any) -> None:
    path = "foreground_intensity_properties_per_channel"
    channels = _object(path, value)
    if not 1 <= len(channels) <= MAX_CHANNELS:
        raise MalformedError(f"does not describe 1 to {MAX_CHANNELS} channels", about=f"the {path}")
    for channel, properties in channels.items():
        for key, number in _object(f"{path}.{channel}", properties).items():
            _number(f"{path}.{channel}.{key}", number, low=-MAX_NUMBER, high=MAX_NUMBER)


def _options(path: str, value: Any, *, high: float = MAX_NUMBER) -> None:
    for key, option in _object(path, value).items():
        check_name(path, key)
        if option is not None and not isinstance(option, bool):
            _number(f"{path}.{key}", option, low=-high, high=high)


def _flat(path: str, value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        if len(value) > MAX_STAGES:
            raise MalformedError(f"has more than {MAX_STAGES} stages", about=f"the {path}")
        for item in value:
            yield from item if isinstance(item, list | tuple) else (item,)
    else:
        yield value


def _matching(pattern: re.Pattern[str], kind: str, name: Any, fault: str) -> str:
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        raise MalformedError(fault, about=f"the {kind} {_shown(name)}")
    return name


def _one_of(path: str, name: Any, allowed: Collection[str]) -> None:
    if not isinstance(name, str) or name not in allowed:
        raise MalformedError("is not allowed", about=f"the {path} {_shown(name)}")


def _number(
    path: str, value: Any, *, low: float, high: float, whole: bool = False, open_low: bool = False
) -> None:
    kinds = (int,) if whole else (int, float)
    kind = "an integer" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise MalformedError(f"is not {kind}", about=f"the {path} {_shown(value)}")
    # NaN fails every comparison.
    if not (low < value if open_low else low <= value) or not value <= high:
        raise MalformedError("is out of bounds", about=f"the {path} {_shown(value)}")


def _list(path: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > MAX_CHANNELS:
        raise MalformedError("is not a list of reasonable length", about=f"the {path}")
    return list(value)


def _object(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MalformedError("is missing or not an object", about=f"the {path}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:80]
