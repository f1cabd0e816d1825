"""Forecasts: when a study will end, who will wait for whom, and how many bytes, by its rules.

The real loops run in virtual time, with a learner that costs nothing: the model is worth nothing,
and its score is none. The last version ends a forecast, not its validation.
"""

import dataclasses
import gc
import itertools
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.protocol.messages import from_utc, utc
from fedfs.protocol.state import StudyState
from fedfs.simulation.virtual.calendar import HOUR_S
from fedfs.simulation.virtual.store import MB
from fedfs.simulation.virtual.study import Host, VirtualStudy
from fedfs.simulation.virtual.trace import Trace

TRACES = Path(__file__).parent / "traces"
"""Traces that come with fedfs."""


@dataclass(frozen=True)
class Rules:
    """Rules of a study that are forecast.

    Attributes:
        name: for people.
        options: of ``fedfs init``.
    """

    name: str
    options: Mapping[str, Any]


@dataclass(kw_only=True)
class SiteForecast:
    """Forecast for a site.

    Attributes:
        cases_percent: of all cases.
        model_percent: of the weight in all versions.
        computing_h, transferring_h, waiting_h: hours of its study.
        holding_up_h: hours for which a round was open for this site alone.
        missed: versions without an update of it.
        late: updates that went into a later version than the next.
        up_mb, down_mb: that it moves.
    """

    cases_percent: float
    model_percent: float = 0.0
    computing_h: float = 0.0
    transferring_h: float = 0.0
    waiting_h: float = 0.0
    holding_up_h: float = 0.0
    missed: int = 0
    late: int = 0
    up_mb: float = 0.0
    down_mb: float = 0.0


@dataclass(kw_only=True)
class Forecast:
    """Forecast for a study.

    Attributes:
        rules: their name.
        ends: when the last version is there; "" if that will never be.
        waiting_for: what it then waits for.
        hours: from the start to the last version that is made.
        rounds: versions that are made, but for the first.
        round_hours: of each round.
        slowest_h: hours that the slowest site would compute for as many rounds.
        sites: by name.
    """

    rules: str
    ends: str
    waiting_for: str
    hours: float
    rounds: int
    round_hours: Sequence[float]
    slowest_h: float
    sites: Mapping[str, SiteForecast] = field(default_factory=dict)

    @property
    def moved_mb(self) -> float:
        """Bytes that all sites move."""
        return sum(site.up_mb + site.down_mb for site in self.sites.values())

    @property
    def missed(self) -> int:
        """Rounds of sites that are without an update."""
        return sum(site.missed for site in self.sites.values())

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {**dataclasses.asdict(self), "moved_mb": self.moved_mb, "missed": self.missed}


def forecast(trace: Trace, rules: Rules) -> Forecast:
    """Run a study in virtual time.

    Raises:
        UserError: its options cannot be used.
    """
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own in it; there no file waits for a disk
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fedfs-", dir=place) as folder, _quiet():
        study = VirtualStudy(trace, rules.options, Path(folder))
        study.run()
        return summary(study, trace, rules.name)


def summary(study: VirtualStudy, trace: Trace, name: str) -> Forecast:
    """Return what happened in a study that has run."""
    state, start_s = study.state, trace.study.start
    is_done = state.finished is not None
    opened_s = [from_utc(state.rounds[v].created_at) for v in sorted(state.rounds)]
    total = sum(site.cases for site in trace.sites.values())
    sites = {
        site: _site(study.sites[site], 100 * trace.sites[site].cases / total)
        for site in trace.sites
    }
    _add_rounds(sites, state, opened_s)
    outcome = study.aggregator.outcome
    per_round_h = [(then - before) / HOUR_S for before, then in itertools.pairwise(opened_s)]
    return Forecast(
        rules=name,
        ends=utc(opened_s[-1]) if is_done else "",
        waiting_for="" if is_done or outcome is None else outcome.text,
        hours=(opened_s[-1] - start_s) / HOUR_S if opened_s else 0.0,
        rounds=len(per_round_h),
        round_hours=per_round_h,
        slowest_h=len(per_round_h) * max(map(_round_h, study.sites.values())),
        sites=sites,
    )


def _site(host: Host, cases_percent: float) -> SiteForecast:
    traffic = host.store.traffic
    return SiteForecast(
        cases_percent=cases_percent,
        computing_h=host.learner.busy_s / HOUR_S if host.learner else 0.0,
        transferring_h=traffic.seconds / HOUR_S,
        waiting_h=host.waited_s / HOUR_S,
        up_mb=traffic.up_bytes / MB,
        down_mb=traffic.down_bytes / MB,
    )


def _round_h(host: Host) -> float:
    return host.learner.round_s / HOUR_S if host.learner else 0.0


def _add_rounds(
    sites: Mapping[str, SiteForecast], state: StudyState, opened_s: Sequence[float]
) -> None:
    n_rounds = max(1, len(opened_s) - 1)
    for version in range(1, len(opened_s)):
        record = state.rounds[version]
        arrivals = {}
        for used in record.updates:
            site = sites[used.site]
            site.model_percent += 100 * used.weight / n_rounds
            if used.base_version < version - 1:
                site.late += 1
            elif used.arrived_s is not None:
                arrivals[opened_s[version - 1] + used.arrived_s] = site
        for left in record.left_out:
            sites[left.site].missed += 1
        *others, last_s = [opened_s[version - 1], *sorted(arrivals)]
        if others:
            arrivals[last_s].holding_up_h += (last_s - others[-1]) / HOUR_S
        for left in record.left_out:  # they were waited for, and did not come
            waited_h = (opened_s[version] - last_s) / HOUR_S
            sites[left.site].holding_up_h += waited_h / len(record.left_out)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what real processes log: a line that drops is no news here.

    Messages of all hosts stay until the end: to look through them for garbage only costs time.
    """
    log, collects = logging.getLogger("fedfs"), gc.isenabled()
    before = log.level
    log.setLevel(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        log.setLevel(before)
        if collects:
            gc.enable()
