"""A charter as text: every choice shows, and every amendment."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.protocol.messages import REMOVED
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import draft_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import set_state
from fedfs.roles.reader.charter import amendments, describe
from fedfs.store import FolderStore
from fedfs.store.memory import MemoryStore
from fedfs.tensors.canonical import write_safetensors
from support.federation import DATASET_JSON, INITIAL, Federation

OTHERS = {
    "name": "other",
    "dataset_json": {**DATASET_JSON, "channel_names": {"0": "PET"}},
    "mode": "asym",
    "dataset_name": "Dataset007_Other",
    "average_last": 4,
    "ema": 0.9,
    "ensemble": True,
    "keep_local": "norm",
    "keep_local_export": "mean",
    "train_only": "a.*",
    "configuration": "2d,3d_fullres",
    "planner": "nnUNetPlannerResEncM",
    "trainer": "nnUNetTrainerNoMirroring",
    "fold": "0,1",
    "rounds": 7,
    "local_epochs": 3,
    "local_iterations": 11,
    "local_minutes": 30.0,
    "learning_rate": 0.03,
    "val_iterations": 7,
    "gpu_memory_target_gb": 11.0,
    "target_spacing": (1.0, 1.0, 3.0),
    "planner_options": {"UNet_base_num_features": 16.0},
    "policy": "quorum",
    "policy_options": {"sites": 2.0, "grace_minutes": 30.0, "deadline_minutes": 60.0},
    "weighting": "uniform",
    "strategy": "FedProx",
    "strategy_options": {"clip_norm": 2.0},
    "encoding": "int8",
    "encoding_options": {"fraction": 0.1},
    "model_encoding": "topk",
    "model_encoding_options": {"fraction": 0.1},
    "keyframe_every": 3,
    "min_sites": 5,
    "minimum_cases": 4,
    "max_move_ratio": 0.0,
    "fingerprint_digits": 3,
    "fingerprint_quantiles": 5,
    "encryption": "age",
    "secure_sums": True,
    "secure_scores": True,
    "min_summed_sites": 4,
    "max_coefficient_share": 0.6,
    "site_clip_norm": 5.0,
    "seed": 9,
}
NEEDS = {
    "policy_options": {"policy": "quorum"},
    "policy": {"policy_options": {"sites": 2.0}},
    "encoding_options": {"encoding": "topk"},
    "model_encoding_options": {"model_encoding": "topk"},
    "keyframe_every": {"model_encoding": "fp16"},
    "strategy": {},
    "ensemble": {"rounds": 1},
    "keep_local_export": {"keep_local": "norm"},
    "secure_sums": {"encryption": "age"},
}
NEEDS |= {
    option: {"secure_sums": True, "encryption": "age", "min_sites": 5}
    for option in ("min_summed_sites", "max_coefficient_share", "site_clip_norm", "secure_scores")
}
OF_ASYM = {"alignment": "name", "sharing": "intersection", "min_coverage": 0.25}
OF_ASYM |= {"cross_evaluation": True}


def described(pretrained=None, **options):
    settings = {"name": "x", "dataset_json": DATASET_JSON, **options}
    chosen = StudyOptions(**settings)
    return describe(draft_study(MemoryStore(), chosen, versions={}, pretrained=pretrained))


@pytest.mark.parametrize("option", [field.name for field in dataclasses.fields(StudyOptions)])
def test_every_choice_of_the_coordinator_shows(option, tmp_path):
    needed = {"mode": "asym"} if option in OF_ASYM else NEEDS.get(option, {})
    value = {**OTHERS, **OF_ASYM}[option]
    before = {"policy_options": {"sites": 3.0}} if option == "policy_options" else {}
    if option == "policy":
        assert described() != described(policy=value, **needed)
        return
    if option == "train_only":
        needed = {"pretrained": tmp_path / "given.safetensors"}
        write_safetensors(needed["pretrained"], INITIAL)
    assert described(**needed, **before) != described(**{**needed, option: value})


def test_it_shows_how_often_each_value_travels_where_most_stay_at_home():
    text = described(encoding="randk", rounds=25)["Storage"]["updates"]
    assert text == (
        "travel as randk: in large layers, a value is trained in about 1.25 of 25 rounds"
    )


def test_a_buffer_and_a_share_of_cases_are_told():
    buffer = described(policy="buffer", policy_options={"size": 4.0})["Rounds"]["a round ends"]
    assert buffer.startswith("after every 4 updates, from whatever version")
    share = {"cases_percent": 60.0, "staleness_exponent": 1.0}
    quorum = described(policy="quorum", policy_options=share)["Rounds"]["a round ends"]
    assert (
        quorum
        == "when sites with 60% of all cases have answered; a late update weighs (1 + lag)^-1"
    )


def test_amendments_tell_who_came_and_went(tmp_path, monkeypatch):
    federation = Federation(tmp_path, store=FolderStore(tmp_path / "store", must_exist=False))
    federation.start()
    set_state(
        Coordinator(federation.store, federation.home("coordinator"), clock=federation.clock),
        ["south"],
        REMOVED,
    )
    began, approved, removed = amendments(federation.observe().state.charters)
    assert (began.number, began.changes, began.sites) == (1, (), ())
    assert [one.site for one in approved.sites] == ["east", "north", "south"]
    assert {(one.before, one.after) for one in approved.sites} == {("", "active")}
    assert "approved east with key " in approved.changes[0]
    (south,) = removed.sites
    assert (south.site, south.before, south.after) == ("south", "active", "removed")
    assert removed.changes == ("south is removed, from version 0 on",)

    done = CliRunner().invoke(cli, ["charter", str(tmp_path / "store")])
    assert "south is removed, from version 0 on" in done.output
    assert "combined by FedAvg, weighted by training cases" in done.output
    done = CliRunner().invoke(cli, ["charter", str(tmp_path / "store"), "--json"])
    view = json.loads(done.output)
    assert view["number"] == 3
    assert [row["state"] for row in view["members"][2:]] == ["active", "active", "removed"]
    assert view["amendments"][2]["sites"][0]["after"] == "removed"
    assert view["charter"]["schedule"]["rounds"] == 3


def test_a_new_key_of_an_encrypted_study_is_an_amendment(tmp_path):
    federation = Federation(tmp_path, encryption="age").start()
    coordinator = Coordinator(
        federation.store, federation.home("coordinator"), clock=federation.clock
    )
    set_state(coordinator, ["south"], REMOVED)
    assert amendments(federation.observe().state.charters)[-1].changes == (
        "south is removed, from version 0 on",
        "models and plans are encrypted with read key 2 from now",
    )
