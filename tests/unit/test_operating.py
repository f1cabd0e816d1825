"""What an operator sees: of other starts on the same host, of failures, of who asks to join."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import MisplacedError, SetupError, StudyError, UserError
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.process import remembering
from fedfs.roles.reader.export import Exported, predict_commands
from fedfs.roles.reader.status import summarize
from fedfs.roles.site.join import _check_same_dataset
from fedfs.store import open_store
from support.federation import DATASET_JSON, FakePlanner, Federation


def seen(federation: Federation, observer):
    return remembering(federation.keyring("north"), "site-north", {"": observer}, [""])


def test_a_start_that_saw_more_does_not_make_a_process_end_in_alarm(federation):
    def interrupted():
        with seen(federation, federation.observe("north")):
            federation.run()  # meanwhile
            with seen(federation, federation.observe("north")):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    kept = federation.keyring("north")
    with pytest.raises(MisplacedError, match="this host has seen version 3 of it"):
        kept.note_version("site-north", 2, "")


def test_a_look_that_another_process_has_overtaken_is_made_again(federation):
    late = federation.observe("north")
    federation.run()
    with seen(federation, federation.observe("north")):
        pass
    assert late.state.newest == -1
    with seen(federation, late):
        assert late.state.newest == 3


def test_a_store_that_was_rolled_back_is_noticed(tmp_path):
    federation = Federation(tmp_path).start()
    before = dict(federation.store.objects)
    federation.run()
    with seen(federation, federation.observe("north")):
        pass
    federation.store.objects = before
    with (
        pytest.raises(MisplacedError, match="the store shows version -1, but this host has seen"),
        seen(federation, federation.observe("north")),
    ):
        pass


class Unplanned(FakePlanner):
    def plan(self, charter, fingerprint, n_cases):
        raise StudyError("nnU-Net plans no configuration 3d_lowres for these data")


def test_everybody_can_read_why_the_aggregator_stopped(federation):
    federation.planner = Unplanned()
    for site in federation.targets:
        federation.run_process(site)
    with pytest.raises(StudyError):
        federation.run_process("aggregator")
    status = summarize(federation.observe().state)
    assert status.aggregator == "failed: nnU-Net plans no configuration 3d_lowres for these data"
    outcome = federation.step("north")
    assert outcome.text.endswith(
        "; it failed: nnU-Net plans no configuration 3d_lowres for these data"
    )
    federation.planner = FakePlanner()
    federation.processes.clear()
    federation.run()  # and it goes on
    assert federation.observe().state.finished is not None
    assert "failed" not in summarize(federation.observe().state).aggregator


def test_what_stopped_a_site_is_told_without_its_paths(federation, monkeypatch):
    federation.run_process("north")
    for name in ("east", "south", "aggregator"):
        federation.run_process(name)

    def prepare(plans, fingerprint, report):
        raise SetupError("no trainer below /home/north/trainers")

    monkeypatch.setattr(federation.learners["north"], "prepare", prepare)
    with pytest.raises(SetupError):
        federation.run_process("north")
    (north,) = (s for s in summarize(federation.observe().state).sites if s.site == "north")
    assert north.activity == "failed: prepare: its log on that host says why"


def test_the_choice_is_waited_for(tmp_path):
    options = {"configuration": "2d,3d_fullres", "fold": "0", "rounds": 1}
    federation = Federation(tmp_path, **options).start()
    seen_waiting = set()
    while (state := federation.observe(track="2d-0").state).choice is None:
        for host in ("aggregator", *federation.targets):
            federation.step(host)
            view = summarize(federation.observe(track="2d-0").state)
            if view.phase != "finished":
                assert not view.choice_waits_for
            seen_waiting.add(view.choice_waits_for)
    assert ("east", "north", "south") in seen_waiting
    assert summarize(state).choice_waits_for == ()
    assert ("aggregator",) in seen_waiting


def test_the_key_to_compare_is_shown_before_it_is_approved(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    for options in ({}, {"fold": "0,1"}):
        folder = tmp_path / f"hosts{len(options)}"
        if options:
            store = open_store(str(tmp_path / "store2"), must_exist=False)
        federation = Federation(folder, store=store, **options)
        federation.join()
        done = CliRunner().invoke(cli, ["status", store.url])
        assert done.exit_code == 0, done.output
        for site in summarize(federation.observe(track=federation.tracks[0]).state).sites:
            assert f"{site.site} asks to join, with the key {site.key_fingerprint}" in done.output
        assert "waits for approval" not in done.output or not options


def test_a_planner_option_that_nnunet_does_not_have_is_refused_at_once():
    with pytest.raises(UserError, match="'UNet_base_num_featurs' is not allowed") as caught:
        StudyOptions("x", DATASET_JSON, planner_options={"UNet_base_num_featurs": 8})
    assert "UNet_base_num_features" in caught.value.hint


def test_a_site_does_not_change_its_data_in_the_middle_of_a_study(federation):
    before, after = {"dataset": "Dataset005_A"}, "Dataset004_B"
    _check_same_dataset("north", after, federation.observe().state, before)
    federation.run_process("north")
    state = federation.observe().state
    _check_same_dataset("north", "Dataset005_A", state, before)
    with pytest.raises(UserError, match="takes part with Dataset005_A, of which the study knows"):
        _check_same_dataset("north", after, state, before)


def test_the_second_stage_of_a_cascade_is_predicted_from_the_first():
    models = [
        Exported(Path(f"r/Dataset001_X/nnUNetTrainer__p__{name}"), name, fold, 1, "")
        for name in ("3d_lowres", "3d_cascade_fullres")
        for fold in ("0", "1")
    ]
    first, second = predict_commands(models)
    assert "-o PREDICTIONS_3d_lowres " in first
    assert first.endswith("-c 3d_lowres -f 0 1")
    assert "-o PREDICTIONS_3d_cascade_fullres " in second
    assert second.endswith(
        "-c 3d_cascade_fullres -f 0 1 -prev_stage_predictions PREDICTIONS_3d_lowres"
    )
    (only,) = predict_commands(models[:1])
    assert "-o PREDICTIONS -d" in only
