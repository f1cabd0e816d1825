"""Parameters of SLURM's jobs, as ``--slurm NAME=VALUE`` gives them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedfs.errors import UserError

_PARAMETERS: Mapping[str, Callable[[str], Any]] = {
    "timeout_min": int,
    "mem_gb": float,
    "cpus_per_task": int,
    "gpus_per_node": int,
    "mem_per_gpu": str,
    "partition": str,
    "account": str,
    "qos": str,
    "gres": str,
    "constraint": str,
    "nodelist": str,
    "exclude": str,
    "comment": str,
    "setup": lambda line: [line],
}
"""submitit's names, where they are sensible for a job of one process, and their types."""


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Return SLURM's parameters from ``NAME=VALUE`` texts.

    Raises:
        UserError: a name is unknown, or a value is not what it has to be.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in _PARAMETERS:
            raise UserError(
                f"--slurm {pair}: there is no parameter {name!r}.",
                hint=f"some of {', '.join(_PARAMETERS)}; sbatch also reads its SBATCH_ variables",
            )
        if not value:
            raise UserError(f"--slurm {pair} is not NAME=VALUE.")
        try:
            out[name] = _PARAMETERS[name](value)
        except ValueError as error:
            raise UserError(f"--slurm {pair}: {value!r} is not a number.") from error
    return out
