"""Settings of the aggregator's process."""

from dataclasses import dataclass, field
from pathlib import Path

from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.polling import WaitSettings
from fedfs.store import StorePlace


@dataclass(frozen=True)
class AggregatorConfig:
    """Settings of ``fedfs aggregate``.

    Attributes:
        folder: a cache that may be deleted; each study has a folder in it.
        keep_versions: newest versions whose payloads are kept; None keeps all.
        report: publish a page for people after every version.
        tracks: names of the tracks that this process works on; empty for all.
        host: software of this host, which makes the plan.
    """

    store: StorePlace | str
    home: Path
    folder: Path | None = None
    keep_versions: int | None = None
    report: bool = True
    tracks: tuple[str, ...] = ()
    host: HostSettings = field(default_factory=HostSettings)
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)
