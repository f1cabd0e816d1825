"""Settings of a site's commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.nnunet.settings import DEFAULT_SCORES, ScoreOptions
from fedfs.nnunet.system.environment import HostSettings
from fedfs.protocol.messages import Charter
from fedfs.protocol.values import check_site
from fedfs.roles.polling import WaitSettings
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.store import StorePlace


@dataclass(frozen=True)
class JoinConfig:
    """Settings of ``fedfs site join``; a name that no site can have is a UserError.

    Attributes:
        dataset: ``DatasetXXX_NAME`` or its number.
        expected_key: fingerprint of the coordinator's key, as told by telephone.
        planning: what this site's own plan has that the charter does not say, by the charter's
            names (``gpu_memory_target_gb``, ``target_spacing``, ``planner``, ``planner_options``);
            for studies in which sites plan for themselves.
        host: hardware and software of this host; with ``skip_broken``, all cases are read now.
        policy: file of the site's policy; None to look where it usually is.
    """

    store: StorePlace | str
    site: str
    dataset: str
    home: Path
    expected_key: str | None = None
    planning: Mapping[str, Any] = field(default_factory=dict)
    host: HostSettings = field(default_factory=HostSettings)
    policy: Path | None = None

    def __post_init__(self) -> None:
        check_site(self.site)


@dataclass(frozen=True)
class SiteConfig:
    """Settings of ``fedfs site run``; a name that no site can have is a UserError.

    Attributes:
        home: this host's fedfs home.
        host: hardware and software of this host.
        local_minutes: as of the charter, where this site wants less.
        keep_versions: own payloads to older versions are deleted once used; None keeps all.
        local_model: in the end, also train a model of this site's data alone, to compare with.
        personal: in the end, also fine-tune the last version on this site's data; None for not.
        publish_personal: publish the scores of the personal model.
        final_validation: validate the last version, and own models, as nnU-Net does; else no score
            of them is published.
        scores: options of the metrics of single cases.
        publish_cases: publish scores of single cases, without names.
        tracks: names of the tracks that this process works on; empty for all.
        status_interval_s: shortest time between two published statuses of one step.
        policy: file of the site's policy; None to look where it usually is.
    """

    store: StorePlace | str
    site: str
    home: Path
    host: HostSettings = field(default_factory=HostSettings)
    local_minutes: float | None = None
    keep_versions: int | None = None
    local_model: bool = False
    personal: FineTuning | None = None
    publish_personal: bool = False
    final_validation: bool = True
    scores: ScoreOptions = DEFAULT_SCORES
    publish_cases: bool = False
    tracks: tuple[str, ...] = ()
    once: bool = False
    status_interval_s: float = 15.0
    wait: WaitSettings = field(default_factory=WaitSettings)
    policy: Path | None = None

    def __post_init__(self) -> None:
        check_site(self.site)

    def check_against(self, charter: Charter) -> None:
        """Check that a site can take part like this.

        Raises:
            UserError: the study needs the final validation: to compare models by it, or for the
                second stage of a cascade.
        """
        needs_it = len(charter.tracks) > 1 or charter.shares_models or charter.averages
        if needs_it and not self.final_validation:
            raise UserError(
                f"Study {charter.name!r} needs the final validation of its models.",
                hint="leave out --no-final-validation",
            )
