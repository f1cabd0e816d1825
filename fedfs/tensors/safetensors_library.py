"""The safetensors library: writes files whose tensors are all in memory, and is a second reader.

Rules:
 * It writes every payload that is written whole: weights to start from, models of sites. Any reader
   of the format can then read what sites publish, without trusting our writer; updates, which are
   made piece by piece, are byte for byte what the library writes, and tests compare them.
 * It reads only private local copies, and only to compare: it maps files, and a file that somebody
   cuts off meanwhile kills the process. What has to be read safely or in slices is read by
   :mod:`fedfs.tensors.safetensors_reader`.
 * numpy has no bfloat16, so torch is imported where a file holds such values, and only there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fedfs.errors import TensorError
from fedfs.store.local_files import replacing
from fedfs.tensors.safetensors_layout import BF16, DTYPES, AnyArray, Entry, check_layout, dtype_of
from fedfs.tensors.safetensors_reader import TensorFile
from fedfs.tensors.safetensors_writer import check_array, raw_bytes


def write_safetensors(
    path: Path,
    tensors: Mapping[str, AnyArray],
    *,
    dtypes: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors; equal input gives equal bytes, and ``path`` is complete or absent.

    Takes the file's size in memory once more: written to a path, the library reports a full disk
    as a text without the system's error number.

    Args:
        path: file to write.
        tensors: name -> array.
        dtypes: name -> type as safetensors spells it, where it is not the array's own: ``BF16`` for
            a float32 array that :mod:`fedfs.tensors.safetensors_reader` calls bfloat16. Other names
            are ignored.
        metadata: kept in the file's header; at most one entry, as the library writes several in
            random order.

    Raises:
        TensorError: a tensor's type is none that safetensors has, or not the one in ``dtypes``.
        OSError: the file cannot be written, for example because the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_safetensors(Path(folder, "t"), {"w": np.ones(2, np.float32)})
    ...     dict(TensorFile(Path(folder, "t")))
    {'w': array([1., 1.], dtype=float32)}
    """
    if metadata and len(metadata) > 1:
        raise ValueError("more than one entry of metadata has no fixed order")
    own = dtypes or {}
    values: dict[str, tuple[str, AnyArray]] = {}
    for name in sorted(tensors):
        array = tensors[name]
        dtype = own.get(name) or dtype_of(array)
        check_array(name, array, (dtype, array.shape))
        # Contiguous and little-endian: the library copies memory as it lies.
        raw = raw_bytes(array, dtype)
        flat = np.frombuffer(raw, dtype=_stored(dtype)) if raw else np.empty(0, _stored(dtype))
        values[name] = (dtype, flat.reshape(array.shape))
    data = _serialized(values, dict(metadata) if metadata else None)
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)  # residuals and private tensors are nobody else's business
        temporary.write_bytes(data)


def check_both_readers(path: Path) -> None:
    """Read a file with fedfs's reader and with the library, and compare all they return.

    Memory is that of a few copies of the largest tensor.

    Args:
        path: a private copy, which nobody changes meanwhile.

    Raises:
        RejectedError: fedfs's reader refuses the file, or the readers disagree.
        OSError: the file cannot be read.
    """
    with TensorFile(path) as ours:
        layout = {name: (ours.dtype(name), ours.shape(name)) for name in ours.names}
        has_bf16 = any(dtype == BF16 for dtype, _ in layout.values())
        try:
            with safetensors.safe_open(path, framework="pt" if has_bf16 else "numpy") as theirs:
                check_layout(_layout_of(theirs), layout)
                if (theirs.metadata() or {}) != dict(ours.metadata):
                    raise TensorError("has other metadata as the safetensors library reads it")
                for name, (dtype, _) in layout.items():
                    if raw_bytes(ours.read(name), dtype) != _bytes_of(theirs.get_tensor(name)):
                        raise TensorError(
                            "has other values as the safetensors library reads it",
                            about=f"the tensor {name!r}",
                        )
        except safetensors.SafetensorError as error:
            raise TensorError(f"cannot be read by the safetensors library: {error}") from error


def _stored(dtype: str) -> np.dtype[Any]:
    return np.dtype("<i2" if dtype == BF16 else DTYPES[dtype][1])


def _serialized(
    values: Mapping[str, tuple[str, AnyArray]], metadata: dict[str, str] | None
) -> bytes:
    if all(dtype != BF16 for dtype, _ in values.values()):
        arrays = {name: array for name, (_, array) in values.items()}
        return bytes(safetensors.numpy.save(arrays, metadata))
    import torch  # noqa: PLC0415  takes seconds, and most files do without
    from safetensors.torch import save  # noqa: PLC0415  same

    tensors = {}
    for name, (dtype, array) in values.items():
        tensor = torch.tensor(array)
        tensors[name] = tensor.view(torch.bfloat16) if dtype == BF16 else tensor
    return bytes(save(tensors, metadata))


def _layout_of(file: Any) -> dict[str, Entry]:
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
    return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def _bytes_of(tensor: Any) -> memoryview:
    """Return the bytes of an array of numpy or a tensor of torch."""
    if not isinstance(tensor, np.ndarray):
        import torch  # noqa: PLC0415  it is here: the library made the tensor

        tensor = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
