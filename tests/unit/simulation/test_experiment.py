"""An experiment: its runs over configurations, folds and seeds; what cannot be is refused."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.lock import hold_lock
from fedfs.simulation.experiment import Experiment, ExperimentOptions


def case(dice, hd95):
    return {"dice": dice, "hd95": hd95}


def test_an_arm_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="Arm 'cloud' is unknown"):
        ExperimentOptions(tmp_path, tmp_path, arms=["local", "cloud"])


def test_a_cascade_is_refused(tmp_path):
    with pytest.raises(UserError, match="A cascade needs two stages"):
        ExperimentOptions(tmp_path, tmp_path, configurations=["2d", "3d_cascade_fullres"])


def with_cases(folder, n=9):
    (folder / "cases.csv").write_text("case,site\n" + "".join(f"c{i},east\n" for i in range(n)))
    return folder


def test_several_configurations_have_rows_of_their_own_over_folds_and_seeds(tmp_path, monkeypatch):
    names = []
    options = ExperimentOptions(
        tmp_path,
        with_cases(tmp_path),
        arms=["ffe", "local"],
        folds=["0", "1"],
        configurations=["2d", "3d_fullres"],
    )
    monkeypatch.setattr(Experiment, "_train", lambda *_: {})

    def score(self, run, models):
        run.folder.mkdir()
        names.append(run.folder.name)
        dice = {"2d": 0.5, "3d_fullres": 0.7}[run.configuration] + int(run.fold) / 10
        return {"east": {"c": case(dice, 1.0)}}

    monkeypatch.setattr(Experiment, "_score", score)
    result = Experiment(options, log=print).run()
    rows = {
        name: (row["east"].dice, row["east"].dice_sd is None) for name, row in result.cells.items()
    }
    assert rows == {
        "ffe, 2d": (pytest.approx(0.55), False),
        "local, 2d": (pytest.approx(0.55), False),
        "ffe, 3d_fullres": (pytest.approx(0.75), False),
        "local, 3d_fullres": (pytest.approx(0.75), False),
    }
    assert len(set(names)) == 8
    assert Experiment(options, log=print).run() == result
    assert len(names) == 8  # it goes on where it was


def test_a_folder_that_holds_another_experiment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "_repeats", lambda _: {})
    data = with_cases(tmp_path)
    Experiment(ExperimentOptions(tmp_path, data), log=print).run()
    Experiment(ExperimentOptions(tmp_path, data, seeds=[1, 2], device="cpu"), log=print).run()
    with pytest.raises(UserError, match="has rounds 20, not 40"):
        Experiment(ExperimentOptions(tmp_path, data, rounds=40), log=print).run()
    with_cases(tmp_path, n=8)
    with pytest.raises(UserError, match=r"has cases \{'east': \[7, 2\]\}, not "):
        Experiment(ExperimentOptions(tmp_path, data), log=print).run()


def test_one_process_runs_an_experiment_at_a_time(tmp_path):
    experiment = Experiment(ExperimentOptions(tmp_path, with_cases(tmp_path)), log=print)
    with (
        hold_lock(tmp_path / "lock"),
        pytest.raises(UserError, match=r"process \d+ runs the experiment in .* already"),
    ):
        experiment.run()


def test_an_external_site_that_does_not_exist_is_refused(tmp_path):
    options = ExperimentOptions(tmp_path, with_cases(tmp_path), external="far")
    with pytest.raises(UserError, match="There is no site 'far'"):
        Experiment(options, log=print)._split()
