"""An experiment: its runs over configurations, folds and seeds; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfs.errors import FedfsError, UserError
from fedfs.nnunet.system.files import write_json
from fedfs.roles.lock import hold_lock
from fedfs.simulation.arms import ARMS, Run
from fedfs.simulation.experiment import Experiment, ExperimentOptions
from fedfs.simulation.gpu_slots import Slot
from fedfs.simulation.hosts import Host, LocalStudy
from fedfs.simulation.machine import Machine
from fedfs.simulation.studies import Schedule, Studies, _models


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

    def do(_, runs):
        for run in runs:
            names.append(run.folder.name)
            dice = {"2d": 0.5, "3d_fullres": 0.7}[run.configuration] + int(run.fold) / 10
            write_json(run.scores, {"east": {"c": case(dice, 1.0)}})

    monkeypatch.setattr(Experiment, "_do", do)
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
    assert result.differences["ffe, 3d_fullres"]["east"]["dice"].mean == 0  # of that configuration
    assert {path.name for path in tmp_path.glob("table.*")} == {
        "table.md",
        "table.csv",
        "table.tex",
    }


def write_update(folder):
    update = folder / "ffe-2d-fold0-seed1/study/store/tracks/2d-0/sites/east/updates/00000"
    update.mkdir(parents=True)
    (update / "manifest.json").touch()


def test_a_first_attempt_that_trained_nothing_does_not_block_its_folder(tmp_path, monkeypatch):
    """A typo in ``--init`` is seen by ``fedfs init``, when the options have been written down."""

    def fail(self, _):
        run = self.options.folder / "ffe-2d-fold0-seed1"
        (run / "study" / "store" / "federation").mkdir(parents=True)
        (self.options.folder / "test" / "east").mkdir(parents=True)
        raise FedfsError("fedfs init exited with 2")

    monkeypatch.setattr(Experiment, "_do", fail)
    data, lines = with_cases(tmp_path), []
    with pytest.raises(FedfsError):
        Experiment(ExperimentOptions(tmp_path, data, init=["--polcy"]), log=lines.append).run()
    monkeypatch.setattr(Experiment, "_repeats", lambda _: {})
    monkeypatch.setattr("fedfs.simulation.experiment.write_tables", lambda *_: None)
    options = ExperimentOptions(tmp_path, data, init=["--policy"])
    Experiment(options, log=lines.append).run()
    assert lines == ["the folder is begun anew: nothing was trained with its earlier options"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "lock", "options.json"]
    Experiment(options, log=lines.append).run()
    assert len(lines) == 1


def test_names_of_sites_are_settled_before_anything_is_made(tmp_path):
    options, lines = ExperimentOptions(tmp_path, tmp_path, external="EZ"), []
    rows = [f"c{i},{site}" for i in range(9) for site in ("Milan ", "EZ")]
    (tmp_path / "cases.csv").write_text("case,site\n" + "\n".join(rows))
    splits = Experiment(options, log=lines.append)._split()
    assert [split.site for split in splits] == ["milan", "ez"]
    assert "site 'EZ' is called 'ez', as names of sites are in lower case" in lines
    with (tmp_path / "cases.csv").open("a") as file:
        file.write("\nc9,St. Anna")
    with pytest.raises(UserError, match=r"'st. anna' is not usable"):
        Experiment(options, log=print).run()
    assert [path.name for path in tmp_path.iterdir()] == ["cases.csv"]


def test_a_reference_that_is_none_of_the_arms_is_refused(tmp_path):
    with pytest.raises(UserError, match="The reference 'local' is none of the arms"):
        ExperimentOptions(tmp_path, tmp_path, arms=["ffe", "central"], reference="local")
    assert ExperimentOptions(tmp_path, tmp_path, arms=["ffe", "central"]).compared_with == "ffe"


def test_a_site_that_is_too_small_may_be_the_external_one(tmp_path):
    (tmp_path / "cases.csv").write_text("case,site\nc,ez\n")
    with pytest.raises(UserError, match="Site ez has 1 cases, too few to split") as caught:
        Experiment(ExperimentOptions(tmp_path, tmp_path), log=print)._split()
    assert "--external ez" in caught.value.hint


def test_the_cores_are_those_of_whoever_trains_at_the_same_time(tmp_path, monkeypatch):
    """Beside the one site of the central arm nothing runs; sites take the GPUs in turn."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    studies = train(tmp_path, monkeypatch, ["local", "ffe", "central"], Machine(gpus=["4", "5"]))
    slots = {k: host.slot for k, study in studies.items() for host in study.sites.values()}
    assert slots["local", "east"] == Slot(4, "4")
    assert slots["local", "north"] == Slot(4, "5")
    assert slots["central", "study"] == Slot(8, "4", workers=7)
    ffe = studies["ffe", "study"].sites
    assert [host.slot for host in ffe.values()] == [Slot(4, "4"), Slot(4, "5")]


