"""A federation in memory: the real loops, messages and signatures around fake learning.

Tests change its state (kill a process, forge an object) and run the real code.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from fedfs.aggregation.best_configuration import JOINT, CrossValidated, candidates_of, steps_of
from fedfs.exchange.gate import OTHER_ROLES, Gate
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.exchange.read import open_study
from fedfs.exchange.secure_scores import sets_elsewhere
from fedfs.protocol import participation
from fedfs.protocol.messages import Attendance, DiceSum, track_names
from fedfs.protocol.track_place import TrackPlace
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.aggregator.best_configuration import AggregatorChoice
from fedfs.roles.aggregator.step import Aggregator
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.continuing import FinishedStudy
from fedfs.roles.coordinator.evaluation import NamedModel
from fedfs.roles.coordinator.helper import approve_helper
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites
from fedfs.roles.helper.join import join_as_helper
from fedfs.roles.helper.memory import AnsweredUpdates
from fedfs.roles.helper.step import Helper
from fedfs.roles.loop import Outcome
from fedfs.roles.site.best_configuration import SiteChoice
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.roles.site.join import join_study
from fedfs.roles.site.own_model import PersonalModel
from fedfs.roles.site.policy.file import PolicyInForce
from fedfs.roles.site.policy.gate import SiteGate
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.roles.site.step import Site
from fedfs.roles.step import AFTER_TRACKS
from fedfs.roles.tracks import at_once
from fedfs.simulation.virtual.fake_learner import (
    DATASET_JSON,
    INITIAL,
    N_VALIDATED,
    WITH_NORM,
    FakeLearner,
    FakePlanner,
    network_of,
    with_cases,
)
from fedfs.store.base import Store
from fedfs.store.memory import MemoryStore
from fedfs.store.prefix import TrackStore
from fedfs.tensors.canonical import TensorFile
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault
from support.track_objects import OneTrack

__all__ = [
    "DATASET_JSON", "HELPER", "INITIAL", "LENIENT", "N_VALIDATED", "WITH_NORM", "FakeLearner",
    "FakePlanner", "Federation", "forge", "network_of", "reach", "with_cases",
    "with_keys_of_charter",
]  # fmt: skip

LENIENT = SitePolicy(minimum_cases=1, models_elsewhere=True)
HELPER = "the helper"
"""Name of the helper's process and host: no site can have it."""


