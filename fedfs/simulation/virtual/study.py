"""A study in virtual time: its hosts, and the thread that steps through them.

Rules:
 * Each host has a clock of its own. The host whose clock is furthest behind steps next, so that
   whoever looks at the store sees all that was there by then, and nothing that came later.
 * A host that waits sleeps until something shows that it looks for, until the time that its
   decision waits for, or until its line is back; it then looks as late as a real one at most does.
 * The same trace and options give the same study, to the bit and to the second, but for its keys.
"""

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from fedfs.errors import UserError
from fedfs.exchange.gate import OTHER_ROLES, Gate
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import open_study
from fedfs.learner import Learner, OnProgress, RoundTask, Tensors, TrainResult
from fedfs.protocol import layout
from fedfs.protocol.messages import Charter
from fedfs.protocol.state import StudyState
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.aggregator.step import Aggregator
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites
from fedfs.roles.loop import Outcome, turns
from fedfs.roles.polling import WaitSettings
from fedfs.roles.site.join import join_study
from fedfs.roles.site.policy.file import PolicyInForce
from fedfs.roles.site.policy.gate import SiteGate
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.roles.site.step import Site
from fedfs.simulation.virtual.calendar import Courier, Hours, Line
from fedfs.simulation.virtual.fake_learner import DATASET_JSON, FakeLearner, FakePlanner
from fedfs.simulation.virtual.learner import PacedLearner
from fedfs.simulation.virtual.shared_view import shared_view
from fedfs.simulation.virtual.store import Clock, HostStore, SharedStore
from fedfs.simulation.virtual.trace import Trace
from fedfs.store.base import Store
from fedfs.store.prefix import TrackStore
from fedfs.store.retry import Patience, RetryingStore
from fedfs.trust.keyring import Keyring

N_PARAMETERS = 4096
"""Size of the network that stands for a large one."""

_LOOK_S = WaitSettings().max_interval_s
_MOST_S = 20 * 365 * 86_400.0
AGGREGATOR = "aggregator"
_POLICY = PolicyInForce(SitePolicy(minimum_cases=1, models_elsewhere=True))
"""Policy of every site: what leaves it is not what is forecast."""
_AWAITED = {"update", "fingerprint", "site-plan", "attendance"}
"""Kinds of messages that the aggregator waits for."""


class _SilentStatus(StatusReporter):
    """Publishes no status: nobody decides by it, and there are many."""

    def _publish(self, *_: object, **__: object) -> None:
        pass


class RestlessLearner(FakeLearner):
    """Never arrives: each round has another target, so that no version is equal to the last."""

    def train(self, task: RoundTask, tensors: Tensors, on_progress: OnProgress) -> TrainResult:
        """See :class:`~fedfs.learner.Learner`."""
        self.seen.clear()
        self.target = np.float32(self.n_cases + task.version)
        return super().train(task, tensors, on_progress)


@dataclass
class Host:
    """A host at work.

    Attributes:
        clock: its own.
        store: as it sees it.
        loop: yields the outcomes of its steps.
        learner: of a site; None of the aggregator.
        coming: when objects show that this host looks for, of those that it has not seen yet.
        outcome: of its last step.
        waited_s: seconds that it has slept.
    """

    name: str
    clock: Clock
    store: HostStore
    loop: Generator[Outcome, None, Outcome]
    learner: PacedLearner | None = None
    coming: list[float] = field(default_factory=list)
    outcome: Outcome | None = None
    waited_s: float = 0.0
    is_asleep: bool = False

    def step(self) -> bool:
        """Take the next step; return False if it was the last."""
        now_s = self.clock.now_s
        self.coming = [then_s for then_s in self.coming if then_s > now_s]
        try:
            self.outcome = next(self.loop)
        except StopIteration as end:
            self.outcome = end.value
            return False
        self.is_asleep = not self.outcome.worked
        return True

    def wakes_at(self) -> float:
        """Return when it looks again: in the next look behind what it waits for."""
        if not self.is_asleep:
            return self.clock.now_s
        back_s = self.store.back_at()
        if back_s > self.clock.now_s:
            return back_s
        until_s = self.outcome.until_s if self.outcome else float("inf")
        return min([until_s, *(then_s + _LOOK_S for then_s in self.coming)])

    def wake(self, then_s: float) -> None:
        """Let the time pass that it sleeps."""
        if self.is_asleep:
            self.waited_s += then_s - self.clock.now_s
            self.clock.reach(then_s)
            self.is_asleep = False


