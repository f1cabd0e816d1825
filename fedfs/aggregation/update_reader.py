"""Reads the deltas of updates piece by piece, so that memory does not grow with sites.

Rules:
 * What a strategy scans, it scans in slices that the protocol fixes, as norms and distances are
   summed slice by slice. The pass that combines may be cut as is best for this host.
 * Of each tensor only the sites that share it are asked.
 * A delta is taken to the version that its update was trained from, not to the newest.
 * A strategy that sees one delta at a time borrows it, see
   :class:`~fedfs.aggregation.strategies.base.Borrowed`. One that stacks deltas gets smaller pieces.
   Where that needs whole tensors, decoded deltas wait in files.
 * Payloads were decoded when they were received, and are not looked at again as closely. A value
   that is not finite would show in a mean; but it may decide unseen what is selected, so those
   that are stacked are checked.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, islice
from pathlib import Path

import numpy as np

from fedfs.aggregation.fused_sums import GROUP, Add, fused_add
from fedfs.aggregation.strategies import Delta, Strategy
from fedfs.aggregation.strategies.base import Borrowed, Summable
from fedfs.learner import Array
from fedfs.tensors import encodings
from fedfs.tensors.encodings import Decoder, Fp32
from fedfs.tensors.encodings.slices import read_parts
from fedfs.tensors.safetensors_layout import BF16, AnyArray, Shape
from fedfs.tensors.safetensors_reader import TensorFile

SLICE = 32_768
"""Values that are scanned at a time. Part of the protocol."""

_PIECE = 196_608
"""Values that are combined at a time.

With a fourth of them they stay in the processor's cache, and one thread is faster; but two, which
then wait for Python's lock, take twice as long.
"""

_MAX_THREADS = 4


@dataclass(frozen=True)
class Combination:
    """Inputs of the next version.

    Updates are known by the names of their sites.

    Attributes:
        base: weights of the version before, float32, complete.
        state: memory after that version; None at the first, or if there is none.
        updates: update -> its payload, which holds the tensors that its site shares.
        weights: update -> weight, of the same updates.
        version: the version to be made.
        shared_by: tensor -> sites that share it; None if every site has every tensor.
        ema: exponential average up to the version before; None at the first.
        ema_weight: of the version to be made in that average; None if there is none.
        withheld: tensors that no update holds, as sites keep them.
        bases: of updates that were not trained from ``base``, update -> what they were trained
            from, with the same tensors.
    """

    base: TensorFile
    state: TensorFile | None
    updates: Mapping[str, Path]
    weights: Mapping[str, float]
    version: int
    shared_by: Mapping[str, Collection[str]] | None = None
    ema: TensorFile | None = None
    ema_weight: float | None = None
    withheld: Collection[str] = ()
    bases: Mapping[str, TensorFile] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name -> shape of every tensor, ascending."""
        return {name: self.base.shape(name) for name in self.base.names}

    def updates_of(self, name: str) -> list[str]:
        """Return the updates that hold a tensor, ascending."""
        if name in self.withheld:
            return []
        if self.shared_by is None:
            return sorted(self.updates)
        shared = self.shared_by.get(name, ())
        return sorted(update for update in self.updates if update in shared)


@dataclass(frozen=True)
class Piece:
    """Values ``start`` to ``stop``, in C order, of a tensor that ``updates`` hold."""

    name: str
    shape: Shape
    start: int
    stop: int
    updates: list[str]

    @property
    def is_last(self) -> bool:
        """True where the tensor ends with it."""
        return self.stop == math.prod(self.shape)


