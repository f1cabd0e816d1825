"""Sums of updates that nobody sees one by one: masked at sites, unmasked as a sum.

A site adds a mask to its levels, modulo 2**32. Of updates with public coefficients, the helper adds
the masks and the aggregator the masked levels; the difference is the weighted sum of the levels.
Source: additive secret sharing between two servers, as in Prio (Corrigan-Gibbs and Boneh 2017),
where one share is a seed that expands to the mask.

Rules:
 * Everything is in integers, so that sums are exact and everybody who makes one again gets the same
   bytes.
 * Levels are at most :data:`~fedfs.tensors.encodings.fixed.LARGEST` and coefficients add up to at
   most :data:`~fedfs.protocol.sum_rules.MAX_TOTAL`, so that no sum leaves int32. About half
   of all numbers are beyond what honest levels can add up to, and a wrong mask gives any number: a
   sum that passes has the mask that it needs, but for one in 2**n with n values.
 * Where sites bound the norm of their updates, the sum shows whether all did: nobody can see which
   one did not.
 * Tensors are known by their canonical names; their files hold them as ``NAME#values``.
 * Files are read and written in pieces: memory grows neither with tensors nor with sites.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfs.errors import StudyError, TensorError
from fedfs.protocol.sum_rules import MAX_TOTAL
from fedfs.tensors.encodings import Encoding
from fedfs.tensors.encodings.base import VALUES, part_name
from fedfs.tensors.encodings.summed import TOTAL, check_sum
from fedfs.tensors.norms import sum_of_squares
from fedfs.tensors.safetensors_layout import Entry, Shape
from fedfs.tensors.safetensors_reader import TensorFile
from fedfs.tensors.safetensors_writer import TensorWriter
from fedfs.trust.masks import MaskContext, mask_stream

_PIECE = 131_072
"""Values that are worked on at a time: few calls, and still in the processor's cache."""

_SCALE = 4096
"""Coefficients of weights that sum to 1 add up to about this."""

_ROUNDING = 1 + 1e-5
"""Sites bound an update before they round its values to float32."""

Shared = Mapping[str, Collection[str]]
"""Tensor -> sites that share it."""


@dataclass(frozen=True, kw_only=True)
class MaskPart:
    """The mask of one update of a set.

    Attributes:
        site: its site.
        seed: secret that the mask expands from.
        context: binds the mask to the update.
        coefficient: how often the update is in the sum.
    """

    site: str
    seed: bytes
    context: MaskContext
    coefficient: int


def coefficients(weights: Mapping[str, float]) -> dict[str, int]:
    """Return public whole numbers in proportion to weights; site -> coefficient, ascending.

    They are within half a 4096th of the weights' sum; the smallest weight above 0 counts 1, and a
    site whose weight is 0 is not in the set.

    Raises:
        StudyError: no weight is above 0, or there are so many sites that a sum could overflow.
    """
    total = math.fsum(weights.values())
    out = {
        site: max(1, round(weight / total * _SCALE))
        for site, weight in sorted(weights.items())
        if weight > 0
    }
    if not out or sum(out.values()) > MAX_TOTAL:
        raise StudyError(
            f"The updates of {len(out)} sites cannot be summed under masks.",
            hint=f"a sum needs at least one site with a weight, and at most {_SCALE - 1}",
        )
    return out