class VirtualStudy:
    """A study of which the trace gives the hosts.

    Args:
        trace: the consortium.
        options: of ``fedfs init``, other than those of the trace.
        folder: for files of the hosts, which are small.
    """

    def __init__(self, trace: Trace, options: Mapping[str, Any], folder: Path) -> None:
        self._trace, self._folder = trace, folder
        self._shared = SharedStore()
        self._view = shared_view()
        self._scale = trace.study.parameters / N_PARAMETERS
        self.charter = self._begin(options)
        self.sites = {name: self._make_site(name) for name in trace.sites}
        self.aggregator = self._make_aggregator()
        self._hosts = [self.aggregator, *self.sites.values()]
        self._shared.on_create = self._announce

    @property
    def store(self) -> SharedStore:
        """All objects of the study."""
        return self._shared

    @property
    def state(self) -> StudyState:
        """Messages that the aggregator has accepted."""
        return self._observer.state

    def run(self, on_version: Callable[[int], None] = lambda _version: None) -> None:
        """Step through the hosts until the study is closed, or nothing will ever happen again."""
        newest = -1
        while True:
            host = min(self._hosts, key=Host.wakes_at)
            then_s = host.wakes_at()
            if then_s > self._trace.study.start + _MOST_S:
                return
            host.wake(then_s)
            goes_on = host.step()
            if self.state.newest > newest:
                newest = self.state.newest
                on_version(newest)
            if not goes_on:
                if host is self.aggregator:
                    for other in self._hosts:  # they have waited until the end
                        other.wake(max(other.clock.now_s, host.clock.now_s))
                    return
                self._hosts.remove(host)

    def _begin(self, options: Mapping[str, Any]) -> Charter:
        study, clock = self._trace.study, Clock(self._trace.study.start)
        store = HostStore(self._shared, clock)
        chosen = StudyOptions(
            **{
                "name": "virtual",
                "dataset_json": DATASET_JSON,
                "rounds": study.rounds,
                "local_iterations": study.local_iterations,
                "val_iterations": study.val_iterations,
                "min_sites": len(self._trace.sites),
                **options,
            }
        )
        if "," in chosen.configuration + chosen.fold:
            raise UserError("A study in virtual time has one configuration and one fold.")
        home = self._folder / "coordinator"
        charter = init_study(store, home, chosen, clock=clock, versions={})
        for name, site in self._trace.sites.items():
            keyring = Keyring(self._folder / name, charter.study)
            observer = open_study(store, site=name)
            publisher = Publisher(
                store,
                keyring.load_or_create(f"site-{name}"),
                charter.study,
                clock=clock,
                track=observer.track,
                gate=_gate(name, observer),
            )
            join_study(observer, publisher, name, FakeLearner(0.0, site.cases), difference=[])
        approve_sites(Coordinator(store, home, clock=clock), None)
        return charter

    def _make_site(self, name: str) -> Host:
        site, start_s = self._trace.sites[name], self._trace.study.start
        clock = Clock(start_s)
        store = HostStore(self._shared, clock, scale=self._scale)
        patient = _patient(store, name, clock)
        observer = open_study(patient, site=name, skip=("status",), view=self._view)
        courier = Courier(site) if site.courier_days else None
        line = None if courier else Line(name, site, start_s)
        store.connect(site, line=line, courier=courier)
        learner = PacedLearner(RestlessLearner(0.0, site.cases), site, Hours(site, start_s), clock)
        publisher = self._publisher(
            patient, observer, name, f"site-{name}", clock, _gate(name, observer)
        )
        folder = self._folder / name / "work"
        folder.mkdir(parents=True)
        role = Site(
            name,
            observer=observer,
            publisher=publisher,
            status=_SilentStatus(publisher, name, interval_s=0.0, clock=clock),
            learner=cast("Learner", learner),  # passes on what it does not pace
            folder=folder,
            policy=_POLICY,
        )
        return Host(name, clock, store, turns(role.step), learner)

    def _make_aggregator(self) -> Host:
        clock = Clock(self._trace.study.start)
        store = HostStore(self._shared, clock, scale=self._scale)
        patient = _patient(store, AGGREGATOR, clock)
        self._observer = open_study(
            patient,
            skip=(*layout.STATUS_KINDS, "join", "evaluation", "failure"),
            view=self._view,
        )
        store.connect(self._trace.aggregator)
        publisher = self._publisher(
            patient, self._observer, "coordinator", AGGREGATOR, clock, OTHER_ROLES
        )
        rng = np.random.default_rng(0)
        initial = {"network.weight": rng.normal(size=N_PARAMETERS).astype(np.float32)}
        role = Aggregator(
            observer=self._observer,
            publisher=publisher,
            status=_SilentStatus(publisher, "", interval_s=0.0, clock=clock),
            planner=FakePlanner(initial),
            folder=self._folder / "coordinator" / "work",
            clock=clock,
            timer=clock,
        )
        return Host(AGGREGATOR, clock, store, turns(role.step))

    def _publisher(
        self, store: Store, observer: Observer, host: str, role: str, clock: Clock, gate: Gate
    ) -> Publisher:
        return Publisher(
            TrackStore(store, observer.track),
            Keyring(self._folder / host, self.charter.study).load(role),
            self.charter.study,
            clock=clock,
            track=observer.track,
            gate=gate,
        )

    def _announce(self, key_text: str, visible_s: float) -> None:
        """Let hosts look when an object shows that they may wait for."""
        key = parse_on_store(key_text)
        if key is None or key.is_payload:
            return
        if key.site is not None:
            hosts = [self.aggregator] if key.kind in _AWAITED else []
        else:
            hosts = list(self.sites.values())
        for host in hosts:
            host.coming.append(host.store.shows_at(visible_s))


def _gate(site: str, observer: Observer) -> SiteGate:
    return SiteGate(_POLICY, site, lambda: observer.state)


def _patient(store: HostStore, name: str, clock: Clock) -> RetryingStore:
    rng = random.Random(name)  # noqa: S311  jitter
    return RetryingStore(store, Patience(pause=clock.advance, rng=rng))
