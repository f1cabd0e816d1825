"""Settings of the aggregator's process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedfs.roles.polling import WaitSettings
from fedfs.store import StorePlace


@dataclass(frozen=True)
class AggregatorConfig:
    """Settings of ``fedfs aggregate``.

    Attributes:
        folder: a cache that may be deleted.
        keep_versions: newest versions whose payloads are kept; None keeps all.
        report: publish a page for people after every version.
        tracks: that this process works on, in a study of several; empty for all.
        allowed_trainers: trainers below ``nnUNet_extTrainer`` that the charter may ask for here.
    """

    store: StorePlace | str
    home: Path
    folder: Path | None = None
    keep_versions: int | None = None
    report: bool = True
    tracks: tuple[str, ...] = ()
    allowed_trainers: tuple[str, ...] = ()
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)
