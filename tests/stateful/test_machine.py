"""Anything in any order: sites, two aggregators, people, broken stores, clocks and meddlers.

Hypothesis chooses who steps and what goes wrong. The invariants of ``docs/protocol.md``, section
14, hold after every step; and once nothing goes wrong any more, the study comes to its end.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedfs.errors import StoreError, StudyError
from fedfs.protocol import layout
from fedfs.protocol.messages import Attendance
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.roster import set_state
from fedfs.store.memory import MemoryStore
from support import invariants
from support.dying_store import KilledError
from support.faulty_store import FaultyStore
from support.federation import HELPER, Federation
from support.slow import SLOW

SITES = ("east", "north", "south")
LATE = "west"
ROUNDS = 3
AGGREGATORS = ("aggregator", "second")
POLICIES = [
    ("all", {}),
    ("quorum", {"sites": 2}),
    ("quorum", {"cases_percent": 60, "grace_minutes": 30, "deadline_minutes": 600}),
    ("quorum", {"sites": 3, "deadline_minutes": 60}),
    ("buffer", {"size": 2}),
    ("buffer", {"size": 4, "staleness_exponent": 1.0}),
]
PROCESSES = st.sampled_from([*SITES, LATE, HELPER, *AGGREGATORS])
SUMS = ("aggregator/sums/", "helper/sums/")


class RecordingStore(MemoryStore):
    """Remembers what was created under each key."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.created: dict[str, bytes] = {}

    def create(self, key, data):
        made = super().create(key, data)
        self.created.setdefault(key, data)
        return made


