"""Residuals and private tensors that a site keeps between rounds, and never publishes.

 * The residual of a lossy encoding: what the last update did not carry.
 * Its private tensors, in the mode ``asym``: what no other site has.

One file per update, named after the version that the update was trained from. What counts is that
of the last update that was published: encoding again after a crash gives the same payload, and
nothing is lost with an update that was not.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedfs.errors import RejectedError
from fedfs.learner import Array, Tensors
from fedfs.tensors.canonical import TensorFile, write_safetensors

log = logging.getLogger(__name__)

_RESIDUAL, _PRIVATE = "residual/", "private/"


@dataclass(frozen=True)
class KeptTensors:
    """Residuals and private tensors after an update.

    Attributes:
        residual: canonical name -> what the update did not carry.
        private: own name -> tensor that only this site has; empty if there is none, or before the
            first update.
    """

    residual: Tensors = field(default_factory=dict)
    private: Tensors = field(default_factory=dict)


class KeptTensorFiles:
    """The last two of them, in a folder of the site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, version: int, published: Collection[int]) -> KeptTensors:
        """Return what training from ``version`` starts with.

        Args:
            version: the version that is trained from, or made into a model.
            published: versions from which this site has published an update.
        """
        before = self._before(version, published)
        if before is None:
            return KeptTensors()
        path = self._path(before)
        try:
            with TensorFile(path) as file:
                return KeptTensors(_part(file, _RESIDUAL), _part(file, _PRIVATE))
        except RejectedError as error:
            log.warning("%s is damaged and not used: %s", path, error.reason)
            return KeptTensors()

    def save(self, version: int, kept: KeptTensors, published: Collection[int]) -> None:
        """Keep what the update trained from ``version`` leaves; forget older ones but the last.

        Raises:
            OSError: the disk is full.
        """
        tensors = {
            **{_RESIDUAL + name: array for name, array in kept.residual.items()},
            **{_PRIVATE + name: array for name, array in kept.private.items()},
        }
        if tensors:
            write_safetensors(self._path(version), tensors)
        before = self._before(version, published)
        for number in self._numbers() - {before, version}:
            self._path(number).unlink()

    def _before(self, version: int, published: Collection[int]) -> int | None:
        return max((n for n in self._numbers() if n < version and n in published), default=None)

    def _numbers(self) -> set[int]:
        return {int(path.stem.partition("-")[2]) for path in self._folder.glob("kept-*.*")}

    def _path(self, version: int) -> Path:
        return self._folder / f"kept-{version:05d}.safetensors"


def _part(file: TensorFile, prefix: str) -> Mapping[str, Array]:
    return {
        name.removeprefix(prefix): np.asarray(file.read(name))
        for name in file.names
        if name.startswith(prefix)
    }
