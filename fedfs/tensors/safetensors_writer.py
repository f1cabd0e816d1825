"""A writer of safetensors files that are made piece by piece, such as updates and versions.

The safetensors library writes what is complete in memory, see
:mod:`fedfs.tensors.safetensors_library`; an update or a version never is, as a whole.

Rules:
 * Tensors, and slices of them, go to their place in any order and from any thread, as the header
   says where everything is before the first value is there. Several files may be open at once.
 * A file is complete or absent: it is written under another name, every value is asked for once,
   and it has its own name only when it has reached the disk, unless it need not.
 * A large file goes to the disk while more of it is made: waiting for that took as long as
   everything else.
 * Equal tensors make equal files, whatever the host or the version of a library: aggregators and
   auditors make the same version again, and compare bytes. Updates are byte for byte what the
   library would write.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fedfs.errors import TensorError
from fedfs.store.local_files import replacing
from fedfs.tensors.safetensors_layout import (
    BF16,
    DTYPES,
    AnyArray,
    Entry,
    dtype_of,
    header_bytes,
    places,
)

_SYNC_BYTES = 8 << 20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class TensorWriter:
    """A file that is being written; used with ``with``.

    Args:
        path: file to write; on leaving the context it is complete, or as it was if that raises.
        layout: name -> type as safetensors spells it, and shape.
        metadata: kept in the file's header.
        synced: wait for the disk. What is published does without, as the store waits for its own
            copy, and a cache is compared with a hash.
        as_library: arrange header and tensors as the safetensors library does.
    """

    def __init__(
        self,
        path: Path,
        layout: Mapping[str, Entry],
        metadata: Mapping[str, str] | None = None,
        *,
        synced: bool = True,
        as_library: bool = False,
    ) -> None:
        self._path = path
        self._synced = synced
        self._layout = layout
        self._header = header_bytes(layout, metadata, as_library=as_library)
        ends = places(layout, as_library=as_library)
        self._begins = {name: begin for name, (begin, _) in ends.items()}
        self._syncer = ThreadPoolExecutor(1)  # begins its thread when it is needed
        self._syncs: list[Future[None]] = []
        self._unsynced = 0
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in layout}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(
                replacing(self._path, durable=self._synced, synced=self._synced)
            )
            self._fd = os.open(temporary, _FLAGS, 0o600)
            stack.callback(os.close, self._fd)
            stack.callback(self._syncer.shutdown)
            self._put(memoryview(self._header), 0)
            self._on_exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._on_exit.__exit__(kind, error, traceback)
            return
        with self._on_exit:
            self._check_complete()
            for sync in self._syncs:
                sync.result()  # the system reports only once what could not be written

    def write(self, name: str, array: AnyArray) -> None:
        """Write a whole tensor.

        Raises:
            TensorError: it has another shape or type than the layout says.
            OSError: the file cannot be written, for example because the disk is full.
        """
        dtype, shape = self._layout[name]
        check_array(name, array, (dtype, shape))
        self.write_slice(name, 0, array)

    def write_slice(self, name: str, start: int, array: AnyArray) -> None:
        """Write the values of a tensor, in C order, from the ``start``-th on.

        Raises:
            TensorError: they have another type than the layout says, or go beyond the tensor.
            OSError: the file cannot be written, for example because the disk is full.
        """
        dtype, shape = self._layout[name]
        n, stop = math.prod(shape), start + array.size
        if not 0 <= start <= stop <= n:
            raise TensorError(
                f"has {n} values, not {start} to {stop}", about=f"the tensor {name!r}"
            )
        check_array(name, array, (dtype, array.shape))
        begin = self._begins[name] + start * DTYPES[dtype][0]
        self._put(raw_bytes(array, dtype), len(self._header) + begin)
        self._written[name].append((start, stop))

    def _put(self, raw: memoryview, position: int) -> None:
        done = 0
        while done < len(raw):
            done += os.pwrite(self._fd, raw[done:], position + done)
        self._unsynced += done
        if self._synced and self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            self._syncs.append(self._syncer.submit(os.fsync, self._fd))

    def _check_complete(self) -> None:
        for name, (_, shape) in self._layout.items():
            end = 0
            for start, stop in sorted(self._written[name]):
                if start != end:
                    raise TensorError(
                        "was written twice, or not all of it", about=f"the tensor {name!r}"
                    )
                end = stop
            if end != math.prod(shape):
                raise TensorError("was not written to its end", about=f"the tensor {name!r}")


def check_array(name: str, array: AnyArray, entry: Entry) -> None:
    """Check that an array has the type and the shape that a file announces for it.

    Raises:
        TensorError: naming the tensor, and both types and shapes.
    """
    dtype, shape = entry
    if (dtype_of(array), array.shape) != ("F32" if dtype == BF16 else dtype, tuple(shape)):
        raise TensorError(
            f"is {array.dtype} {list(array.shape)}, announced as {dtype} {list(shape)}",
            about=f"the tensor {name!r}",
        )


def raw_bytes(array: AnyArray, dtype: str) -> memoryview:
    """Return an array's values as they are in a file of type ``dtype``: C order, little-endian.

    Raises:
        TensorError: the array has another type, or values that bfloat16 cannot hold.
    """
    if np.dtype(DTYPES[dtype][1]) != array.dtype.newbyteorder("<"):
        raise TensorError(f"cannot be written as {dtype}", about=f"an array of type {array.dtype}")
    if not array.size:
        return memoryview(b"")
    flat = np.asarray(array, dtype=DTYPES[dtype][1], order="C").reshape(-1)
    if dtype == BF16:
        halves = flat.view("<u2")
        if halves[::2].any():
            raise TensorError("holds values that bfloat16 cannot hold", about="the array")
        flat = np.ascontiguousarray(halves[1::2])
    return flat.view(np.uint8).data