class AnyOrder(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory(prefix="fedfs-test-")
        self.meddled: dict[str, object] = {}
        self.stores: dict[str, FaultyStore] = {}
        self.has_late = False

    @initialize(
        policy=st.sampled_from(POLICIES),
        encoding=st.sampled_from(["fp32", "int8"]),
        deltas=st.booleans(),
        secure=st.sampled_from(["", "", "updates", "scores"]),
    )
    def begin(self, policy, encoding, deltas, secure):
        """With secure sums, the helper is a third party that may die and be cut off like others."""
        name, options = policy
        store = RecordingStore()
        self.federation = Federation(
            Path(self.scratch.name),
            targets={"east": 1.0, "north": 2.0, "south": -3.0, LATE: 4.0},
            store=store,
            rounds=ROUNDS,
            min_sites=len(SITES),
            policy=name,
            policy_options=options,
            encoding="" if secure else encoding,
            secure_sums=bool(secure),
            secure_scores=secure == "scores",
            encryption="age" if secure else "",
            model_encoding="int8" if deltas else "fp32",
            keyframe_every=2,
        )
        self.store = store
        self.federation.join(*SITES)
        self.federation.approve()
        if secure:
            self.federation.join_helper()
            self.federation.approve_helper()

    @rule(name=PROCESSES, times=st.integers(1, 6))
    def step(self, name, times):
        for _ in range(times):
            self._step(name)

    @rule(name=PROCESSES, dies=st.sampled_from(["before", "after"]), calls=st.integers(0, 4))
    def die(self, name, dies, calls):
        """The process dies at one of its next calls to the store."""
        process = self._process(name)
        if process is None:
            return
        store = self.stores[name]
        real, left = store._call, calls

        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                store.dies = dies
            return real(*args, **kwargs)

        store._call = call
        for _ in range(6):
            self._step(name)
        store._call = real

    @rule(name=PROCESSES)
    def restart(self, name):
        self.federation.kill(name)

    @rule(name=PROCESSES, calls=st.integers(1, 5))
    def cut_off(self, name, calls):
        if self._process(name) is not None:
            self.stores[name].unavailable = calls

    @rule(name=PROCESSES, behind=st.sampled_from([0, 1, 3]))
    def see_less(self, name, behind):
        if self._process(name) is not None:
            self.stores[name].behind = behind

    @rule(hours=st.sampled_from([-48.0, -1.0, 0.6, 2.0, 24.0]))
    def jump(self, hours):
        self.federation.now_s += 3600.0 * hours

    @rule(site=st.sampled_from(SITES), word=st.sampled_from(["paused", "left"]))
    def go_away(self, site, word):
        self.federation.attendances[site] = Attendance.wanted(site, word, "holidays")

    @rule(site=st.sampled_from(SITES))
    def come_back(self, site):
        self.federation.attendances.pop(site, None)

    @rule(site=st.sampled_from(SITES), state=st.sampled_from(["paused", "active"]))
    def amend(self, site, state):
        if not self.meddled:
            home = self.federation.home("coordinator")
            set_state(Coordinator(self.store, home, clock=self.federation.clock), [site], state)

    @precondition(lambda self: not self.has_late and not self.meddled)
    @rule()
    def join_late(self):
        self.has_late = True
        self.federation.join(LATE)
        self.federation.approve(LATE)

    @rule(data=st.data(), what=st.sampled_from(["cut", "swap", "flip", "remove"]))
    def meddle(self, data, what):
        """Somebody who can write to the store damages, swaps or removes an object."""
        keys = [key for key in self.store.objects if not key.startswith(layout.FEDERATION)]
        if what == "remove":  # whoever removes a decision can have the helper refuse another one
            keys = [key for key in keys if not any(place in key for place in SUMS)]
        if not keys:
            return
        key, other = (data.draw(st.sampled_from(sorted(keys))) for _ in range(2))
        found = self.store.objects[key]
        self.meddled.setdefault(key, found)
        if what == "remove":
            del self.store.objects[key]
            return
        damaged = {
            "cut": found.data[: len(found.data) // 2],
            "swap": self.store.objects[other].data,
            "flip": found.data[:-3] + bytes([found.data[-3] ^ 1]) + found.data[-2:],
        }[what]
        self.store.objects[key] = dataclasses.replace(found, data=damaged)

    @rule(version=st.integers(0, ROUNDS), what=st.sampled_from(["round", "model", "update"]))
    def plant(self, version, what):
        """Somebody puts rubbish where a message will be."""
        key = {
            "round": layout.round_record(version),
            "model": layout.model(version),
            "update": layout.update("north", version),
        }[what]
        key = self.federation.place.track.on_store(key)
        if key not in self.store.objects:
            self.store.objects[key] = dataclasses.replace(
                next(iter(self.store.objects.values())), data=b"rubbish"
            )
            self.meddled.setdefault(key, None)

    @rule()
    def deliver_again(self):
        """A courier brings the same objects a second time."""
        for key, found in list(self.store.objects.items()):
            if key not in self.meddled:
                assert self.store.create(key, found.data) is False

    @rule()
    def mend(self):
        for key, found in self.meddled.items():
            if found is None:
                self.store.objects.pop(key, None)
            else:
                self.store.objects[key] = found
        self.meddled.clear()

    @invariant()
    def protocol_holds(self):
        if not hasattr(self, "federation"):
            return
        objects = {key: found.data for key, found in self.store.objects.items()}
        invariants.write_once(self.store.created, objects, set(self.meddled))
        if not self.meddled:
            state = self.federation.observe().state
            on_store = self.federation.place.track.on_store
            assert not [key for key in state.rejected if on_store(key) in self.store.created]
            invariants.check(state)

    def teardown(self):
        if hasattr(self, "federation"):
            self._come_to_the_end()
        self.scratch.cleanup()

    def _come_to_the_end(self):
        self.mend()
        self.federation.attendances.clear()
        home = self.federation.home("coordinator")
        set_state(Coordinator(self.store, home, clock=self.federation.clock), SITES, "active")
        others = [name for name in self.federation.names if name not in self.federation.targets]
        names = [*SITES, *others, *([LATE] if self.has_late else [])]
        self.federation.processes.clear()
        finished: set[str] = set()
        for _ in range(150):
            self.federation.now_s += 3600.0
            for name in names:
                if name not in finished and self.federation.step(name).finished:
                    finished.add(name)
            if len(finished) == len(names):
                break
        assert finished == set(names), "the study did not come to its end"
        state = self.federation.observe().state
        invariants.check(state)
        invariants.finite(self.federation, state)

    def _process(self, name):
        is_secure = self.federation.charter.secure_sums is not None
        if (name == LATE and not self.has_late) or (name == HELPER and not is_secure):
            return None
        processes = self.federation.processes
        if name not in processes:
            store = self.stores[name] = FaultyStore(self.store)
            try:
                if name in AGGREGATORS:
                    made = self.federation.make_aggregator(store, work=f"work-{name}")
                elif name == HELPER:
                    made = self.federation.make_helper(store)
                else:
                    made = self.federation.make_site(name, store)
                processes[name] = made
            except (StoreError, StudyError):
                return None
        return processes[name]

    def _step(self, name):
        process = self._process(name)
        if process is None:
            return
        try:
            process.step()
        except KilledError:
            self.federation.kill(name)
        except (StoreError, StudyError):
            # What a person sees, and then starts the process again.
            self.federation.kill(name)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=100 if SLOW else 10,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
)
