"""Reads what a payload holds for a stretch of a tensor."""

from fedfs.tensors.encodings.base import Decoder
from fedfs.tensors.safetensors_layout import AnyArray
from fedfs.tensors.safetensors_reader import TensorFile


def read_parts(
    encoding: Decoder,
    name: str,
    file: TensorFile,
    start: int,
    stop: int,
    out: dict[str, AnyArray],
) -> dict[str, AnyArray]:
    """Read the values from ``start`` to ``stop`` of a tensor's parts, and whole those with one.

    Args:
        encoding: elementwise, of the file.
        name: canonical name of the tensor.
        file: a payload, whose layout was checked.
        start: first value, in C order.
        stop: the one after the last.
        out: of this tensor, for what is read; the arrays in it may be used again.

    Raises:
        TensorError: the file was truncated.
        OSError: the file cannot be read.
    """
    for part, (_, shape) in encoding.expected(name, (stop - start,)).items():
        out[part] = (
            file.read_slice(part, start, stop, out=out.get(part)) if shape else file.read(part)
        )
    return out
