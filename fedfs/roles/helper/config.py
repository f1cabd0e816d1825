"""Settings of the helper's process."""

from dataclasses import dataclass, field
from pathlib import Path

from fedfs.roles.polling import WaitSettings
from fedfs.store import StorePlace


@dataclass(frozen=True)
class HelperConfig:
    """Settings of ``fedfs helper run``.

    Attributes:
        home: this host's fedfs home: holds the helper's keys, and its memory of what it answered.
        folder: a cache that may be deleted; each study has a folder in it.
        keep_versions: newest versions whose sums are kept; None keeps all.
        tracks: names of the tracks that this process works on; empty for all.
    """

    store: StorePlace | str
    home: Path
    folder: Path | None = None
    keep_versions: int | None = None
    tracks: tuple[str, ...] = ()
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)
