"""Random studies that live through everything at once, to their end.

A :class:`Study` is drawn from a seed: its mode, policy, strategy, tracks, encodings and encryption,
and what its people do at which version (come late, pause, leave, replace keys). :func:`live` lets
it happen in memory, on request beside faults: processes killed between steps and within them,
stores that cannot be reached or show less than there is, strangers' objects, rubbish under keys
that are needed. Faults stop after a while, and the study has to come to its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfs.errors import FedfsError
from fedfs.exchange.read import open_tracks
from fedfs.protocol import layout
from fedfs.protocol.messages import Attendance, encode
from fedfs.protocol.participation import active_tracks
from fedfs.protocol.track_place import parse_on_store
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.keys import replace_aggregator_key
from fedfs.roles.coordinator.roster import approve_sites, set_state
from fedfs.roles.loop import Outcome
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.choice_audit import verify_choice
from fedfs.roles.reader.finding import PROBLEM
from fedfs.roles.site.join import ask_for_new_key
from fedfs.store.memory import MemoryStore
from fedfs.trust.recipients import Vault
from support import invariants
from support.dying_store import KilledError
from support.faulty_store import FaultyStore
from support.federation import Federation
from support.unlike_networks import NETWORKS, NORM, TARGETS

FIRST, LATE = ("east", "north", "south"), "west"
AGGREGATOR = "aggregator"
MAX_TURNS = 3000
_FAULTY_TURNS, _IDLE_TURNS = 120, 40
_TRACKS: tuple[dict[str, Any], ...] = (
    {"configuration": "2d"},
    {"configuration": "2d"},
    {"configuration": "2d,3d_fullres"},
    {"configuration": "2d", "fold": "0,1"},
    {"configuration": "3d_lowres,3d_cascade_fullres", "fold": "all"},
)
_GARBAGE = (
    b"",
    b"rubbish",
    b"\xff\xfe" * 100,
    b'{"payloadType":"x","payload":"' + b'\\"' * 2000,
    b'{"payload":"e30=","payloadType":"application/vnd.fedfs.join+json","signatures":[]}',
    b"[" * 5000,
)
_FOREIGN = (
    "sites/mallory/join-0001.json",
    "sites/mallory/fingerprint-0001.json",
    "tracks/2d-0/sites/mallory/updates/00000.json",
    "aggregator/notes.txt",
    "federation/charter-0099.json",
    "index.html",
)


@dataclass(frozen=True)
class Event:
    """One thing that people do once a version of the slowest track is there."""

    version: int
    kind: str
    site: str


@dataclass(frozen=True)
class Study:
    """A study to be lived through, as its seed draws it."""

    seed: int
    options: dict[str, Any]
    events: tuple[Event, ...]

    @property
    def is_determined(self) -> bool:
        """True if its weights do not depend on who is faster."""
        has_tracks = "," in f"{self.options['configuration']}{self.options.get('fold', '')}"
        depends = {"late", "leave", "pause"} if has_tracks else {"late", "leave"}
        happens = {event.kind for event in self.events}
        return self.options.get("policy", "all") == "all" and not depends & happens

    def __str__(self) -> str:
        happens = ", ".join(f"{e.kind} {e.site} at {e.version}" for e in self.events)
        return f"seed {self.seed}: {self.options}; {happens}"


def draw(seed: int) -> Study:
    """Return the study of a seed."""
    rng = random.Random(seed)
    rounds = rng.choice([2, 3, 4])
    options: dict[str, Any] = {
        "rounds": rounds,
        "min_sites": 3,
        "encryption": rng.choice(["", "", "age"]),
        "encoding": rng.choice(["fp32", "fp16", "int8"]),
        "model_encoding": rng.choice(["fp32", "int8"]),
        "keyframe_every": rng.choice([1, 2, 10]),
        **rng.choice(
            [
                {},
                {},
                {},
                {"policy": "quorum", "policy_options": {"sites": 2, "deadline_minutes": 600}},
                {"policy": "buffer", "policy_options": {"size": 2}},
            ]
        ),
    }
    if rng.random() < 0.3:
        options |= {"mode": "asym", "min_coverage": 0.1, "configuration": "2d"}
        options |= {"cross_evaluation": rng.random() < 0.5}
    else:
        options |= rng.choice(_TRACKS)
        options |= {"strategy": rng.choice(["FedAvg", "FedAvg", "FedAvgM", "FedAdam", "FedMedian"])}
    options |= _at_the_sites(random.Random(f"{seed} sites"), options)
    options = _with_ensemble(random.Random(f"{seed} ensemble"), options)
    return Study(seed, options, _events(rng, options["rounds"]))


def _at_the_sites(rng: random.Random, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sites keep local, and which averages they validate, if any."""
    rounds = options["rounds"]
    averages = {
        **rng.choice([{}, {}, {"average_last": rng.randint(2, rounds)}]),
        **rng.choice([{}, {}, {"ema": 0.8}]),
    }
    if rng.random() < 0.6:
        return averages
    can_average = options.get("strategy") in {"FedAvg", "FedMedian"}
    export = rng.choice(["", "mean"]) if can_average else ""
    return {**averages, "keep_local": "norm", "keep_local_export": export}