def train(folder, monkeypatch, arms, machine, **changes):
    """Return (arm, name of its folder) -> a study that was to be run."""
    monkeypatch.setattr("fedfs.simulation.studies.place_dataset", lambda *_, **__: None)
    monkeypatch.setattr("fedfs.simulation.studies._models", lambda *_, **__: {"": folder})
    made = {}

    def complete(_, study, n_at_once, **__):
        made[arm, study.store.parent.name] = study

    monkeypatch.setattr(Studies, "_complete", complete)
    schedule = Schedule(arms=arms, rounds=4, local_iterations=10, val_iterations=2, **changes)
    studies = Studies(
        folder, {"east": ("a", "b"), "north": ("c",)}, schedule, machine, lambda _: None
    )
    for arm in arms:
        studies.train(Run(arm, "2d", "0", 1, folder))
    return made


def value(study, option):
    return study.init[study.init.index(option) + 1]


def test_equal_compute_is_the_iterations_of_the_whole_federation(tmp_path, monkeypatch):
    arms = ["local", "local-equal", "ffe", "central", "central-equal"]
    studies = train(tmp_path, monkeypatch, arms, Machine())
    found = {name: value(study, "--local-iterations") for name, study in studies.items()}
    assert found == {
        ("local", "east"): "10",
        ("local", "north"): "10",
        ("local-equal", "east"): "20",
        ("local-equal", "north"): "20",
        ("ffe", "study"): "10",
        ("central", "study"): "10",
        ("central-equal", "study"): "20",
    }
    assert {value(study, "--rounds") for study in studies.values()} == {"4"}


def test_all_arms_begin_with_the_learning_rate_of_the_experiment(tmp_path, monkeypatch):
    studies = train(tmp_path, monkeypatch, list(ARMS), Machine(), learning_rate=0.03)
    assert {value(study, "--learning-rate") for study in studies.values()} == {"0.03"}
    usual = train(tmp_path / "usual", monkeypatch, ["ffe"], Machine())
    assert "--learning-rate" not in usual["ffe", "study"].init


def test_arms_of_the_same_study_share_its_training(tmp_path, monkeypatch):
    studies = train(tmp_path, monkeypatch, ["ffe", "personal"], Machine(), run=("--x",))
    ffe, personal = studies["ffe", "study"], studies["personal", "study"]
    assert ffe.store == personal.store
    assert ffe.run == personal.run == ("--personal", "--x")


def test_the_model_of_an_arm_is_exported_as_it_says(tmp_path, monkeypatch):
    """The mean of no more versions than there are, and at each site what it keeps for itself."""
    calls = []

    def run(host, *words):
        calls.append((host.name, words[4:]))
        (Path(words[3]) / "Dataset900_Simulation" / "model").mkdir(parents=True)
        (Path(words[3]) / "Dataset900_Simulation" / "model" / "plans.json").touch()

    monkeypatch.setattr(Host, "run", run)
    hosts = {site: Host(site, tmp_path / site) for site in ("east", "north")}
    study = LocalStudy(tmp_path, "d", tmp_path, Host("coordinator", tmp_path / "c"), hosts)
    for name, n_rounds in (("ffe", 9), ("average", 9), ("average", 2), ("keep-local", 9)):
        for _ in range(2):  # what is exported stays
            found = _models(study, ARMS[name], tmp_path, n_rounds=n_rounds)
    assert set(found) == {"east", "north"}
    assert calls == [
        ("coordinator", ()),
        ("coordinator", ("--average-last", "3")),
        ("coordinator", ("--average-last", "2")),
        ("east", ("--site", "east")),
        ("north", ("--site", "north")),
    ]
    assert ARMS["keep-local"].init == ("--keep-local", "norm")


def test_a_folder_that_holds_another_experiment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "_repeats", lambda _: {})
    monkeypatch.setattr("fedfs.simulation.experiment.write_tables", lambda *_: None)
    data = with_cases(tmp_path)
    Experiment(ExperimentOptions(tmp_path, data), log=print).run()
    Experiment(ExperimentOptions(tmp_path, data, seeds=[1, 2], device="cpu"), log=print).run()
    write_update(tmp_path)
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