class Federation:
    """A study with its hosts; every ``step_*`` call is a fresh process unless it is kept alive."""

    def __init__(
        self,
        folder: Path,
        *,
        targets: Mapping[str, float] | None = None,
        networks: Mapping[str, Mapping[str, Any]] | None = None,
        store: Store | None = None,
        alone: tuple[str, ...] = (),
        personal: Mapping[str, FineTuning] | None = None,
        publishes_personal: tuple[str, ...] = (),
        publish_cases: tuple[str, ...] = (),
        finished: FinishedStudy | None = None,
        pretrained: Path | None = None,
        evaluates: Sequence[NamedModel] = (),
        policies: Mapping[str, SitePolicy] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        self.folder = folder
        self.now_s = 1_800_000_000.0
        self.store = store or MemoryStore(clock=self.clock)
        self.targets = dict(targets or {"east": 1.0, "north": 2.0, "south": -3.0})
        self.learners = {
            site: FakeLearner(target, 10 * (i + 1), (networks or {}).get(site))
            for i, (site, target) in enumerate(sorted(self.targets.items()))
        }
        self.alone = {site: FakeLearner(self.targets[site]) for site in alone}
        self.tunings = dict(personal or {})
        self.publishes_personal = publishes_personal
        self.averages: dict[tuple[str, str], FakeLearner] = {}
        self.personal = {site: FakeLearner(self.targets[site]) for site in self.tunings}
        self.publish_cases = publish_cases
        self.policies = dict(policies)
        self.planner: Any = FakePlanner()
        settings: dict[str, Any] = {
            "name": "test",
            "dataset_json": DATASET_JSON,
            "rounds": 3,
            "local_iterations": 5,
            "min_sites": len(self.targets),
        }
        settings = {**settings, **options}
        self.charter = init_study(
            self.store,
            self.home("coordinator"),
            StudyOptions(**(finished.options(settings) if finished else settings)),
            clock=self.clock,
            versions={},
            pretrained=finished.weights if finished else pretrained,
            continues=finished.continues if finished else None,
            evaluates=evaluates,
        )
        self.tracks = track_names(self.charter)
        self.place = OneTrack(self.store, TrackPlace.of(self.charter))
        self.processes: dict[str, Any] = {}
        self.attendances: dict[str, Attendance] = {}
        self.has_all_keys = False

    def clock(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def home(self, host: str) -> Path:
        return self.folder / host

    def keyring(self, host: str) -> Keyring:
        return Keyring(self.home(host), self.charter.study)

    def policy(self, site: str) -> PolicyInForce:
        """A site's policy; unless a test says otherwise, one that lets small sites take part."""
        return PolicyInForce(self.policies.get(site, LENIENT), self.home(site) / "site-policy.toml")

    def gate(self, role: str, observer: Observer | None = None) -> Gate:
        site = role.removeprefix("site-")
        if site == role:
            return OTHER_ROLES
        return SiteGate(self.policy(site), site, lambda: (observer or self.observe(site)).state)

    def publisher(
        self,
        role: str,
        host: str,
        store: Store | None = None,
        track: TrackPlace | None = None,
        observer: Observer | None = None,
    ) -> Publisher:
        keys = [self.keyring(host).load_or_create(role)]
        if self.has_all_keys:
            keys = self.keyring(host).load_all(role)
        return Publisher(
            store or self.place, keys, self.charter.study, clock=self.clock,
            track=track or self.place.track, gate=self.gate(role, observer),
            reload=lambda: self.keyring(host).load_all(role),
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """All processes of the study."""
        helper = (HELPER,) if self.charter.secure_sums is not None else ()
        return ("aggregator", *helper, *self.targets)

    def join(self, *sites: str) -> None:
        for site in sites or self.targets:
            observer = open_study(self.store, site=site)
            publisher = self.publisher(f"site-{site}", site, observer=observer)
            join_study(
                observer,
                publisher,
                site,
                self.learners[site],
                difference=[],
                encryption_key=self.keyring(site).identity(f"site-{site}").recipient,
            )

    def approve(self, *sites: str) -> None:
        coordinator = Coordinator(self.store, self.home("coordinator"), clock=self.clock)
        approve_sites(coordinator, sites or None)

    def make_site(self, site: str, store: Store | None = None, track: str | None = None) -> Site:
        place = store or self.store
        observer = open_study(
            place, site=site, skip=("status",), vault=Vault(self.home(site)), track=track
        )
        own = TrackStore(place, observer.track)
        publisher = self.publisher(f"site-{site}", site, own, observer.track, observer)
        folder = self._work(site, "work", track)
        folder.mkdir(parents=True, exist_ok=True)
        return Site(
            site,
            observer=observer,
            publisher=publisher,
            status=StatusReporter(publisher, site, interval_s=1e9, clock=self.clock),
            learner=self.learner_on(site, observer.track.name),
            folder=folder,
            alone=self.alone.get(site),
            personal=self._personal_model(site, folder),
            averages={v: self.average_of(site, v) for v in observer.state.charter.averages},
            publish_cases=site in self.publish_cases,
            policy=self.policy(site),
            attendance=lambda: self.attendances.get(site),
        )

    def average_of(self, site: str, variant: str) -> FakeLearner:
        """The learner that keeps an average of versions at a site."""
        return self.averages.setdefault((site, variant), FakeLearner(self.targets[site]))

    def _personal_model(self, site: str, folder: Path) -> PersonalModel | None:
        if site not in self.personal:
            return None
        return PersonalModel(
            self.personal[site],
            folder / "personal",
            self.tunings[site],
            publishes=site in self.publishes_personal,
        )

    def _work(self, host: str, work: str, track: str | None) -> Path:
        folder = self.home(host) / work
        return folder / track if track and len(self.tracks) > 1 else folder

    def learner_on(self, site: str, track: str) -> FakeLearner:
        """A learner for each track, which wants something else on each."""
        base, number = self.learners[site], self.tracks.index(track)
        if len(self.tracks) == 1:
            return base
        name = f"{site} {track}"
        if name not in self.learners:
            self.learners[name] = FakeLearner(self.targets[site] * (number + 1), base.n_cases)
        return self.learners[name]

    def make_aggregator(
        self, store: Store | None = None, work: str = "work", track: str | None = None
    ) -> Aggregator:
        place = store or self.store
        observer = open_study(
            place,
            skip=("status", "aggregator-status"),
            vault=Vault(self.home("coordinator")),
            track=track,
        )
        own = TrackStore(place, observer.track)
        publisher = self.publisher("aggregator", "coordinator", own, observer.track)
        return Aggregator(
            observer=observer,
            publisher=publisher,
            status=StatusReporter(publisher, "", interval_s=1e9, clock=self.clock),
            planner=self.planner,
            folder=self._work("coordinator", work, track),
            clock=self.clock,
        )

    def join_helper(self, host: str = HELPER) -> None:
        join_as_helper(self.store, self.home(host), clock=self.clock)

    def approve_helper(self, *, another: bool = False) -> None:
        coordinator = Coordinator(self.store, self.home("coordinator"), clock=self.clock)
        approve_helper(coordinator, another=another)

    def make_helper(
        self, store: Store | None = None, track: str | None = None, host: str = HELPER
    ) -> Helper:
        place, keyring = store or self.store, self.keyring(host)
        observer = open_study(
            place,
            site=HELPER_SITE,
            skip=("status", "aggregator-status"),
            vault=Vault(self.home(host)),
            track=track,
        )
        own = TrackStore(place, observer.track)
        publisher = self.publisher("helper", host, own, observer.track)
        return Helper(
            observer=observer,
            publisher=publisher,
            status=StatusReporter(publisher, HELPER_SITE, interval_s=1e9, clock=self.clock),
            memory=AnsweredUpdates(keyring.memory, observer.track.name),
            identities=lambda: keyring.identities("helper"),
            folder=self._work(host, "work", track),
        )

    def process(self, name: str) -> Any:
        """A process that is kept alive between steps; ``kill`` forgets it."""
        if name not in self.processes:
            self.processes[name] = self.new_process(name)
        return self.processes[name]

    def new_process(self, name: str, store: Store | None = None) -> Any:
        """A site, or the aggregator, on all tracks of the study."""
        is_site = name not in ("aggregator", HELPER)
        other: Any = self.make_helper if name == HELPER else self.make_aggregator
        make = partial(self.make_site, name) if is_site else other
        workers: dict[str, Any] = {track: make(store, track=track) for track in self.tracks}
        tracks = {track: worker._observer for track, worker in workers.items()}
        for track in self.charter.tracks if name == "aggregator" else ():
            workers[track.name]._before = [tracks[other] for other in track.after]
        for track_name in self.tracks if not is_site else ():
            workers[track_name]._elsewhere = partial(
                sets_elsewhere, tracks, track_name, worked_on=tracks
            )

        def is_done(track: str) -> bool:
            state = tracks[track].state
            is_made = bool(state.finished) or participation.lacks_configuration(state)
            return is_made and (not is_site or participation.is_over(state, [name]))

        if self.charter.cross_validates if is_site else self.charter.chooses and name != HELPER:
            workers[AFTER_TRACKS] = self.make_choice(name, tracks, store or self.store)
        step = at_once(self.charter, workers, is_done)
        if len(self.tracks) == 1:
            return workers[self.tracks[0]]
        return SimpleNamespace(step=step, workers=workers)

    def make_choice(self, name: str, tracks: Mapping[str, Observer], place: Store) -> Any:
        host, role = (name, f"site-{name}") if name != "aggregator" else ("coordinator", name)
        observer = open_study(
            place, site=None if host == "coordinator" else name, vault=Vault(self.home(host))
        )
        own = TrackStore(place, observer.track)
        publisher = self.publisher(role, host, own, observer.track, observer)
        site = "" if host == "coordinator" else name
        status = StatusReporter(publisher, site, interval_s=1e9, clock=self.clock)
        parts: dict[str, Any] = {
            "observer": observer,
            "tracks": tracks,
            "publisher": publisher,
            "status": status,
        }
        if not site:
            return AggregatorChoice(**parts)
        return SiteChoice(name, validate=partial(self.cross_validate, name), **parts)

    def cross_validate(self, site: str, on_progress: Any) -> CrossValidated:
        """Scores that follow from the site and from what is scored."""
        rng = np.random.default_rng(sorted(self.targets).index(site))
        n_cases = self.learners[site].n_cases
        scores = {
            JOINT.join(candidate): {
                JOINT.join(steps): {"1": DiceSum(float(rng.random()) * n_cases, n_cases)}
                for steps in steps_of(["1"], overlap=False)
            }
            for candidate in candidates_of(
                participation.planned_configurations(self.observe(track=self.tracks[0]).state)
            )
        }
        return CrossValidated(scores, n_cases)

    def kill(self, name: str) -> None:
        self.processes.pop(name, None)

    def step(self, name: str) -> Outcome:
        outcome: Outcome = self.process(name).step()
        return outcome

    def run(self, *, seed: int = 0, max_steps: int = 2000) -> None:
        """Step everybody in random order until all are finished."""
        names, rng = [*self.names], random.Random(seed)
        finished: set[str] = set()
        for _ in range(max_steps):
            name = rng.choice([n for n in names if n not in finished])
            if self.step(name).finished:
                finished.add(name)
            if len(finished) == len(names):
                return
        raise AssertionError(f"not finished after {max_steps} steps: {set(names) - finished}")

    def run_in_turns(self, *names: str, max_steps: int = 500) -> None:
        """Step these in turn until all are finished."""
        finished: set[str] = set()
        for name in itertools.islice(itertools.cycle(names), max_steps):
            if name not in finished and self.step(name).finished:
                finished.add(name)
        assert finished == set(names)

    def run_process(self, name: str) -> Outcome:
        """Step a site or the aggregator until it has to wait."""
        while (outcome := self.step(name)).worked:
            pass
        return outcome

    def start(self) -> Federation:
        self.join()
        self.approve()
        if self.charter.secure_sums is not None:
            self.join_helper()
            self.approve_helper()
        return self

    def start_with_late(self, late: str) -> None:
        """Let a site join and be approved once the others have been planned for."""
        first = [site for site in self.targets if site != late]
        self.join(*first)
        self.approve()
        for name in (*first, "aggregator"):
            self.run_process(name)
        self.join(late)
        self.approve(late)

    def observe(self, host: str = "coordinator", track: str | None = None) -> Observer:
        return open_study(self.store, vault=Vault(self.home(host)), track=track)

    def weights(self, version: int, track: str | None = None) -> dict[str, np.ndarray]:
        """Weights of a version, as a host that has nothing gets them."""
        with tempfile.TemporaryDirectory() as folder:
            seen = self.observe(track=track)
            files = WeightFiles(seen.store, Path(folder), seen.vault)
            path = files.fetch(seen.state.models, version)
            with TensorFile(path) as file:
                return dict(file)


def reach(federation: Federation, version: int) -> None:
    """Go on until a version is there and nobody has answered it yet."""
    while federation.observe().state.newest < version:
        for name in (*federation.targets, *federation.names[: -len(federation.targets)]):
            federation.step(name)


def with_keys_of_charter(federation: Federation) -> None:
    """Let processes start again, with all keys that their hosts hold."""
    for name in list(federation.processes):
        federation.kill(name)
    federation.has_all_keys = True


def forge(store: MemoryStore | OneTrack, key: str, data: bytes) -> None:
    """Put bytes under a key behind the store's back."""
    before = store.objects.get(key)
    template = before or next(iter(store.objects.values()))
    store.objects[key] = dataclasses.replace(template, data=data)
