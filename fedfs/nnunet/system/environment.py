"""nnU-Net on this host: what its operator allows, and nnU-Net's three folders.

Rules:
 * ``nnUNet_raw`` is only read. ``nnUNet_preprocessed`` and ``nnUNet_results`` are written to; they
   are created if only the last part of their path is missing.
 * nnU-Net reads the variables whenever it builds a path, so they are set around each call of it.
   How many processes its pools have is read once, when it is imported.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedfs.errors import SetupError

RAW = "nnUNet_raw"
PREPROCESSED = "nnUNet_preprocessed"
RESULTS = "nnUNet_results"
POOL_SIZE = "nnUNet_def_n_proc"
AUGMENTATION_WORKERS = "nnUNet_n_proc_DA"
WANDB = "nnUNet_wandb_enabled"

_NNUNET_PROCESSES = 8  # nnU-Net's own default

_HINT = "set it as described in nnU-Net's documentation, setting_up_paths.md"


def usable_cores() -> int:
    """Return how many cores this process may use: a batch system often gives it fewer than all."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usual_processes() -> int:
    """Return how many processes nnU-Net gets if nobody says a number."""
    return min(_NNUNET_PROCESSES, usable_cores())


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Hardware and software of this host, as its operator gives them to fedfs.

    Attributes:
        device: ``cpu``, ``cuda``, ``mps``; None for the best there is.
        num_gpus: more than one trains each round in so many processes.
        num_processes: for fingerprint, preprocessing and nnU-Net's pools; 8, or as many as there
            are cores.
        allowed_trainers: trainers below ``nnUNet_extTrainer`` that the charter may ask for here.
        skip_broken: go on without cases that cannot be used; else stop at the first.
        allow_versions: take part with another nnunetv2 than the charter's, see
            :mod:`fedfs.protocol.software`.
        wandb: let nnU-Net's logger tell Weights & Biases about the training on this host.
    """

    device: str | None = None
    num_gpus: int = 1
    num_processes: int = field(default_factory=usual_processes)
    allowed_trainers: tuple[str, ...] = ()
    skip_broken: bool = False
    allow_versions: bool = False
    wandb: bool = False


DEFAULT_HOST = HostSettings()


@dataclass(frozen=True)
class NnUNetPaths:
    """nnU-Net's folders."""

    raw: Path
    preprocessed: Path
    results: Path

    def variables(self) -> dict[str, str]:
        """Return the folders as nnU-Net's environment variables."""
        return {
            RAW: str(self.raw),
            PREPROCESSED: str(self.preprocessed),
            RESULTS: str(self.results),
        }


def from_environment(environ: Mapping[str, str]) -> NnUNetPaths:
    """Return the folders named in ``environ``.

    Raises:
        SetupError: a variable is missing, or names something that is not a usable folder.
    """
    return NnUNetPaths(
        raw=_existing(environ, RAW, create=False),
        preprocessed=_writable(environ, PREPROCESSED),
        results=_writable(environ, RESULTS),
    )


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the time of a call of nnU-Net."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def limit_pools(num_processes: int) -> None:
    """Tell nnU-Net, before it is imported, how many processes its pools have.

    A value that the user has set stays.
    """
    os.environ.setdefault(POOL_SIZE, str(num_processes))


def _existing(environ: Mapping[str, str], name: str, *, create: bool) -> Path:
    value = environ.get(name, "")
    if not value:
        raise SetupError(f"The environment variable {name} is not set.", hint=_HINT)
    path = Path(value).expanduser().absolute()
    if create and path.parent.is_dir() and not path.exists():
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"{name} = {value} cannot be created: {error.strerror}.", hint=_HINT
            ) from error
    if not path.is_dir():
        raise SetupError(f"{name} = {value} is not a folder.", hint=_HINT)
    return path


def _writable(environ: Mapping[str, str], name: str) -> Path:
    path = _existing(environ, name, create=True)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SetupError(
            f"{name} = {path} cannot be written to: {error.strerror}.",
            hint="nnU-Net and fedfs write preprocessed data and models there",
        ) from error
    return path
