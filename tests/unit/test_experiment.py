"""The table of an experiment: means over cases, folds and seeds; what cannot be is refused."""

from __future__ import annotations

import pytest

from fedfs.cli.simulation import table
from fedfs.errors import FedfsError, UserError
from fedfs.roles.lock import only_one
from fedfs.simulation.cases import Split
from fedfs.simulation.experiment import Experiment, ExperimentOptions
from fedfs.simulation.table import cell, tabulate


def case(dice, hd95):
    return {"dice": dice, "hd95": hd95}


def test_a_cell_is_the_mean_over_cases_and_its_spread_over_repeats():
    repeats = [
        {"a": case(0.5, 2.0), "b": case(0.7, None)},
        {"a": case(0.7, 4.0), "b": case(0.9, 6.0)},
    ]
    found = cell(repeats)
    assert found.dice == pytest.approx(0.7)
    assert found.dice_sd == pytest.approx(0.2 / 2**0.5)
    assert found.hd95_mm == pytest.approx(4.0)
    assert found.n_cases == 2
    assert cell(repeats[:1]).dice_sd is None
    with pytest.raises(FedfsError, match="no test case"):
        cell([{"a": case(None, None)}])


def test_the_table_has_methods_by_sites_as_in_the_paper():
    splits = (
        Split("east", ("e1", "e2"), ("e3",)), Split("north", ("n1",), ("n2",)),
        Split("far", (), ("f1",)),
    )  # fmt: skip
    one = {
        "east": {"e3": case(0.8, 1.0)},
        "north": {"n2": case(0.6, 3.0)},
        "far": {"f1": case(0.4, None)},
    }
    result = tabulate({"ffe": [one], "local": [one, one]}, splits)
    heading, rows = table(result)
    assert heading == ("method", "east", "north", "mean", "far (external)")
    assert rows[0] == ("ffe", "0.800  1.0", "0.600  3.0", "0.700  2.0", "0.400")
    assert rows[1][1] == "0.800 ± 0.000  1.0"


def test_an_arm_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="arm 'cloud' is unknown"):
        ExperimentOptions(tmp_path, tmp_path, arms=["local", "cloud"])


def test_a_cascade_is_refused(tmp_path):
    with pytest.raises(UserError, match="a cascade needs two stages"):
        ExperimentOptions(tmp_path, tmp_path, configurations=["2d", "3d_cascade_fullres"])


def with_cases(folder, n=9):
    (folder / "cases.csv").write_text("case,site\n" + "".join(f"c{i},east\n" for i in range(n)))
    return folder


def test_several_configurations_have_rows_of_their_own_over_folds_and_seeds(tmp_path, monkeypatch):
    names = []
    options = ExperimentOptions(
        tmp_path, with_cases(tmp_path), arms=["ffe", "local"], folds=["0", "1"],
        configurations=["2d", "3d_fullres"],
    )  # fmt: skip
    monkeypatch.setattr(Experiment, "_train", lambda *_: {})

    def score(self, run, models):
        run.folder.mkdir()
        names.append(run.folder.name)
        dice = {"2d": 0.5, "3d_fullres": 0.7}[run.configuration] + int(run.fold) / 10
        return {"east": {"c": case(dice, 1.0)}}

    monkeypatch.setattr(Experiment, "_score", score)
    result = Experiment(options, say=print).run()
    rows = {
        name: (row["east"].dice, row["east"].dice_sd is None) for name, row in result.cells.items()
    }
    assert rows == {
        "ffe, 2d": (pytest.approx(0.55), False), "local, 2d": (pytest.approx(0.55), False),
        "ffe, 3d_fullres": (pytest.approx(0.75), False),
        "local, 3d_fullres": (pytest.approx(0.75), False),
    }  # fmt: skip
    assert len(set(names)) == 8
    assert Experiment(options, say=print).run() == result
    assert len(names) == 8  # it goes on where it was


def test_a_folder_that_holds_another_experiment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "_repeats", lambda _: {})
    data = with_cases(tmp_path)
    Experiment(ExperimentOptions(tmp_path, data), say=print).run()
    Experiment(ExperimentOptions(tmp_path, data, seeds=[1, 2], device="cpu"), say=print).run()
    with pytest.raises(UserError, match="has rounds 20, not 40"):
        Experiment(ExperimentOptions(tmp_path, data, rounds=40), say=print).run()
    with_cases(tmp_path, n=8)
    with pytest.raises(UserError, match=r"has cases \{'east': \[7, 2\]\}, not "):
        Experiment(ExperimentOptions(tmp_path, data), say=print).run()


def test_one_process_runs_an_experiment_at_a_time(tmp_path):
    experiment = Experiment(ExperimentOptions(tmp_path, with_cases(tmp_path)), say=print)
    with (
        only_one(tmp_path / "lock"),
        pytest.raises(UserError, match=r"process \d+ runs the experiment in .* already"),
    ):
        experiment.run()


def test_an_external_site_that_does_not_exist_is_refused(tmp_path):
    options = ExperimentOptions(tmp_path, with_cases(tmp_path), external="far")
    with pytest.raises(UserError, match="there is no site 'far'"):
        Experiment(options, say=print)._split()