def level_shapes(encoding: Encoding, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return canonical name -> shape of the levels in a payload, ascending.

    Args:
        encoding: of the updates, one that is summable.
        shapes: canonical name -> shape of the tensor.
    """
    return {
        name: encoding.expected(name, shape)[part_name(name, VALUES)][1]
        for name, shape in sorted(shapes.items())
    }


def mask_file(source: Path, target: Path, seed: bytes, context: MaskContext) -> None:
    """Write an update's payload with its mask added, as large as before.

    Args:
        source: the payload of levels.
        target: file to write.
        seed: secret; never use it for two different payloads.
        context: the update.

    Raises:
        TensorError: ``source`` holds anything but levels.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        levels = stack.enter_context(TensorFile(source))
        layout = {key: (levels.dtype(key), levels.shape(key)) for key in levels.names}
        names = _canonical(layout, dtype="I32")
        masked = stack.enter_context(TensorWriter(target, layout))
        for name, shape in names.items():
            stream, key = mask_stream(seed, context, name), part_name(name, VALUES)
            for start, stop in _pieces(shape):
                values = levels.read_slice(key, start, stop).view(np.uint32)
                values += stream.read(stop - start)
                masked.write_slice(key, start, values.view(np.int32))


def write_mask_sum(
    target: Path,
    tensors: Mapping[str, Shape],
    parts: Sequence[MaskPart],
    shared: Shared | None = None,
) -> None:
    """Write the weighted sum of the masks of a set of updates, modulo 2**32.

    Args:
        target: file to write; equal sums give equal bytes, whatever the order of ``parts``.
        tensors: canonical name -> shape of the levels, see :func:`level_shapes`.
        parts: the updates.
        shared: tensor -> sites whose updates hold it; None if each holds all.

    Raises:
        TensorError: the coefficients add up to too much, or nobody shares a tensor.
        OSError: the file cannot be written.
    """
    layout: dict[str, Entry] = {part_name(n, VALUES): ("U32", s) for n, s in tensors.items()}
    sites = {part.site: part.coefficient for part in parts}
    with TensorWriter(target, layout) as file:
        for name, shape in sorted(tensors.items()):
            counted = _counted(name, sites, shared)
            streams = [
                (np.uint32(part.coefficient), mask_stream(part.seed, part.context, name))
                for part in parts
                if part.site in counted
            ]
            for start, stop in _pieces(shape):
                total = np.zeros(stop - start, dtype=np.uint32)
                for coefficient, stream in streams:
                    total += coefficient * stream.read(stop - start)
                file.write_slice(part_name(name, VALUES), start, total)


def write_sum(
    target: Path,
    updates: Mapping[str, Path],
    coefficients: Mapping[str, int],
    mask_sum: Path,
    shared: Shared | None = None,
    *,
    max_norm: float = math.inf,
) -> None:
    """Write the weighted sum of the levels of masked updates.

    Args:
        target: file to write, as :class:`~fedfs.tensors.encodings.SummedLevels` reads it.
        updates: site -> its masked payload.
        coefficients: site -> how often its update is in the sum.
        mask_sum: what the helper published. The tensors that it holds are summed.
        shared: tensor -> sites whose updates hold it; None if each holds all.
        max_norm: largest L2 norm that a site may give its update, in steps of the encoding.

    Raises:
        TensorError: the mask sum is not that of these updates and coefficients, an update is longer
            than sites may send, or a file holds something else than it should.
        OSError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        masks = stack.enter_context(TensorFile(mask_sum))
        files = {site: stack.enter_context(TensorFile(path)) for site, path in updates.items()}
        tensors = _canonical({key: (masks.dtype(key), masks.shape(key)) for key in masks.names})
        layout: dict[str, Entry] = {}
        for name, shape in tensors.items():
            layout |= {part_name(name, VALUES): ("I32", shape), part_name(name, TOTAL): ("I32", ())}
        written = stack.enter_context(TensorWriter(target, layout))
        squares, n_values, sets = 0.0, 0, set()
        for name, shape in tensors.items():
            counted, key = _counted(name, coefficients, shared), part_name(name, VALUES)
            total = sum(counted.values())
            n_values += math.prod(shape)
            sets.add(frozenset(counted))
            for site in counted:
                _check_levels(files[site], key, shape, site)
            for start, stop in _pieces(shape):
                levels = np.zeros(stop - start, dtype=np.uint32)
                for site, coefficient in counted.items():
                    masked = files[site].read_slice(key, start, stop).view(np.uint32)
                    levels += np.uint32(coefficient) * masked
                levels -= masks.read_slice(key, start, stop)
                signed = levels.view(np.int32)
                try:
                    check_sum(signed, total)
                except TensorError as error:
                    raise TensorError(
                        "does not hold the masks of these updates: without it, the tensor "
                        f"{name!r} {error.fault}",
                        about="the mask sum",
                    ) from error
                written.write_slice(key, start, signed)
                squares += sum_of_squares(signed / total)
            written.write(part_name(name, TOTAL), np.asarray(total, dtype=np.int32))
        _check_norm(math.sqrt(squares), max_norm, n_values, n_sites=len(updates), n_sets=len(sets))


def _counted(name: str, coefficients: Mapping[str, int], shared: Shared | None) -> dict[str, int]:
    """Return site -> coefficient of the updates that hold a tensor, ascending."""
    sharing = coefficients if shared is None else shared.get(name, ())
    counted = {site: n for site, n in sorted(coefficients.items()) if site in sharing}
    total = sum(counted.values())
    if min(counted.values(), default=0) < 1 or total > MAX_TOTAL:
        raise TensorError(
            f"has coefficients that add up to {total}, each of which has to be at least 1, and all "
            f"of them at most {MAX_TOTAL}",
            about=f"the sum of the tensor {name!r}",
        )
    return counted


def _canonical(layout: Mapping[str, Entry], dtype: str = "U32") -> dict[str, Shape]:
    """Return canonical name -> shape of a file's tensors, ascending.

    Raises:
        TensorError: one is not of levels.
    """
    names = {}
    for key, (found, shape) in sorted(layout.items()):
        name = key.removesuffix(part_name("", VALUES))
        if found != dtype or name == key:
            raise TensorError(f"is no tensor of levels ({dtype})", about=f"the tensor {key!r}")
        names[name] = shape
    return names


def _check_levels(file: TensorFile, key: str, shape: Shape, site: str) -> None:
    if key not in file or (file.dtype(key), file.shape(key)) != ("I32", shape):
        raise TensorError(
            f"has no tensor {key!r} of type I32 and shape {list(shape)}",
            about=f"the update of {site}",
        )


def _check_norm(norm: float, max_norm: float, n_values: int, *, n_sites: int, n_sets: int) -> None:
    """Check that the mean of levels is no longer than it is if no site's update is.

    A mean is no longer than the longest of its parts. Where tensors are means over other sites,
    each site may be the longest in some of them. Each level is rounded by half a step at most.
    """
    most = max_norm * (1 if n_sets <= 1 else math.sqrt(n_sites)) + math.sqrt(n_values) / 2
    if norm > most * _ROUNDING:
        raise TensorError(
            f"has a norm of {norm:.6g} steps, and at most {most:.6g} if each site has bounded its "
            "update; a site has not, or the mask sum does not fit",
            about="the mean of the updates",
        )


def _pieces(shape: Shape) -> Iterator[tuple[int, int]]:
    n = math.prod(shape)
    for start in range(0, n, _PIECE):
        yield start, min(start + _PIECE, n)
