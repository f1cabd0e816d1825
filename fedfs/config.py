"""Configuration of one process: frozen, from options, environment (``FEDFS_...``) and TOML.

A TOML file holds one table per command, with the names of its options::

    [site.run]
    device = "cuda"
    poll_interval = 2.0

    [aggregate]
    poll_interval = 5.0
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.watch import WaitSettings


@dataclass(frozen=True)
class JoinConfig:
    """What ``fedfs site join`` needs to know.

    Attributes:
        dataset: ``DatasetXXX_NAME`` or its number.
        expected_key: fingerprint of the coordinator's key, as told by telephone.
    """

    store_url: str
    site: str
    dataset: str
    home: Path
    expected_key: str | None = None


@dataclass(frozen=True)
class SiteConfig:
    """What ``fedfs site run`` needs to know.

    Attributes:
        home: this host's fedfs home.
        device: ``cuda``, ``cpu``, ``mps``; None to take the best there is.
        num_processes: worker processes for fingerprint and preprocessing.
        status_interval_s: shortest time between two published statuses of one step.
    """

    store_url: str
    site: str
    home: Path
    device: str | None = None
    num_processes: int = 8
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)


@dataclass(frozen=True)
class AggregatorConfig:
    """What ``fedfs aggregate`` needs to know; ``folder`` is a cache that may be deleted."""

    store_url: str
    home: Path
    folder: Path | None = None
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)


def load_toml(path: Path) -> Mapping[str, Any]:
    """Return the content of a configuration file, in the shape of click's ``default_map``.

    Raises:
        UserError: missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