def _with_ensemble(rng: random.Random, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options, of some studies with one round and the ensemble of its models."""
    can_be = options.get("mode") != "asym" and "cascade" not in options["configuration"]
    if not can_be or "keep_local" in options or rng.random() > 0.2:
        return options
    others = {name: value for name, value in options.items() if name != "average_last"}
    return {**others, "ensemble": True, "rounds": 1}


def _events(rng: random.Random, rounds: int) -> tuple[Event, ...]:
    happens = []
    for kind in ("late", "pause", "leave", "rotate", "lose", "replace-aggregator"):
        if rng.random() < 0.3:
            site = LATE if kind == "late" else rng.choice(FIRST)
            happens.append(Event(rng.randint(0, rounds), kind, site))
    return tuple(sorted(happens, key=lambda event: event.version))


class Life:
    """A study as it happens; ``faults`` says whether anything goes wrong."""

    def __init__(self, study: Study, folder: Path, *, faults: bool) -> None:
        self.study, self.faults = study, faults
        self.rng = random.Random(f"{study.seed} {faults}")
        self.store = MemoryStore()
        networks = NETWORKS
        if "keep_local" in study.options:
            networks = {site: {**network, **NORM} for site, network in NETWORKS.items()}
        self.federation = Federation(
            folder, targets=TARGETS, networks=networks, store=self.store,
            publish_cases=("east",), **study.options,
        )  # fmt: skip
        self.store._clock = self.federation.clock
        self.federation.has_all_keys = True
        self.names = [AGGREGATOR, *FIRST]
        self.stores: dict[str, FaultyStore] = {}
        self.planted: set[str] = set()
        self.to_come = list(study.events)
        self.undo: list[tuple[int, Callable[[], object]]] = []
        self.last = ""
        self.federation.join(*FIRST)
        self.federation.approve(*FIRST)

    def run(self) -> Federation:
        """Live to the end.

        Raises:
            AssertionError: there is none.
        """
        finished: set[str] = set()
        idle = 0
        for turn in range(MAX_TURNS):
            is_calm = not self.faults or turn >= _FAULTY_TURNS
            if self.faults and turn == _FAULTY_TURNS:
                self._calm()
            if self._let_people_act():
                finished.clear()
            waiting = [name for name in self.names if name not in finished]
            if not waiting and not self.to_come and not self.undo:
                self._mend()
                return self.federation
            if not waiting or (is_calm and idle > _IDLE_TURNS):
                idle = 0
                self.to_come = [replace(event, version=-1) for event in self.to_come]
                self.undo = [(-1, undo) for _, undo in self.undo]
                continue
            self.federation.now_s += 1200.0
            name = self.rng.choice(waiting)
            if not is_calm:
                self._go_wrong(name)
            outcome = self._step(name)
            idle = idle + 1 if outcome is not None and not outcome.worked else 0
            if outcome is not None and outcome.finished:
                finished.add(name)
        where = {track: self._newest(track) for track in self.federation.tracks}
        raise AssertionError(
            f"{self.study}: not finished: {set(self.names) - finished}, versions {where}; "
            + "; ".join(f"{n}: {self._said(n)}" for n in self.names if n not in finished)
        )

    def _said(self, name: str) -> str:
        try:
            return self.federation.step(name).text
        except FedfsError as error:
            return repr(error)

    def _step(self, name: str) -> Outcome | None:
        try:
            process = self.federation.processes.get(name)
            if process is None:
                store = self.stores.setdefault(name, FaultyStore(self.store))
                process = self.federation.new_process(name, store)
                self.federation.processes[name] = process
            return process.step()  # type: ignore[no-any-return]
        except KilledError:
            self.federation.kill(name)
        except FedfsError:
            self.federation.kill(name)
            if not self.faults:
                raise
        return None

    def _newest(self, track: str) -> int:
        """Return the newest version of a track by the names of the objects alone."""
        keys = (parse_on_store(key) for key in self.store.objects if f"/{track}/" in key)
        return max((key.version or 0 for key in keys if key and key.kind == "model"), default=-1)

    def _let_people_act(self) -> bool:
        if not self.to_come and not self.undo:
            return False
        slowest = min(map(self._newest, self.federation.tracks))
        due = [event for event in self.to_come if event.version <= slowest]
        self.to_come = [event for event in self.to_come if event.version > slowest]
        undone = [undo for version, undo in self.undo if version <= slowest]
        self.undo = [(version, undo) for version, undo in self.undo if version > slowest]
        for undo in undone:
            undo()
        for event in due:
            self._do(event, slowest)
        return bool(due or undone)

    def _do(self, event: Event, now: int) -> None:
        federation, site = self.federation, event.site
        match event.kind:
            case "late":
                federation.join(site)
                approve_sites(self._office(), [site])
                self.names.append(site)
            case "pause":
                set_state(self._office(), [site], "paused")
                self.undo.append((now + 1, lambda: set_state(self._office(), [site], "active")))
            case "leave":
                federation.attendances[site] = Attendance.wanted(site, "left", "holidays")
                self.undo.append((now + 1, lambda: federation.attendances.pop(site, None)))
            case "rotate" | "lose":
                is_lost = event.kind == "lose"
                ask_for_new_key(
                    self.store, federation.keyring(site), site, is_lost=is_lost,
                    clock=federation.clock, policy=federation.policy(site),
                )  # fmt: skip
                approve_sites(self._office(), [site], replace_keys=is_lost)
                federation.kill(site)
            case "replace-aggregator":
                replace_aggregator_key(self._office())
                federation.kill(AGGREGATOR)

    def _office(self) -> Coordinator:
        home = self.federation.home("coordinator")
        return Coordinator(self.store, home, clock=self.federation.clock)

    def _go_wrong(self, name: str) -> None:
        rng, store = self.rng, self.stores.get(name)
        fault = rng.choice(("", "", "kill", "die", "cut", "behind", "foreign", "plant", "mend"))
        if fault == "kill":
            self.federation.kill(name)
        elif fault == "foreign":
            self._put(rng.choice(_FOREIGN))
        elif fault == "plant":
            version = rng.randint(0, 2)
            site = rng.choice(FIRST)
            track = rng.choice(self.federation.tracks)
            self._put(
                f"tracks/{track}/"
                + rng.choice((layout.round_record(version), layout.update(site, version)))
            )
        elif fault == "mend":
            self._mend()
        elif store is not None and fault == "die":
            store.dies = rng.choice(("before", "after"))
        elif store is not None and fault == "cut":
            store.unavailable = rng.randint(1, 4)
        elif store is not None and fault == "behind":
            store.behind = rng.choice((0, 1, 3))

    def _put(self, key: str) -> None:
        if key not in self.store.objects:
            self.store.create(key, self.rng.choice(_GARBAGE))
            self.planted.add(key)

    def _mend(self) -> None:
        """Remove rubbish where something of the study has to be; the strangers' stays."""
        for key in self.planted.difference(_FOREIGN):
            self.store.objects.pop(key, None)
        self.planted.intersection_update(_FOREIGN)

    def _calm(self) -> None:
        self._mend()
        for store in self.stores.values():
            store.dies, store.unavailable, store.behind = "", 0, 0
        self.federation.processes.clear()


def live(study: Study, folder: Path, *, faults: bool) -> Federation:
    """Let a study happen, check what holds in the end, and return it.

    Raises:
        AssertionError: it does not end, an invariant is broken, or the audit finds a problem.
    """
    federation = Life(study, folder, faults=faults).run()
    vault = Vault(federation.home("coordinator"))
    observers = open_tracks(federation.store, vault=vault)
    problems = []
    for name, observer in observers.items():
        found = list(verify_study(observer))
        problems += [f"{name}: {one}" for one in found if one.level == PROBLEM]
        if name in active_tracks({name: observer.state}):
            invariants.check(observer.state)
            assert observer.state.finished is not None, study
            if study.options.get("policy", "all") == "all":
                assert not observer.state.waiting, f"{study}: {name} {observer.state.waiting}"
    first = next(iter(observers.values()))
    if first.state.charter.chooses:
        found = list(verify_choice(first, observers))
        problems += [str(one) for one in found if one.level == PROBLEM]
    foreign = [text for text in problems if any(key in text for key in _FOREIGN)]
    assert problems == foreign, f"{study}: {sorted(set(problems) - set(foreign))}"
    for observer in observers.values():
        for message in observer.state.evaluations.values():
            assert not message.cases or message.site == "east"
            assert b"case-" not in encode(message), f"{study}: {message.key} names a case"
    return federation
