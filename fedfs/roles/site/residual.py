"""Residuals and private tensors that a site keeps between rounds, and never publishes.

 * The residual of a lossy encoding: what the last update did not carry.
 * Its private tensors, in the mode ``asym``: what no other site has.

One file per update, named after the version that the update was trained from. What counts is that
of the last update that was published: encoding again after a crash gives the same payload, and
nothing is lost with an update that was not.

A residual is as large as the model. It is written while the update is encoded, tensor by tensor,
and read likewise.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedfs.errors import RejectedError
from fedfs.learner import Array, Tensors
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_layout import Entry, Shape, dtype_of
from fedfs.tensors.safetensors_writer import TensorWriter

log = logging.getLogger(__name__)

_RESIDUAL, _PRIVATE = "residual/", "private/"


@dataclass(frozen=True)
class KeptTensors:
    """Residuals and private tensors after an update.

    Attributes:
        residual: canonical name -> what the update did not carry; read when it is looked up.
        private: own name -> tensor that only this site has; empty if there is none, or before the
            first update.
    """

    residual: Tensors = field(default_factory=dict)
    private: Tensors = field(default_factory=dict)


class _Residual(Mapping[str, Array]):
    """The residual in a file, of which each look-up reads one tensor.

    Args:
        path: of a file that has been read to its end before.
        names: of the tensors.
    """

    def __init__(self, path: Path, names: Collection[str]) -> None:
        self._path, self._names = path, frozenset(names)

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        with TensorFile(self._path) as file:
            return np.asarray(file.read(_RESIDUAL + name))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


class KeptTensorFiles:
    """The last two of them, in a folder of the site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(
        self, version: int, published: Collection[int], *, without: Collection[str] = ()
    ) -> KeptTensors:
        """Return what training from ``version`` starts with.

        Args:
            version: the version that is trained from, or made into a model.
            published: versions from which this site has published an update.
            without: names of tensors whose residual is not wanted.
        """
        before = self._before(version, published)
        if before is None:
            return KeptTensors()
        path = self._path(before)
        try:
            with TensorFile(path) as file:
                left = {name.removeprefix(_RESIDUAL) for name in _check(file, _RESIDUAL)}
                return KeptTensors(_Residual(path, left - set(without)), _part(file, _PRIVATE))
        except RejectedError as error:
            log.warning("%s is damaged and not used: %s", path, error.reason)
            return KeptTensors()

    @contextlib.contextmanager
    def writing(
        self,
        version: int,
        published: Collection[int],
        *,
        residual: Mapping[str, Shape],
        private: Tensors,
    ) -> Iterator[Callable[[str, Array], None]]:
        """Keep what the update trained from ``version`` leaves; forget older ones but the last.

        Yields a function that takes the residual of a tensor, to be called once for each. If the
        block raises, everything stays as it was.

        Args:
            version: the version that was trained from.
            published: versions from which this site has published an update.
            residual: canonical name -> shape of each tensor that has a residual.
            private: own name -> tensor that only this site has.

        Raises:
            OSError: the disk is full.
        """
        layout: dict[str, Entry] = {
            **{_RESIDUAL + name: ("F32", tuple(shape)) for name, shape in residual.items()},
            **{_PRIVATE + name: (dtype_of(array), array.shape) for name, array in private.items()},
        }
        if layout:
            with TensorWriter(self._path(version), layout) as file:
                for name, array in private.items():
                    file.write(_PRIVATE + name, array)
                yield lambda name, array: file.write(_RESIDUAL + name, array)
        else:
            yield _refuse
        before = self._before(version, published)
        for number in self._numbers() - {before, version}:
            self._path(number).unlink()

    def _before(self, version: int, published: Collection[int]) -> int | None:
        return max((n for n in self._numbers() if n < version and n in published), default=None)

    def _numbers(self) -> set[int]:
        return {int(path.stem.partition("-")[2]) for path in self._folder.glob("kept-*.*")}

    def _path(self, version: int) -> Path:
        return self._folder / f"kept-{version:05d}.safetensors"


def _refuse(name: str, _array: Array) -> None:
    raise ValueError(f"no residual of {name!r} was announced")


def _check(file: TensorFile, prefix: str) -> list[str]:
    """Read the tensors under a prefix once; return their names.

    Raises:
        TensorError: values are not finite, or the file is cut off.
    """
    names = [name for name in file.names if name.startswith(prefix)]
    for name in names:
        file.read(name)
    return names


def _part(file: TensorFile, prefix: str) -> Mapping[str, Array]:
    return {
        name.removeprefix(prefix): np.asarray(file.read(name))
        for name in file.names
        if name.startswith(prefix)
    }
