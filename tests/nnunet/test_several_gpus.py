"""A round by two processes: real torch.distributed, on the CPU, where this machine has no GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from synthetic import Reports, task

from fedfs.errors import SetupError
from fedfs.nnunet import child_round
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.system.environment import HostSettings
from fedfs.nnunet.train import parallel
from fedfs.tensors.canonical import weights_sha256
from support.slow import slow

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers")]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


@pytest.fixture
def start(study, tmp_path):
    """Return a function that starts the site's process anew."""
    learners = []

    def start(**changes):
        settings = study.site(tmp_path, checkpoint_interval_s=0, **{"num_gpus": 2, **changes})
        learners.append(NnUNetLearner(settings))
        learners[-1].prepare(study.plans, study.fingerprint, Reports())
        return learners[-1]

    yield start
    for learner in learners:
        learner.close()


def test_what_cannot_be_divided_is_refused(study, start):
    batch = study.plans["configurations"]["2d"]["batch_size"]
    with pytest.raises(SetupError, match=f"A batch of {batch} cannot be divided among 99 GPUs"):
        start(num_gpus=99).train(task(), study.tensors, Reports())


@pytest.mark.parametrize(
    ("batch", "batch_dice", "num_gpus", "instead"),
    [(5, True, 2, 1), (6, True, 4, 3), (5, False, 2, None), (6, True, 3, None), (3, False, 4, 3)],
)
def test_with_batch_dice_each_gpu_needs_as_much_of_a_batch(batch, batch_dice, num_gpus, instead):
    configuration = {"batch_size": batch, "batch_dice": batch_dice}
    if instead is None:
        parallel._check_batch(configuration, num_gpus)
        return
    with pytest.raises(SetupError, match=f"cannot be divided among {num_gpus} GPUs") as caught:
        parallel._check_batch(configuration, num_gpus)
    assert f"give --num-gpus {instead};" in caught.value.hint


def test_a_process_whose_starter_was_killed_before_it_looked_ends(monkeypatch):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(child_round, "parent_process", lambda: SimpleNamespace(pid=1234))
    monkeypatch.setattr(child_round, "end_with_parent", lambda: None)
    monkeypatch.setattr(child_round.os, "_exit", end)
    with pytest.raises(Ended):
        child_round._work(0, None, "cpu", None, None)


def test_there_have_to_be_so_many_devices():
    if torch.cuda.device_count() < 99:
        with pytest.raises(SetupError, match="GPUs, not 99|several CUDA devices only"):
            parallel.check_devices(HostSettings(num_gpus=99))
    assert parallel.check_devices(HostSettings(device="cpu", num_gpus=2)) == "cpu"


@slow
def test_a_round_that_is_killed_goes_on_and_a_site_alone_after_it(study, start, tmp_path):
    first = task(0, n_epochs=4, total_epochs=8, weights_sha256="a", iterations=2)

    def kill(progress):
        if progress.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        start().train(first, study.tensors, kill)
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "round-left").mkdir()
    report = Reports()
    result = start().train(first, study.tensors, report)
    assert 0 not in {progress["epoch"] for progress in report}  # that epoch counts
    assert (report[-1]["done"], report[-1]["total"]) == (8, 8)
    assert (result.n_epochs, result.n_iterations, result.n_training_cases) == (4, 8, 4)
    assert {"train_loss", "val_loss", "learning_rate"} <= result.metrics.keys()
    assert result.tensors.keys() == study.tensors.keys()
    assert weights_sha256(result.tensors) != weights_sha256(study.tensors)

    assert not list(study.site(tmp_path).state_dir.glob("round-*"))

    # One GPU takes over, with momentum and epoch.
    learner = start(num_gpus=1)
    after = task(1, first_epoch=4, n_epochs=1, total_epochs=8, weights_sha256="b", iterations=2)
    learner.train(after, result.tensors, Reports())
    trainer = learner._rounds.session.trainer
    assert len(trainer.optimizer.state) > 0
    assert (trainer.current_epoch, trainer.is_ddp) == (5, False)
    assert len(trainer.logger.get_checkpoint()["lrs"]) == 5
