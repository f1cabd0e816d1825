"""Variants of nnU-Net's trainer through rounds, and trainers that only this host has."""

import dataclasses
import os
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from synthetic import DATASET, Reports, make_paths, task

from fedfs.cli import fedfs
from fedfs.errors import MalformedError, SetupError
from fedfs.nnunet.allowed.classes import make_trainer, trainer_class
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.plans import WeightsRequest, initial_tensors
from fedfs.nnunet.score.model_export import ExportRequest, export_model
from fedfs.nnunet.settings import TrainerSettings
from fedfs.nnunet.system.environment import HostSettings, set_variables
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.tensors.canonical import weights_sha256

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers")]

TOTAL = 4


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory):
    """One site for all: the cases are preprocessed once, whatever the trainer."""
    return tmp_path_factory.mktemp("site")


def weights(study, trainer, **changes):
    request = WeightsRequest(
        plans=study.plans,
        dataset_json=study.dataset_json,
        configuration="2d",
        trainer=trainer,
        seed=1,
        output="",
        **changes,
    )
    return initial_tensors(request)


def learner_of(study, folder, trainer, **changes):
    changes = {"state_dir": folder / trainer, "full_validation": False, **changes}
    learner = NnUNetLearner(study.site(folder, trainer=trainer, **changes))
    learner.prepare(study.plans, study.fingerprint, Reports())
    return learner


def round_from(tensors, *, epoch, total=TOTAL, rate=None):
    first = task(
        epoch,
        first_epoch=epoch,
        total_epochs=total,
        iterations=1,
        weights_sha256=weights_sha256(tensors),
    )
    return dataclasses.replace(first, learning_rate=rate)


def finished(learner, tensors, rate=None):
    end = dataclasses.replace(round_from(tensors, epoch=TOTAL, rate=rate), n_epochs=0)
    learner.finish(end, tensors, Reports())
    path = learner.model_folder() / "fold_0" / "checkpoint_final.pth"
    return torch.load(path, weights_only=False)


def learning_rate(trainer):
    return trainer.optimizer.param_groups[0]["lr"]


