"""From the files of updates to those of the next version: weights, delta, memory, in one pass.

Rules:
 * A strategy sees tensors in pieces, see :mod:`fedfs.aggregation.update_reader`: memory is that of
   the largest tensor if a version is lossy, and less if not.
 * Pieces are worked on by several threads, as numpy and the system's calls let go of Python's
   lock, and are taken in the order of the file: neither bits nor errors depend on threads.
 * If no site that shares a tensor is here, the tensor and its memory stay as they are; so do all
   of them where there is no update.
 * Files are not waited for until they are on the disk: the store does that for its own copies.
 * Where there is an exponential average, it is made of the version as its readers have it.
 * A version whose encoding is lossy is what its readers will make of the delta. What the delta
   does not carry is kept beside the strategy's memory and is added to the next delta.
"""

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfs.aggregation.moving_average import moved
from fedfs.aggregation.strategies import Combined, Strategy
from fedfs.aggregation.update_reader import Combination, DeltaReader, Piece
from fedfs.learner import Array
from fedfs.tensors import encodings
from fedfs.tensors.canonical import hashed_header
from fedfs.tensors.encodings import Decoder, Encoding
from fedfs.tensors.safetensors_layout import Entry, Shape
from fedfs.tensors.safetensors_writer import TensorWriter, raw_bytes

__all__ = ["RESIDUAL", "Combination", "Outputs", "Written", "combine", "state_layout"]

RESIDUAL = "residual"
"""In the memory's file, beside the slots of strategies: what deltas have not carried yet."""

_KEPT_BYTES = 8 << 20
"""Larger than any array that is made for a piece."""


@dataclass(frozen=True)
class Outputs:
    """Files of the next version; those that it does not have are not made.

    Attributes:
        model: its weights, float32.
        delta: its payload, if its encoding is lossy.
        state: memory of the strategy, and what the delta does not carry.
        ema: exponential average of versions.
    """

    model: Path
    delta: Path
    state: Path
    ema: Path


@dataclass(frozen=True)
class Written:
    """Facts about the files of a version.

    Attributes:
        weights_sha256: hash of the weights, see :func:`fedfs.tensors.canonical.weights_sha256`.
        has_delta: whether there is a delta.
        has_state: whether there is a memory.
        has_ema: whether there is an exponential average.
        n_tensors: tensors of the model.
        n_parameters: their values.
    """

    weights_sha256: str
    has_delta: bool
    has_state: bool
    has_ema: bool
    n_tensors: int
    n_parameters: int


def combine(
    parts: Combination,
    *,
    strategy: Strategy,
    update_encoding: Decoder,
    model_encoding: Encoding,
    outputs: Outputs,
) -> Written:
    """Write the next version.

    Args:
        parts: what it is made from.
        strategy: how.
        update_encoding: that of the updates.
        model_encoding: that of the version.
        outputs: where to.

    Raises:
        StudyError: the strategy needs more updates, or its steps diverge.
        TensorError: an update or the state is damaged.
        OSError: a file cannot be read or written.
    """
    shapes = parts.shapes
    # A strategy may refuse to work with too few updates; without any, nothing is left to decide.
    this_round = strategy.begin(parts.weights, version=parts.version) if parts.updates else None
    # glibc takes the largest block that was freed for the size of those worth keeping. Otherwise
    # it returns all memory after each piece, and asking for it again, page by page, takes longer
    # than the arithmetic. The block itself is never touched.
    np.empty(_KEPT_BYTES, dtype=np.uint8)
    with contextlib.ExitStack() as stack:
        folder = outputs.model.parent
        reader = DeltaReader(parts, strategy, update_encoding, folder=folder, stack=stack)
        while this_round is not None and this_round.scanning:
            for piece in reader.slices():
                this_round.scan(piece.updates, reader.deltas(piece, reader.base(piece)))
            this_round.end_scan()

        def combined(piece: Piece) -> Combined:
            base = reader.base(piece)
            state = reader.state(piece)
            if this_round is None:
                zero = np.zeros_like(base)
                return Combined(base, {slot: state.get(slot, zero) for slot in strategy.slots})
            deltas = reader.deltas(piece, base)
            return this_round.combine(piece.name, base, piece.updates, deltas, state)

        output = _Output(parts, strategy, model_encoding, outputs, stack)
        pool = stack.enter_context(ThreadPoolExecutor(reader.n_threads))
        for piece, done in _in_order(pool, combined, reader.pieces(), ahead=reader.n_ahead):
            output.add(piece, done)
    return Written(
        weights_sha256=output.digest.hexdigest(),
        has_delta=output.delta is not None,
        has_state=output.state is not None,
        has_ema=output.ema is not None,
        n_tensors=len(shapes),
        n_parameters=sum(map(math.prod, shapes.values())),
    )


