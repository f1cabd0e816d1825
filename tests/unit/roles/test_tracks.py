"""Several configurations and folds in one study: the real loops around fake learning."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fedfs.errors import TrainingError, UserError
from fedfs.exchange.read import open_study
from fedfs.protocol import layout
from fedfs.protocol.messages import Attendance
from fedfs.protocol.track_place import TrackPlace
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.loop import Outcome
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.choice_audit import verify_choice
from fedfs.roles.reader.finding import OK, PROBLEM
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.overview import overview
from fedfs.roles.reader.status import summarize
from fedfs.roles.tracks import Tracks
from fedfs.store.memory import MemoryStore
from fedfs.store.prefix import TrackStore
from support.federation import DATASET_JSON, Federation, forge

FOUR = {"configuration": "2d,3d_fullres", "fold": "0,1"}
TRACKS = ["2d-0", "2d-1", "3d_fullres-0", "3d_fullres-1"]


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path, **FOUR).start()


def is_over(federation, track):
    return f"tracks/{track}/{layout.FINISHED}" in federation.store.objects


def step_all(federation, times):
    for _ in range(times):
        for host in ("aggregator", *federation.targets):
            federation.step(host)


def test_all_tracks_are_made_from_one_roster_fingerprint_and_plan(federation):
    federation.run()
    states = {track: federation.observe(track=track).state for track in TRACKS}
    assert {state.finished.version for state in states.values()} == {3}
    assert len({id(state.plan) for state in states.values()}) == 4  # each read it
    assert len({state.digests[layout.plan()] for state in states.values()}) == 1
    keys = set(federation.store.objects)
    assert not any(key.startswith(("aggregator/models", "tracks/2d-0/federation")) for key in keys)
    assert sum("fingerprint" in key for key in keys) == 3
    calls = [call for learner in federation.learners.values() for call in learner.calls]
    assert sum(name == "fingerprint" for name, _ in calls) == 3


def test_each_track_has_its_own_model_configuration_and_fold(federation):
    federation.run()
    weights = [federation.weights(3, track)["a.weight"] for track in TRACKS]
    assert all(not np.array_equal(weights[0], other) for other in weights[1:])
    charter = federation.observe(track="3d_fullres-1").state.charter
    assert (charter.configuration, charter.fold) == ("3d_fullres", "1")
    assert charter.seed == federation.charter.schedule.seed + 1
    assert charter.whole() == federation.observe(track="2d-0").state.charter.whole()


def test_a_track_gives_what_a_study_of_its_own_would(federation, tmp_path):
    federation.run()
    alone = Federation(tmp_path / "alone", configuration="2d", fold="0").start()
    alone.run()
    for name, value in alone.weights(3).items():
        assert np.array_equal(value, federation.weights(3, "2d-0")[name])


def test_tracks_advance_independently_and_survive_restarts(tmp_path):
    rng = np.random.default_rng(1)
    federation = Federation(tmp_path, **FOUR).start()
    hosts = ["aggregator", *federation.targets]
    for _ in range(2000):
        host = str(rng.choice(hosts))
        if rng.random() < 0.2:
            federation.kill(host)
        federation.step(host)
        if all(is_over(federation, track) for track in TRACKS):
            break
    else:
        pytest.fail("not finished")
    undisturbed = Federation(tmp_path / "undisturbed", **FOUR).start()
    undisturbed.run()
    for track in TRACKS:
        for name, value in undisturbed.weights(3, track).items():
            assert np.array_equal(value, federation.weights(3, track)[name])


def test_a_site_keeps_one_network_in_memory(federation):
    open_now = set()

    def note(learner, train):
        def trains(*args):
            open_now.add(id(learner))
            assert len(open_now) == 1
            return train(*args)

        def close():
            open_now.discard(id(learner))

        learner.train, learner.close = trains, close

    federation.step("north")
    for track in TRACKS:
        learner = federation.learner_on("north", track)
        note(learner, learner.train)
    federation.run()


def test_a_site_that_leaves_is_finished_on_all_tracks(federation):
    step_all(federation, 12)
    federation.attendances["north"] = Attendance.wanted("north", "left", "no time")
    for _ in range(20):
        outcome = federation.step("north")
        if not outcome.worked:
            break
    assert outcome.finished
    assert "this site has left the study" in outcome.text


def test_one_track_that_fails_does_not_hold_up_the_others(federation):
    broken = federation.learner_on("north", "2d-1")
    original = broken.train

    def fails(*_):
        raise TrainingError("out of memory", kind="out-of-memory")

    broken.train = fails
    with pytest.raises(TrainingError):
        step_all(federation, 500)
    others = [track for track in TRACKS if track != "2d-1"]
    assert all(federation.observe(track=track).state.newest >= 1 for track in others)
    assert federation.observe(track="2d-1").state.newest == 0
    broken.train = original
    federation.kill("north")
    federation.run()
    assert is_over(federation, "2d-1")


def test_the_cascade_begins_when_a_site_has_the_first_stage(tmp_path):
    federation = Federation(
        tmp_path, configuration="3d_lowres,3d_cascade_fullres", fold="all"
    ).start()
    for _ in range(400):
        step_all(federation, 1)
        first = federation.observe(track="3d_lowres-all").state
        second = federation.observe(track="3d_cascade_fullres-all").state
        assert second.newest < 0 or first.finished
        begun = {site for site, _, _ in second.evaluations}
        assert all(first.is_validated(site, 3) for site in begun)
        if second.finished:
            break
    assert second.finished.version == 3
    site = federation.process("north")
    outcome = site.step()
    assert outcome.finished
    assert outcome.text.startswith("3d_lowres-all, 3d_cascade_fullres-all: finished")


def test_a_site_that_comes_after_the_first_stage_holds_up_nobody_at_the_second(tmp_path):
    federation = Federation(
        tmp_path, configuration="3d_lowres,3d_cascade_fullres", fold="all", rounds=1, min_sites=2
    )
    federation.join("east", "south")
    federation.approve()
    for _ in range(200):
        for name in ("east", "south", "aggregator"):
            federation.step(name)
        if federation.observe(track="3d_lowres-all").state.finished:
            break
    federation.join("north")
    federation.approve("north")
    federation.run()
    second = federation.observe(track="3d_cascade_fullres-all").state
    assert second.finished
    assert not second.admissions
    outcome = federation.step("north")
    assert outcome.finished
    assert "nothing to do: this site came after the last version" in outcome.text


ALL = {"configuration": "2d,3d_fullres,3d_lowres,3d_cascade_fullres", "fold": "0,1,2,3,4"}


@pytest.mark.parametrize("encryption", ["", "age"])
def test_what_nnunet_does_not_plan_for_these_data_is_left_out(tmp_path, encryption):
    """As nnU-Net does: large images have a 3d_lowres and a cascade, others do not."""
    federation = Federation(tmp_path, **ALL, rounds=1, encryption=encryption)
    federation.planner.configurations = ("2d", "3d_fullres")
    federation.start().run()
    outcome = federation.step("north")
    assert outcome.finished
    assert "3d_lowres-4: nothing to do: nnU-Net plans no 3d_lowres for these data" in outcome.text
    observers = {name: federation.observe(track=name) for name in federation.tracks}
    phases = {name: summarize(one.state).phase for name, one in observers.items()}
    of_each = {name: phases[f"{name}-0"] for name in ALL["configuration"].split(",")}
    assert of_each == {
        "2d": "finished",
        "3d_fullres": "finished",
        "3d_lowres": "not planned",
        "3d_cascade_fullres": "not planned",
    }
    assert not any("/3d_lowres-0/aggregator/models" in key for key in federation.store.objects)
    choice = observers["2d-0"].state.choice
    assert choice.dice.keys() == {"2d", "3d_fullres", "2d+3d_fullres"}
    shared = federation.observe()
    assert [finding.level for finding in verify_choice(shared, observers)] == [OK]
    for one in observers.values():
        assert not [f for f in verify_study(one) if f.level == PROBLEM]
    # Also for those who cannot read the plan.
    stranger = {name: federation.observe("stranger", name) for name in federation.tracks}
    assert {name: summarize(one.state).phase for name, one in stranger.items()} == phases
    assert [f.level for f in verify_choice(federation.observe("stranger"), stranger)] == [OK]
    view = overview({n: collect(one.state, {}) for n, one in observers.items()}, shared.state)
    assert view.facts["Tracks"] == "20, of which 10 finished"


def test_what_waits_for_the_first_stage_says_so(tmp_path):
    federation = Federation(tmp_path, configuration="3d_lowres,3d_cascade_fullres", fold="all")
    federation.start()
    outcome = federation.run_process("north")
    assert "3d_cascade_fullres-all: waiting for track 3d_lowres-all" in outcome.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"configuration": "2d,2d"}, "named twice"),
        ({"configuration": "2d", "fold": "0,5"}, "neither 'all' nor 0 to 4"),
        ({"configuration": "2d,3d"}, "cannot be federated"),
        ({"configuration": "3d_cascade_fullres", "fold": "all"}, "not in the study"),
        ({"configuration": "3d_lowres,3d_cascade_fullres", "fold": "0"}, "segmentations of all"),
    ],
)
def test_studies_that_cannot_be_are_refused(options, text):
    with pytest.raises(UserError, match=text):
        StudyOptions(name="test", dataset_json=DATASET_JSON, **options)


def test_a_message_of_one_track_is_worthless_on_another(federation):
    federation.run()
    store, key = federation.store, layout.update("north", 1)
    data = store.objects[f"tracks/2d-1/{key}"].data
    forge(store, f"tracks/2d-0/{key}", data)
    seen = federation.observe(track="2d-0").state
    assert "belongs to another study" in seen.rejected[key]


def test_a_charter_that_changes_the_tracks_is_refused(federation):
    coordinator = Coordinator(
        federation.store, federation.home("coordinator"), clock=federation.clock
    )
    amended = coordinator.amend(tracks=federation.charter.tracks[:2])
    seen = open_study(federation.store).state
    assert "changes the tracks" in seen.rejected[amended.key]
    assert amended.number not in seen.charters


def test_a_removed_site_and_a_new_key_count_from_each_tracks_own_version(federation):
    for _ in range(60):
        step_all(federation, 1)
        newest = {track: federation.observe(track=track).state.newest for track in TRACKS}
        if newest["2d-0"] > max(newest["3d_fullres-1"], 0):
            break
    coordinator = Coordinator(
        federation.store, federation.home("coordinator"), clock=federation.clock
    )
    charter = set_state(coordinator, ["north"], "removed")
    said = charter.entry("north").from_versions
    assert said == {track: max(version, 0) for track, version in newest.items()}
    assert said["2d-0"] > said["3d_fullres-1"]
    for track in TRACKS:
        on_track = federation.observe(track=track).state.charter
        assert on_track.from_version(on_track.entry("north")) == said[track]


def test_a_tracks_store_shows_its_own_and_what_is_shared(tmp_path):
    store = MemoryStore()
    own = TrackStore(store, TrackPlace("2d-0"))
    own.create(layout.model(3), b"own")
    own.create(layout.fingerprint("north"), b"shared")
    TrackStore(store, TrackPlace("2d-1")).create(layout.model(4), b"other")
    assert sorted(store.objects) == [
        layout.fingerprint("north"),
        f"tracks/2d-0/{layout.model(3)}",
        f"tracks/2d-1/{layout.model(4)}",
    ]
    assert [entry.key for entry in own.list("")] == [layout.model(3), layout.fingerprint("north")]
    assert [entry.key for entry in own.list("sites/north/")] == [layout.fingerprint("north")]
    assert [entry.key for entry in own.list(*["aggregator/models/"])] == [layout.model(3)]
    assert not list(own.list(layout.models()[0], after=layout.model(3)))
    assert own.get(layout.model(3), max_bytes=9) == b"own"
    assert own.get(layout.fingerprint("north"), max_bytes=9) == b"shared"


def test_sites_with_networks_of_their_own_plan_for_each_track(tmp_path):
    small, large = {"a": [2, 3], "b": [4]}, {"a": [2, 3], "b": [5]}
    federation = Federation(
        tmp_path,
        mode="asym",
        alignment="name",
        min_coverage=0.0,
        configuration="2d",
        fold="0,1",
        networks={"east": small, "north": small, "south": large},
    ).start()
    for track in ("2d-0", "2d-1"):
        for site in ("east", "north", "south"):
            federation.learner_on(site, track).network = federation.learners[site].network
    federation.run()
    for track in ("2d-0", "2d-1"):
        state = federation.observe(track=track).state
        assert state.finished.version == 3
        assert sorted(state.site_plans) == ["east", "north", "south"]
    plans = [key for key in federation.store.objects if key.endswith("plan-0001.json")]
    assert len(plans) == 2 * (3 + 1)
    assert all(key.startswith("tracks/") for key in plans)
    assert federation.observe().state.choice is None


def test_what_comes_after_a_track_is_not_passed_over_where_the_track_ends_in_the_same_step():
    """The worker that comes after is asked first, and only the other one sees that it may begin."""
    done: set[str] = set()

    def worker(version: int, outcome: Outcome) -> SimpleNamespace:
        def step() -> Outcome:
            done.add("first")
            return outcome

        return SimpleNamespace(version=version, step=step, rest=lambda: None)

    finished = Outcome(worked=False, finished=True, text="finished")
    worked = Outcome(worked=True, finished=False, text="has chosen")
    workers = {"after": worker(0, worked), "first": worker(1, finished)}
    tracks = Tracks(workers, {"after": ["first"]}, lambda name: name in done)
    assert tracks.step() == worked