RATE = 0.03
"""Of the study; that of the trainers is 0.01, of those with Adam less."""
POLY = RATE * (1 - 2 / TOTAL) ** 0.9
VARIANTS = {
    "nnUNetTrainerDiceCELoss_noSmooth": lambda t: t.loss.loss.dc.smooth == 0,
    "nnUNetTrainerTopk10Loss": lambda t: type(t.loss.loss).__name__ == "TopKLoss",
    "nnUNetTrainerNoMirroring": lambda t: t.inference_allowed_mirroring_axes is None,
    "nnUNetTrainerAdam": lambda t: type(t.optimizer) is torch.optim.AdamW,
    "nnUNetTrainerCosAnneal": lambda t: learning_rate(t) == pytest.approx(RATE / 2),
    "nnUNetTrainerBN": lambda t: any("running_mean" in n for n in t.network.state_dict()),
    "nnUNetTrainerNoDeepSupervision": lambda t: type(t.loss).__name__ == "DC_and_CE_loss",
    "nnUNetTrainer_1epoch": lambda t: t.num_epochs == TOTAL,
    "nnUNetTrainer_250epochs": lambda t: t.num_epochs == TOTAL,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_variant_of_nnunet_overrides_holds_in_a_round(study, site_folder, name, caplog):
    """The round is the third of four epochs: schedules are those of the study."""
    caplog.set_level("INFO")
    tensors = weights(study, name)
    learner = learner_of(study, site_folder, name)
    the_round = round_from(tensors, epoch=2, rate=RATE)
    trained = learner.train(the_round, tensors, Reports()).tensors
    trainer = learner._rounds.session.trainer
    assert type(trainer).__name__ == name
    assert VARIANTS[name](trainer)
    assert learning_rate(trainer) == pytest.approx(POLY) or name == "nnUNetTrainerCosAnneal"
    assert ("it gets the study's 4" in caplog.text) == name.endswith(("epoch", "epochs"))
    assert trained.keys() == tensors.keys()
    assert weights_sha256(trained) != weights_sha256(tensors)
    checkpoint = finished(learner, trained, RATE)
    assert checkpoint["trainer_name"] == name
    assert learner.model_folder().name == f"{name}__fedfsPlans__2d"


def test_a_site_that_comes_late_enters_a_schedule_of_stages_where_the_others_are(
    study, site_folder, caplog
):
    """nnUNetTrainer_warmup goes up for 50 epochs, then down; it changes stage in epoch 50 only."""
    name, total = "nnUNetTrainer_warmup", 100
    tensors = weights(study, name)
    learner = learner_of(study, site_folder, name)
    when = {"total": total, "rate": RATE}
    first = learner.train(round_from(tensors, epoch=60, **when), tensors, Reports()).tensors
    assert learning_rate(learner._rounds.session.trainer) == pytest.approx(
        RATE * (1 - 10 / 50) ** 0.9
    )
    before = momentum(learner._rounds.session.trainer)
    learner.close()

    again = learner_of(study, site_folder, name)
    with set_variables(study.site(site_folder).paths.variables()):
        session, _ = again._begun().resume(round_from(first, epoch=61, **when), first)
    assert all(map(torch.equal, momentum(session.trainer), before))
    assert session.trainer.training_stage == "train"
    again.close()
    assert "cannot be loaded" not in caplog.text


def momentum(trainer):
    return [state["momentum_buffer"].clone() for state in trainer.optimizer.state.values()]


def test_a_trainer_that_runs_its_epochs_itself_is_refused():
    with pytest.raises(SetupError, match="cannot be federated: it has a run_training of its own"):
        trainer_class("nnUNetTrainerBenchmark_5epochs")


SOURCE = """
from pathlib import Path
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

Path(__file__).with_name("imported").touch()

class nnUNetTrainerHospital(nnUNetTrainer):
    def configure_optimizers(self):
        self.initial_lr = 1e-3
        return super().configure_optimizers()

class nnUNetTrainerRunner(nnUNetTrainer):
    def run_training(self):
        pass

class nnUNetTrainerSilent(nnUNetTrainer):
    def initialize(self):
        super().initialize()
        self.disable_checkpointing = True

class NoTrainer:
    pass

nnUNetTrainerAlias = nnUNetTrainerHospital
"""
NAME = "nnUNetTrainerHospital"
ALLOWED = {"host": HostSettings(device="cpu", num_processes=1, allowed_trainers=(NAME,))}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of trainers of this host, beside one that is not there."""
    folder = tmp_path / "trainers"
    (folder / "ours").mkdir(parents=True)
    (folder / "ours" / "__init__.py").touch()
    (folder / "ours" / "hospital.py").write_text(SOURCE)
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path / 'nowhere'}:{folder}")
    return folder / "ours"


def export(study, folder, **changes):
    return export_model(
        ExportRequest(
            plans=study.plans, dataset_json=study.dataset_json, fingerprint={}, trainer=NAME,
            configuration="2d", fold="0", tensors=str(study.weights_file), output=str(folder),
            dataset_name=DATASET, version=1, epochs=1, **changes,
        )
    )  # fmt: skip


def test_without_the_operators_word_nothing_of_a_trainer_from_elsewhere_is_imported(
    study, tmp_path, elsewhere
):
    """Whatever the charter says, and although the trainer is where nnU-Net finds it."""
    site = NnUNetLearner(study.site(tmp_path, trainer=NAME))
    for attempt in (
        lambda: site.fingerprint(Reports()),
        lambda: site.prepare(study.plans, study.fingerprint, Reports()),
        lambda: weights(study, NAME),
        lambda: weights(study, NAME, host=HostSettings(allowed_trainers=("nnUNetTrainerOther",))),
        lambda: export(study, tmp_path / "out"),
    ):
        with pytest.raises(SetupError, match=f"no trainer {NAME}, and .* not allowed") as caught:
            attempt()
        assert "nnUNet_extTrainer" in caught.value.hint
        assert f"--allow-trainer {NAME}" in caught.value.hint
    assert not (elsewhere / "imported").exists()
    assert not list(tmp_path.glob("preprocessed/*/fedfsPlans*"))


def test_a_trainer_that_the_operator_allows_trains_and_is_named_in_the_checkpoint(
    study, tmp_path, elsewhere, caplog
):
    caplog.set_level("INFO")
    tensors = weights(study, NAME, **ALLOWED)
    learner = learner_of(study, tmp_path, NAME, **ALLOWED)
    trained = learner.train(round_from(tensors, epoch=0), tensors, Reports()).tensors
    assert learning_rate(learner._rounds.session.trainer) == pytest.approx(1e-3)
    assert finished(learner, trained)["trainer_name"] == NAME
    with pytest.raises(SetupError) as caught:
        learner.train(round_from(trained, epoch=1, rate=RATE), trained, Reports())
    learner.close()
    assert "cannot begin with the learning rate 0.03: it begins with 0.001" in str(caught.value)
    assert "self.initial_lr" in caught.value.hint
    assert f"trainer {NAME}: {elsewhere / 'hospital.py'}, sha256 " in caplog.text
    model = export(study, tmp_path / "out", **ALLOWED)
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == NAME
    request = {"trainer": NAME, "allowed_trainers": [NAME]}
    assert run_isolated("check_trainer", request, workdir=tmp_path) == {"module": "ours.hospital"}


def test_it_is_the_class_that_nnunet_finds(elsewhere):
    from nnunetv2.utilities.find_objects import (  # noqa: PLC0415  heavy
        recursive_find_trainer_class_by_name,
    )

    ours, its = trainer_class(NAME, (NAME,)), recursive_find_trainer_class_by_name(NAME)
    assert ours.__module__ == its.__module__ == "ours.hospital"
    files = [cls.configure_optimizers.__code__.co_filename for cls in (ours, its)]
    assert files == [str(elsewhere / "hospital.py")] * 2


def test_nnunets_own_trainer_of_that_name_comes_first(elsewhere):
    (elsewhere / "hospital.py").write_text(SOURCE.replace(NAME, "nnUNetTrainerAdam"))
    found = trainer_class("nnUNetTrainerAdam", ("nnUNetTrainerAdam",))
    assert found.__module__.startswith("nnunetv2.")
    assert not (elsewhere / "imported").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nnUNetTrainerNowhere", "no trainer nnUNetTrainerNowhere below nnUNet_extTrainer"),
        ("NoTrainer", "is not a class made from nnUNetTrainer"),
        ("nnUNetTrainerAlias", "is not a class made from nnUNetTrainer"),  # of another name
        ("nnUNetTrainerRunner", "cannot be federated"),
    ],
)
def test_an_allowed_name_has_to_be_a_trainer_that_can_be_federated(elsewhere, name, message):
    with pytest.raises(SetupError, match=message):
        trainer_class(name, (name,))


@pytest.mark.parametrize("name", ["ours.hospital.nnUNetTrainerHospital", "../x", "a b"])
def test_an_allowed_name_has_to_be_an_identifier(elsewhere, name):
    with pytest.raises(MalformedError, match="not a Python identifier"):
        trainer_class(name, (name,))
    assert not (elsewhere / "imported").exists()


def test_a_trainer_that_writes_no_checkpoints_is_refused(study, tmp_path, elsewhere):
    name = "nnUNetTrainerSilent"
    learner = learner_of(study, tmp_path, name, allowed_trainers=(name,))
    with pytest.raises(SetupError, match="nnUNetTrainerSilent writes no checkpoints"):
        learner.train(round_from(study.tensors, epoch=0), study.tensors, Reports())


def test_a_module_that_cannot_be_imported_is_named(elsewhere):
    (elsewhere / "another.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(SetupError, match=r"cannot be imported: .*a_package_that_is_not_there"):
        trainer_class(NAME, (NAME,))


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    with pytest.raises(SetupError, match="below nnUNet_extTrainer, which is not set"):
        trainer_class(NAME, (NAME,))


def test_a_study_with_such_a_trainer_begins_only_where_it_is_allowed(study, tmp_path, elsewhere):
    """What a child process may import stands in its request. Where it is allowed: tests/e2e."""
    with set_variables({"FEDFS_HOME": str(tmp_path / "home")}):
        refused = CliRunner().invoke(
            fedfs, ["init", str(tmp_path / "store"), "--name", "x", "--trainer", NAME,
                    "--dataset-json", str(study.paths.raw / DATASET / "dataset.json")],
        )  # fmt: skip
    assert isinstance(refused.exception, SetupError)
    assert "not allowed" in str(refused.exception)
    assert not [*tmp_path.glob("store/*"), *tmp_path.glob("home/*"), *elsewhere.glob("imported")]


def test_weights_and_biases_is_told_about_the_training_where_the_operator_asks_for_it(
    study, site_folder, tmp_path, monkeypatch
):
    """A recording stand-in for ``wandb``: whatever the host's variables say, nobody else begins."""
    runs = []
    wandb = mock.MagicMock()
    wandb.init.side_effect = lambda **options: runs.append(options) or mock.MagicMock(step=0)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.wandb", wandb)
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    wanted = HostSettings(device="cpu", num_processes=1, wandb=True)
    tensors = weights(study, "nnUNetTrainer", host=wanted)
    own = {"trainer": "nnUNetTrainer", "configuration": "2d", "fold": "0"}
    for host, expected in ((HostSettings(device="cpu"), []), (wanted, ["online"])):
        learner = learner_of(study, site_folder, "nnUNetTrainer", host=host)
        learner.evaluate(round_from(tensors, epoch=0), tensors, Reports())
        learner.close()
        assert [run["mode"] for run in runs] == expected
    monkeypatch.setenv("nnUNet_wandb_enabled", "perhaps")
    with set_variables(make_paths(tmp_path).variables()):
        make_trainer(TrainerSettings(**own, host=wanted), study.plans, study.dataset_json)
    assert len(runs) == 1
    assert os.environ.get("nnUNet_wandb_enabled") == "perhaps"  # noqa: SIM112  nnU-Net's name