def state_layout(
    shapes: Mapping[str, Shape], strategy: Strategy, model_encoding: Encoding
) -> dict[str, Entry]:
    """Return the tensors of the memory that versions of these tensors have; empty if none."""
    slots = strategy.slots if model_encoding.lossless else (*strategy.slots, RESIDUAL)
    return {f"{slot}/{name}": ("F32", shape) for slot in slots for name, shape in shapes.items()}


class _Output:
    """Takes combined pieces in the order of the file, and writes what follows from them."""

    def __init__(
        self,
        parts: Combination,
        strategy: Strategy,
        encoding: Encoding,
        outputs: Outputs,
        stack: contextlib.ExitStack,
    ) -> None:
        self.digest = hashlib.sha256()
        self._base, self._encoding = parts.base, encoding
        shapes = parts.shapes
        memory = state_layout(shapes, strategy, encoding)
        if parts.state is not None:
            parts.state.check_layout(memory)
        self._before = parts.state
        self._average = parts.ema
        self._ema_weight = parts.ema_weight
        self._target = np.empty(0, dtype=np.float32)

        def writer(path: Path, layout: Mapping[str, Entry]) -> TensorWriter:
            return stack.enter_context(TensorWriter(path, layout, synced=False))

        weights = {name: ("F32", shape) for name, shape in shapes.items()}
        self.model = writer(outputs.model, weights)
        self.state = writer(outputs.state, memory) if memory else None
        self.ema = writer(outputs.ema, weights) if parts.ema_weight is not None else None
        self.delta = None
        if not encoding.lossless:
            self.delta = writer(outputs.delta, encodings.payload_layout(encoding, shapes))

    def add(self, piece: Piece, done: Combined) -> None:
        """Write a piece, or keep it until its tensor is complete and can be encoded."""
        if self.state is not None:
            for slot, values in done.state.items():
                self.state.write_slice(f"{slot}/{piece.name}", piece.start, values)
        if self.delta is None:
            self._write_weights(piece, piece.start, done.value)
            return
        if piece.start == 0:
            self._target = np.empty(math.prod(piece.shape), dtype=np.float32)
        self._target[piece.start : piece.stop] = done.value
        if piece.is_last:
            self._encode(piece, self._target.reshape(piece.shape))

    def _encode(self, piece: Piece, target: Array) -> None:
        """Write what a whole tensor becomes: its delta, what readers make of it, what is left."""
        if self.delta is None or self.state is None:
            raise RuntimeError("a lossless version has no delta")
        name, left = piece.name, f"{RESIDUAL}/{piece.name}"
        base = self._base.read(name)
        before = np.zeros_like(base) if self._before is None else self._before.read(left)
        encoded = self._encoding.encode(name, target, base, before if piece.updates else None)
        for part, array in encoded.payload.items():
            self.delta.write(part, array)
        self._write_weights(piece, 0, self._encoding.reconstruct(name, encoded.payload, base))
        kept = encoded.residual if piece.updates else before
        self.state.write(left, np.zeros_like(base) if kept is None else kept)

    def _write_weights(self, piece: Piece, start: int, values: Array) -> None:
        if start == 0:
            self.digest.update(hashed_header(piece.name, "F32", piece.shape))
        self.digest.update(raw_bytes(values, "F32"))
        self.model.write_slice(piece.name, start, values)
        if self.ema is not None and self._ema_weight is not None:
            self.ema.write_slice(piece.name, start, self._averaged(piece, start, values))

    def _averaged(self, piece: Piece, start: int, values: Array) -> Array:
        """Return the average's values, once those of this version went into it."""
        if self._average is None or self._ema_weight is None:
            return values
        before = self._average.read_slice(piece.name, start, start + values.size)
        return moved(before.reshape(values.shape), values, self._ema_weight)


def _in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Piece], Combined],
    pieces: Iterable[Piece],
    *,
    ahead: int,
) -> Iterator[tuple[Piece, Combined]]:
    """Yield pieces and their results in order, some ahead; an error comes in its piece's turn."""
    waiting: deque[tuple[Piece, Future[Combined]]] = deque()
    for piece in pieces:
        waiting.append((piece, pool.submit(function, piece)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
