"""state_dict <-> canonical tensors <-> safetensors.

Rules:
 * Canonical tensors: every floating-point parameter and buffer once, float32, under the shortest
   of its names (ties: the first in lexicographic order), without the ``_orig_mod`` of torch.compile
   and the ``module`` of DistributedDataParallel. A default nnU-Net has 292 keys for 108 tensors.
 * Integer buffers are neither sent nor touched.
 * Tensors that are all in memory are written by the safetensors library, see
   :mod:`fedfs.tensors.safetensors_library`; those that are made one by one by our own writer.
 * torch is imported by the functions that take modules, and by no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfs.errors import TensorError
from fedfs.protocol import codec
from fedfs.tensors.safetensors_layout import AnyArray, Shape, check_layout, dtype_of
from fedfs.tensors.safetensors_library import write_safetensors
from fedfs.tensors.safetensors_reader import TensorFile
from fedfs.tensors.safetensors_writer import TensorWriter, raw_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedfs.learner import Array, Tensors

__all__ = [
    "TensorFile",
    "canonical_names",
    "extract",
    "load_into",
    "stream_safetensors",
    "weights_sha256",
    "write_safetensors",
]

_WRAPPERS = frozenset({"_orig_mod", "module"})


def canonical_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """Group a module's live ``state_dict()`` by storage.

    Returns:
        Canonical name -> all names of that tensor in ``state_dict``; sorted.

    Raises:
        TensorError: different tensors have the same name once wrappers are stripped.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in state_dict.items():
        # Tensors without elements share the null pointer, and nothing else.
        storage = tensor.untyped_storage().data_ptr() if tensor.numel() else name
        identity = (
            tensor.device,
            storage,
            tensor.storage_offset(),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
        )
        groups.setdefault(identity, []).append(name)
    owner: dict[str, tuple[Any, ...]] = {}
    out: dict[str, tuple[str, ...]] = {}
    for identity, names in groups.items():
        stripped = {_strip(name) for name in names}
        for name in stripped:
            if owner.setdefault(name, identity) is not identity:
                raise TensorError(f"has two different tensors {name!r}", about="the module")
        out[min(stripped, key=lambda name: (len(name), name))] = tuple(sorted(names))
    return dict(sorted(out.items()))


def extract(module: nn.Module) -> dict[str, Array]:
    """Return copies of a module's canonical tensors, float32, on the CPU.

    Raises:
        TensorError: a tensor is complex, or names are ambiguous.
    """
    import torch  # noqa: PLC0415  takes seconds, and averaging does without

    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        for name, tensor in _float_tensors(module).items()
    }


def load_into(module: nn.Module, tensors: Tensors) -> None:
    """Copy canonical tensors into a module in place; its device and types stay as they are.

    Nothing is changed unless names, shapes and types all fit. A :class:`TensorFile` is copied
    tensor by tensor, so a value that is not finite is found after the tensors before it changed.

    Raises:
        TensorError: tensors differ from the module's, the first few are named; or the file holds
            values that are not finite.
    """
    import torch  # noqa: PLC0415  takes seconds, and averaging does without

    targets = _float_tensors(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    if isinstance(tensors, TensorFile):
        tensors.check_against(shapes)
    else:
        found = {name: (dtype_of(array), array.shape) for name, array in tensors.items()}
        check_layout(found, {name: ("F32", shape) for name, shape in shapes.items()})
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(torch.tensor(tensors[name]))


def weights_sha256(tensors: Mapping[str, AnyArray], names: Iterable[str] | None = None) -> str:
    """Return a hash of names, types, shapes and values, whatever file or order they come in.

    SHA-256 over, for every tensor by ascending name, the canonical JSON of
    ``[name, dtype, shape]``, a line feed, and its values in C order, little-endian.

    Args:
        tensors: name -> values.
        names: of those that are hashed; None for all.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors if names is None else names):
        array = tensors[name]
        dtype = dtype_of(array)
        digest.update(hashed_header(name, dtype, array.shape))
        digest.update(raw_bytes(array, dtype))
    return digest.hexdigest()


def hashed_header(name: str, dtype: str, shape: Shape) -> bytes:
    """Return what :func:`weights_sha256` hashes of a tensor before its values."""
    return codec.dumps([name, dtype, list(shape)]) + b"\n"


def stream_safetensors(
    path: Path,
    shapes: Mapping[str, Shape],
    tensor: Callable[[str], AnyArray],
    *,
    dtypes: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors that are made one at a time, in ascending order of their names.

    Equal tensors give equal bytes, on every host; memory is that of one tensor.

    Args:
        path: file to write; complete or absent, also if ``tensor`` raises.
        shapes: name -> shape of every tensor.
        tensor: called with each name, returns its array.
        dtypes: name -> type as safetensors spells it, where it is not ``F32``.
        metadata: kept in the file's header.

    Raises:
        TensorError: ``tensor`` returned another shape or type.
        OSError: the file cannot be written, for example because the disk is full.
    """
    own = dtypes or {}
    layout = {name: (own.get(name, "F32"), tuple(shape)) for name, shape in shapes.items()}
    with TensorWriter(path, layout, metadata) as file:
        for name in sorted(layout):
            file.write(name, tensor(name))


def _strip(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _float_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    out = {}
    for canonical, names in canonical_names(state).items():
        tensor = state[names[0]]
        if tensor.is_complex():
            raise TensorError(
                "is complex, which is not supported", about=f"the tensor {canonical!r}"
            )
        if tensor.is_floating_point():
            out[canonical] = tensor
    return out
