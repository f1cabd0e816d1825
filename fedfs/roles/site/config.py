"""Settings of a site's commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.roles.polling import WaitSettings
from fedfs.store import StorePlace


@dataclass(frozen=True)
class JoinConfig:
    """Settings of ``fedfs site join``.

    Attributes:
        dataset: ``DatasetXXX_NAME`` or its number.
        expected_key: fingerprint of the coordinator's key, as told by telephone.
        planning: what this site's own plan has that the charter does not say, by the charter's
            names (``gpu_memory_target_gb``, ``target_spacing``, ``planner``, ``planner_options``);
            for studies in which sites plan for themselves.
        skip_broken: read all cases now, and go on without those that cannot be used.
        num_processes: worker processes for that.
        allow_versions: also with another nnunetv2 than the charter's, see
            :mod:`fedfs.protocol.software`.
    """

    store: StorePlace | str
    site: str
    dataset: str
    home: Path
    expected_key: str | None = None
    planning: Mapping[str, Any] = field(default_factory=dict)
    skip_broken: bool = False
    num_processes: int = 8
    allow_versions: bool = False


@dataclass(frozen=True)
class SiteConfig:
    """Settings of ``fedfs site run``.

    Attributes:
        home: this host's fedfs home.
        device: ``cuda``, ``cpu``, ``mps``; None to take the best there is.
        num_gpus: that each round is trained on, by a process each.
        num_processes: worker processes for fingerprint and preprocessing.
        local_minutes: as of the charter, where this site wants less.
        keep_versions: own payloads to older versions are deleted once used; None keeps all.
        local_model: in the end, also train a model of this site's data alone, to compare with.
        tracks: that this process works on, in a study of several; empty for all.
        allowed_trainers: trainers below ``nnUNet_extTrainer`` that the charter may ask for here.
        skip_broken: go on without cases that cannot be used; else stop at the first.
        allow_versions: also with another nnunetv2 than the charter's, see
            :mod:`fedfs.protocol.software`.
        status_interval_s: shortest time between two published statuses of one step.
    """

    store: StorePlace | str
    site: str
    home: Path
    device: str | None = None
    num_gpus: int = 1
    num_processes: int = 8
    local_minutes: float | None = None
    keep_versions: int | None = None
    local_model: bool = False
    tracks: tuple[str, ...] = ()
    allowed_trainers: tuple[str, ...] = ()
    skip_broken: bool = False
    allow_versions: bool = False
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)