class DeltaReader:
    """The files that a version is made from.

    Args:
        parts: the files.
        strategy: what their deltas are for.
        encoding: that of the updates.
        folder: for deltas that have to wait in files.
        stack: closes the files.

    Raises:
        TensorError: an update does not hold exactly what its site shares.
    """

    def __init__(
        self,
        parts: Combination,
        strategy: Strategy,
        encoding: Decoder,
        *,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self._parts, self._encoding, self._folder = parts, encoding, folder
        self._slots, self._stacks = strategy.slots, strategy.stacks
        self._shapes = parts.shapes
        self._updates = {name: parts.updates_of(name) for name in self._shapes}
        self._waiting: tuple[str, dict[str, Delta]] = ("", {})
        self._files: dict[str, TensorFile] = {}
        for update, path in parts.updates.items():
            file = self._files[update] = stack.enter_context(TensorFile(path))
            shapes = {
                name: shape for name, shape in self._shapes.items() if update in self._updates[name]
            }
            file.check_layout(encodings.payload_layout(encoding, shapes))
        n_values = sum(math.prod(s) * len(self._updates[n]) for n, s in self._shapes.items())
        is_plain = isinstance(encoding, Fp32) and not self._stacks
        self._add = fused_add(n_values) if is_plain else None
        # Whole tensors are large: one at a time, and one ahead.
        self.n_threads = min(os.cpu_count() or 1, _MAX_THREADS) if encoding.elementwise else 1
        self.n_ahead = 3 * self.n_threads if encoding.elementwise else 1

    def slices(self) -> Iterator[Piece]:
        """Yield what is scanned at a time; no tensor that nobody has."""
        for name, shape in self._shapes.items():
            dtypes = {dtype for dtype, _ in self._encoding.expected(name, shape).values()}
            whole = BF16 in dtypes or not self._encoding.elementwise
            if self._updates[name]:
                yield from self._cut(name, math.prod(shape) if whole else SLICE)

    def pieces(self) -> Iterator[Piece]:
        """Yield what is combined at a time."""
        for name, shape in self._shapes.items():
            if self._stacks:
                yield from self._cut(name, _PIECE // max(len(self._files), 1))
            else:
                whole = not self._encoding.elementwise
                yield from self._cut(name, math.prod(shape) if whole else _PIECE)

    def base(self, piece: Piece) -> Array:
        """Read the base's values."""
        return self._parts.base.read_slice(piece.name, piece.start, piece.stop)

    def state(self, piece: Piece) -> dict[str, Array]:
        """Read slot -> memory of the strategy."""
        file = self._parts.state
        if file is None:
            return {}
        return {
            slot: file.read_slice(f"{slot}/{piece.name}", piece.start, piece.stop)
            for slot in self._slots
        }

    def deltas(self, piece: Piece, base: Array) -> Iterable[Delta]:
        """Return the deltas of the piece's updates, made one at a time."""
        deltas: Iterator[Delta]
        if self._stacks and (not self._encoding.elementwise or base.size > _PIECE):
            deltas = (
                self._wait(update, piece.name)[piece.start : piece.stop] for update in piece.updates
            )
        elif self._add is not None:
            return _TrainedValues(self.of_slices(piece, base), self, piece, base, self._add)
        elif self._encoding.elementwise:
            deltas = self.of_slices(piece, base)
        else:
            deltas = (self._of_tensor(update, piece.name) for update in piece.updates)
        return deltas if self._stacks else Borrowed(deltas)

    def trained(self, piece: Piece, newest: Array) -> Iterator[tuple[Array, Array]]:
        """Yield what an update holds and was trained from; valid for ``GROUP`` updates."""
        place = (piece.name, piece.start, piece.stop)
        buffers: list[Array | None] = [None] * GROUP
        for i, update in enumerate(piece.updates):
            values = self._files[update].read_slice(*place, out=buffers[i % GROUP])
            buffers[i % GROUP] = values
            older = self._parts.bases.get(update)
            yield values, newest if older is None else older.read_slice(*place)

    def of_slices(self, piece: Piece, newest: Array) -> Iterator[Delta]:
        """Yield the deltas of a piece whose updates are decoded slice by slice."""
        wide, delta = newest.astype(np.float64), None
        payload: dict[str, AnyArray] = {}
        for update in piece.updates:
            file, base = self._files[update], wide
            if update in self._parts.bases:
                older = self._parts.bases[update]
                base = older.read_slice(piece.name, piece.start, piece.stop).astype(np.float64)
            read_parts(self._encoding, piece.name, file, piece.start, piece.stop, payload)
            if self._stacks:
                yield self._encoding.decode(piece.name, payload, base)
            else:
                delta = self._encoding.decode_again(piece.name, payload, base, delta)
                yield delta

    def _of_tensor(self, update: str, name: str) -> Delta:
        decode = self._encoding.decode if self._stacks else self._encoding.decode_again
        base = self._parts.bases.get(update, self._parts.base)
        return decode(name, self._files[update], base.read(name)).reshape(-1)

    def _wait(self, update: str, name: str) -> Delta:
        """Return a whole tensor's delta, which is in a file until another tensor is asked for."""
        if self._waiting[0] != name:
            self._waiting = (name, {})
        waiting = self._waiting[1]
        if update not in waiting:
            delta = self._of_tensor(update, name)
            if delta.size:
                with tempfile.TemporaryFile(dir=self._folder) as file:
                    delta.tofile(file)
                    file.flush()
                    delta = np.asarray(np.memmap(file, np.float64, "r"))
            waiting[update] = delta
        return waiting[update]

    def _cut(self, name: str, size: int) -> Iterator[Piece]:
        shape = self._shapes[name]
        n = math.prod(shape)
        for start in range(0, max(n, 1), max(size, 1)):
            yield Piece(name, shape, start, min(start + max(size, 1), n), self._updates[name])


@dataclass(frozen=True)
class _TrainedValues(Summable):
    """Deltas of a piece whose updates hold trained values as they are."""

    reader: DeltaReader
    piece: Piece
    base: Array
    add: Add

    def only(self, taken: Sequence[bool]) -> Summable:
        """See :class:`~fedfs.aggregation.strategies.base.Summable`."""
        piece = replace(self.piece, updates=list(compress(self.piece.updates, taken)))
        return replace(self, deltas=self.reader.of_slices(piece, self.base), piece=piece)

    def weighted_sum(self, shares: Sequence[float]) -> Delta:
        """See :class:`~fedfs.aggregation.strategies.base.Summable`."""
        total, is_first = np.empty(self.base.shape), True
        trained = self.reader.trained(self.piece, self.base)
        updates = ((share, *of) for share, of in zip(shares, trained, strict=True))
        while group := list(islice(updates, GROUP)):
            self.add(total, group, is_first)
            is_first = False
        return total
