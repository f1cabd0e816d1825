"""Payloads of updates: written by a site, checked by the aggregator, to the charter's encoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedfs.errors import TensorError, TrainingError
from fedfs.learner import Array, Tensors
from fedfs.protocol.messages import Charter
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.tensors.encodings import Encoding, Entry
from fedfs.tensors.safetensors_reader import Shape

_BLOCK = 1 << 16


def update_encoding(charter: Charter) -> Encoding:
    """Return how updates are written."""
    return encodings.by_name(charter.encoding.name, charter.encoding.options)


def model_encoding(charter: Charter) -> Encoding:
    """Return how global versions are written."""
    return encodings.by_name(charter.model_encoding.name, charter.model_encoding.options)


def write_update(
    path: Path, encoding: Encoding, trained: Tensors, base: Tensors, residual: Tensors
) -> dict[str, Array]:
    """Write the payload of an update.

    Args:
        path: file to write.
        encoding: of the payload.
        trained: canonical name -> trained values.
        base: the same tensors of the version that was trained from.
        residual: what the last update did not carry; names may be missing.

    Returns:
        What this one does not carry; empty if the encoding is lossless.

    Raises:
        TrainingError: values are not finite, or the encoding cannot hold them.
    """
    try:
        encoded = {
            name: encoding.encode(name, trained[name], values, residual.get(name))
            for name, values in base.items()
        }
    except TensorError as error:
        raise TrainingError(
            f"The trained weights cannot be sent: {error.reason}.", kind="not-finite"
        ) from error
    layout = encodings.payload_layout(encoding, {n: values.shape for n, values in base.items()})
    write_safetensors(
        path,
        {key: array for e in encoded.values() for key, array in e.payload.items()},
        dtypes={key: dtype for key, (dtype, _) in layout.items()},
    )
    return {n: e.residual for n, e in encoded.items() if e.residual is not None}


def update_layout(
    encoding: Encoding, base: TensorFile, names: Mapping[str, str]
) -> dict[str, Entry]:
    """Return every tensor that a site's payload has to hold, with type and shape.

    Args:
        encoding: of the payload.
        base: weights of the version that was trained from.
        names: canonical names of what the site shares, see
            :class:`fedfs.aggregation.shared_tensors.Share`.
    """
    shapes: dict[str, Shape] = {name: base.shape(name) for name in names}
    return encodings.payload_layout(encoding, shapes)


def check_values(
    encoding: Encoding, payload: TensorFile, base: TensorFile, names: Mapping[str, str]
) -> float:
    """Decode a payload once; return how far it moves the model, as root mean square per value.

    Raises:
        TensorError: a value is not finite or out of range.
    """
    squares, n_values = 0.0, 0
    for name in names:
        delta = encoding.decode(name, payload, base.read(name)).ravel()
        # In blocks, so that float64 takes no second copy of a tensor.
        for start in range(0, delta.size, _BLOCK):
            block = delta[start : start + _BLOCK].astype(np.float64)
            squares += float(block @ block)
        n_values += delta.size
    return math.sqrt(squares / n_values) if n_values else 0.0
