"""Rounds of real nnU-Net training on images of a few thousand voxels."""

import copy
import dataclasses
import itertools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import DATASET, Reports, Study, task

from fedfs.errors import SetupError, TensorError, TrainingError
from fedfs.learner import METRICS
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.settings import ScoreOptions
from fedfs.nnunet.system.failures import translate
from fedfs.tensors.canonical import weights_sha256

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers")]

TOTAL = 8
ITERATIONS = 2


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


def the_round(version, tensors, *, first_epoch=None, n_epochs=2):
    return task(
        version,
        first_epoch=2 * version if first_epoch is None else first_epoch,
        n_epochs=n_epochs,
        total_epochs=TOTAL,
        weights_sha256=weights_sha256(tensors),
        iterations=ITERATIONS,
    )


@pytest.fixture
def start(study, tmp_path, monkeypatch):
    """Return a function that starts the site's process anew."""
    learners = []
    for name, value in study.site(tmp_path).paths.variables().items():
        monkeypatch.setenv(name, value)  # for tests that look inside

    def start(**changes):
        learner = NnUNetLearner(study.site(tmp_path, **changes))
        learners.append(learner)
        learner.prepare(study.plans, study.fingerprint, Reports())
        return learner

    yield start
    for learner in learners:
        learner.close()


def trainer_of(learner):
    return learner._rounds.session.trainer


def momentum(learner):
    states = trainer_of(learner).optimizer.state.values()
    return [state["momentum_buffer"].clone() for state in states if "momentum_buffer" in state]


def random_streams():
    numpy_state = np.random.get_state()  # noqa: NPY002  the stream that nnU-Net draws from
    return random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()


def equal(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def log_of(learner):
    return trainer_of(learner).logger.get_checkpoint()


def test_a_round_trains_the_weights_it_was_given(study, start):
    report = Reports()
    result = start().train(the_round(0, study.tensors), study.tensors, report)
    assert result.tensors.keys() == study.tensors.keys()
    assert weights_sha256(result.tensors) != weights_sha256(study.tensors)
    assert all(value.dtype == np.float32 for value in result.tensors.values())
    assert (result.n_training_cases, result.n_epochs, result.n_iterations) == (4, 2, 4)
    assert {"train_loss", "val_loss", "pseudo_dice", "learning_rate"} <= result.metrics.keys()
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.seconds.keys() == {"training", "validation", "checkpoint"}
    assert (report[-1]["done"], report[-1]["total"], report[-1]["epoch"]) == (4, 4, 1)


def test_the_learning_rate_schedule_spans_the_study(study, start):
    learner = start()
    tensors = study.tensors
    for version in range(3):
        tensors = learner.train(the_round(version, tensors), tensors, Reports()).tensors
    expected = [1e-2 * (1 - epoch / TOTAL) ** 0.9 for epoch in range(6)]
    assert log_of(learner)["lrs"] == pytest.approx(expected)
    assert {len(values) for values in log_of(learner).values()} == {6}
    assert trainer_of(learner).num_epochs == TOTAL


def test_a_round_ends_when_its_time_is_over_and_is_not_begun_again(study, start, monkeypatch):
    """Its clock goes on by a second at every look: two of them pass in each iteration."""
    ticks = itertools.count()
    learner = start()
    monkeypatch.setattr(learner, "_clock", lambda: float(next(ticks)))
    box = dataclasses.replace(the_round(0, study.tensors), max_seconds=1.0)
    result = learner.train(box, study.tensors, Reports())
    assert (result.n_epochs, result.n_iterations) == (0, 1)
    assert weights_sha256(result.tensors) != weights_sha256(study.tensors)
    assert {len(values) for values in log_of(learner).values()} == {1}

    again = start().train(box, study.tensors, Reports())
    assert again.n_iterations == 1
    assert weights_sha256(again.tensors) == weights_sha256(result.tensors)

    following = start()
    assert following.train(the_round(1, result.tensors), result.tensors, Reports()).n_epochs == 2
    assert {len(values) for values in log_of(following).values()} == {4}

    roomy = dataclasses.replace(the_round(2, result.tensors), max_seconds=1e6)
    assert following.train(roomy, result.tensors, Reports()).n_iterations == 4


def test_a_round_replaces_weights_and_keeps_momentum(study, start):
    learner = start()
    first = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    before = momentum(learner)
    other = {name: value * 0.5 for name, value in first.items()}
    session, _ = learner._begun().resume(the_round(1, other), other)
    assert equal(momentum(learner), before)
    assert weights_sha256(session.tensors()) == weights_sha256(other)


def test_momentum_and_log_survive_a_restart(study, start):
    learner = start()
    first = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    before, log = momentum(learner), copy.deepcopy(log_of(learner))
    restarted = start()
    session, _ = restarted._begun().resume(the_round(1, first), first)
    assert equal(momentum(restarted), before)
    assert log_of(restarted) == log
    assert session.trainer.current_epoch == 2
    assert restarted.train(the_round(1, first), first, Reports()).n_epochs == 2


def test_a_round_that_was_done_is_not_done_again(study, start):
    round_0 = the_round(0, study.tensors)
    once = start().train(round_0, study.tensors, Reports())
    report = Reports()
    again = start().train(round_0, study.tensors, report)
    assert report == []
    assert weights_sha256(again.tensors) == weights_sha256(once.tensors)
    assert (again.n_iterations, again.metrics) == (once.n_iterations, once.metrics)


def test_a_kill_within_a_round_loses_one_epoch_at_most(study, start):
    round_0 = the_round(0, study.tensors, n_epochs=4)

    def kill_in_epoch_2(progress):
        if progress.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        start(checkpoint_interval_s=0).train(round_0, study.tensors, kill_in_epoch_2)
    report = Reports()
    restarted = start(checkpoint_interval_s=0)
    result = restarted.train(round_0, study.tensors, report)
    assert [p["epoch"] for p in report if p["done"] % ITERATIONS == 0] == [2, 3]
    assert (result.n_epochs, result.n_iterations) == (4, 4 * ITERATIONS)
    assert {len(values) for values in log_of(restarted).values()} == {4}


def test_checkpoints_within_a_round_are_rare(study, start, monkeypatch):
    learner = start()
    saved = []
    keep = type(learner._begun().checkpoints()).save
    monkeypatch.setattr(
        "fedfs.nnunet.train.checkpoints.CheckpointStore.save",
        lambda store, progress, write: saved.append(progress) or keep(store, progress, write),
    )
    learner.train(the_round(0, study.tensors, n_epochs=3), study.tensors, Reports())
    assert [progress.epochs_done for progress in saved] == [3]


def test_a_damaged_checkpoint_starts_the_round_over(study, start, tmp_path, caplog):
    round_0 = the_round(0, study.tensors)
    start().train(round_0, study.tensors, Reports())
    (checkpoint,) = (tmp_path / "state").glob("*.pth")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    report = Reports()
    assert start().train(round_0, study.tensors, report).n_epochs == 2
    assert len(report) == 2 * ITERATIONS or report[-1]["done"] == 2 * ITERATIONS
    assert "damaged" in caplog.text


@pytest.mark.drawn
def test_epochs_in_which_the_site_was_away_repeat_the_last_value(study, start):
    learner = start(plot_interval_s=0)
    first = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    learner.train(the_round(2, first), first, Reports())
    log = log_of(learner)
    assert {len(values) for values in log.values()} == {6}
    assert log["train_losses"][1] == log["train_losses"][2] == log["train_losses"][3]
    assert (Path(trainer_of(learner).output_folder) / "progress.png").stat().st_size > 0


@pytest.mark.drawn
def test_a_site_that_joins_late_keeps_nnunets_log_in_order(study, start):
    learner = start(plot_interval_s=0)
    learner.train(the_round(3, study.tensors), study.tensors, Reports())
    log = log_of(learner)
    assert {len(values) for values in log.values()} == {8}
    assert math.isnan(log["train_losses"][5])
    assert math.isfinite(log["ema_fg_dice"][7])


def test_a_round_from_other_weights_starts_over(study, start):
    learner = start()
    learner.train(the_round(0, study.tensors), study.tensors, Reports())
    other = {name: value * 0.9 for name, value in study.tensors.items()}
    assert learner.train(the_round(0, other), other, Reports()).n_epochs == 2
    assert {len(values) for values in log_of(learner).values()} == {2}


def test_a_changed_schedule_is_followed(study, start):
    learner = start()
    first = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    before = momentum(learner)
    longer = task(1, first_epoch=2, total_epochs=20, iterations=3)
    session, _ = learner._begun().resume(longer, first)
    assert session.trainer.num_epochs == 20
    assert session.trainer.num_iterations_per_epoch == 3
    assert equal(momentum(learner), before)


def test_a_loss_that_is_not_finite_is_a_failure(study, start, tmp_path):
    learner = start()
    name = next(name for name in study.tensors if "conv.weight" in name)
    broken = {**study.tensors, name: np.full_like(study.tensors[name], np.nan)}
    with pytest.raises(TrainingError, match="loss became nan in epoch 0") as caught:
        learner.train(the_round(0, broken), broken, Reports())
    assert caught.value.kind == "not-finite"
    assert not (tmp_path / "state").exists()
    assert learner.train(the_round(0, study.tensors), study.tensors, Reports()).n_epochs == 2


def test_weights_of_another_network_are_refused(study, start):
    wrong = {name: value[:1] for name, value in study.tensors.items()}
    with pytest.raises(TensorError):
        start().train(the_round(0, wrong), wrong, Reports())


def test_a_compiled_network_takes_and_gives_the_same_tensors(study, start):
    learner = start()
    session = learner._begun().open(the_round(0, study.tensors))
    session.trainer.network = torch.compile(session.trainer.network)
    session.load(study.tensors)
    assert weights_sha256(session.tensors()) == weights_sha256(study.tensors)


def test_training_needs_the_plan(study, tmp_path):
    with pytest.raises(SetupError, match="plan"):
        NnUNetLearner(study.site(tmp_path)).train(task(), study.tensors, Reports())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out-of-memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "out-of-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out-of-memory"),
        (RuntimeError("One or more background workers are no longer alive."), "data-loader"),
        (OSError(28, "No space left on device"), "disk"),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file"), "disk"),
        (ZeroDivisionError("x"), "crash"),
    ],
)
def test_what_goes_wrong_in_nnunet_has_a_kind(study, start, monkeypatch, error, kind):
    learner = start()
    session = learner._begun().open(the_round(0, study.tensors))

    def fail(batch):
        raise error

    monkeypatch.setattr(session.trainer, "train_step", fail)
    with pytest.raises(TrainingError) as caught:
        learner.train(the_round(0, study.tensors), study.tensors, Reports())
    assert caught.value.kind == kind == translate(error).kind
    assert learner._rounds is None


def test_an_evaluation_scores_and_leaves_no_trace(study, start):
    learner = start()
    first = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    before, log = momentum(learner), copy.deepcopy(log_of(learner))
    streams = random_streams()
    report = Reports()
    result = learner.evaluate(the_round(1, first), first, report)
    assert list(result.classes) == ["shell", "core"]
    assert result.n_cases == 2
    assert math.isfinite(result.loss)
    for score in result.classes.values():
        assert score.dice == pytest.approx(2 * score.tp / (2 * score.tp + score.fp + score.fn))
    assert (report[-1]["done"], report[-1]["total"]) == (2, 2)
    assert equal(momentum(learner), before)
    assert log_of(learner) == log
    assert random_streams() == streams


def test_only_callbacks_print(study, tmp_path, capfd):
    def report(progress):
        print(progress.step)  # noqa: T201  a command line does

    learner = NnUNetLearner(study.site(tmp_path))
    learner.fingerprint(report)
    learner.prepare(study.plans, study.fingerprint, report)
    learner.evaluate(the_round(0, study.tensors), study.tensors, report)
    learner.train(the_round(0, study.tensors), study.tensors, report)
    learner.close()
    steps = capfd.readouterr().out.split()
    assert list(dict.fromkeys(steps)) == ["fingerprint", "preprocess", "evaluate", "train"]


def test_the_end_is_an_nnunet_model_folder(study, start, tmp_path):
    learner = start(scores=ScoreOptions(calibration=True))
    trained = learner.train(the_round(0, study.tensors), study.tensors, Reports()).tensors
    final = the_round(4, trained, n_epochs=0)
    report = Reports()
    result = learner.finish(final, trained, report)
    model = learner.model_folder()
    assert model == tmp_path / "results" / DATASET / "nnUNetTrainer__fedfsPlans__2d"
    assert {path.name for path in model.iterdir()} == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_0",
    }
    assert (model / "fold_0" / "validation" / "summary.json").exists()
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == TOTAL
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert len(checkpoint["logging"]["train_losses"]) == TOTAL
    for name, value in trained.items():
        assert np.array_equal(checkpoint["network_weights"][name].numpy(), value)
    assert result.n_cases == 2
    assert list(result.classes) == ["shell", "core"]
    assert [p["done"] for p in report if p["step"] == "validate"] == [1, 2]
    assert [p["done"] for p in report if p["step"] == "metrics"] == [1, 2]
    for score in result.classes.values():
        assert score.hd95_mm is None or 0 <= score.hd95_mm < 1000
    assert any(score.hd95_mm is not None for score in result.classes.values())
    validation = model / "fold_0" / "validation"
    predicted = {path.name.removesuffix(".nii.gz") for path in validation.glob("*.nii.gz")}
    assert set(result.by_case) == predicted
    for case in result.by_case.values():
        assert {*case["shell"], "hd95_mm"} == set(METRICS)
    plans = json.loads((model / "plans.json").read_text())
    assert result.nsd_tolerance_mm == max(plans["configurations"]["3d_fullres"]["spacing"])
    assert json.loads((validation / "case_scores.json").read_text()) == result.by_case
    assert not [*validation.glob("*.npz"), *validation.glob("*.pkl")]

    written = (model / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    again = start().finish(final, trained, Reports())
    assert again == result
    assert (model / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == written


def test_finishing_again_with_other_weights_replaces_the_model(study, start):
    learner = start(full_validation=False)
    first = learner.finish(the_round(4, study.tensors, n_epochs=0), study.tensors, Reports())
    other = {name: value * 0.5 for name, value in study.tensors.items()}
    second = learner.finish(the_round(4, other, n_epochs=0), other, Reports())
    assert first.n_cases == second.n_cases == 0  # not validated: there is no score
    assert first.mean_dice is second.mean_dice is None
    checkpoint = torch.load(
        learner.model_folder() / "fold_0" / "checkpoint_final.pth", weights_only=False
    )
    name = next(iter(other))
    assert np.array_equal(checkpoint["network_weights"][name].numpy(), other[name])


def test_fold_all_trains_and_validates_on_every_case(study, start):
    learner = start(fold="all")
    result = learner.train(the_round(0, study.tensors, n_epochs=1), study.tensors, Reports())
    assert result.n_training_cases == 6


def test_regions_with_an_ignore_label_in_3d(tmp_path):
    """Labels in the order of the charter, not of the alphabet."""
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    study = Study(tmp_path, configuration="3d_fullres", labels=labels, regions_class_order=[1, 2])
    learner = NnUNetLearner(study.site(tmp_path))
    learner.prepare(study.plans, study.fingerprint, Reports())
    the_task = task(0, weights_sha256="x", iterations=1, total_epochs=1)
    tensors = learner.train(the_task, study.tensors, Reports()).tensors
    result = learner.evaluate(the_task, tensors, Reports())
    assert list(result.classes) == ["whole", "core"]
    finished = learner.finish(
        task(1, first_epoch=1, n_epochs=0, total_epochs=1, weights_sha256="y", iterations=1),
        tensors,
        Reports(),
    )
    assert list(finished.classes) == ["whole", "core"]
    learner.close()


def test_workers_of_the_data_loaders_end_when_the_site_is_killed(study, tmp_path):
    paths = study.site(tmp_path).paths
    code = f"""
import json, multiprocessing, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fedfs.tensors.canonical import TensorFile
from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths
from fedfs.nnunet.nnunet_learner import LearnerSettings, NnUNetLearner
from synthetic import task
plans, fingerprint = json.loads(sys.stdin.read())
learner = NnUNetLearner(LearnerSettings(
    paths=NnUNetPaths(*map(Path, {list(paths.variables().values())})),
    dataset={DATASET!r}, configuration="2d", trainer="nnUNetTrainer", fold="0",
    state_dir=Path({str(tmp_path / "state")!r}), host=HostSettings(device="cpu", num_processes=1),
    checkpoint_interval_s=0,
))
learner.prepare(plans, fingerprint, lambda progress: None)
def kill(progress):
    if progress.epoch == 1:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), 9)
tensors = TensorFile(Path({str(study.weights_file)!r}))
learner.train(task(0, n_epochs=4, weights_sha256="x", iterations=2), tensors, kill)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([study.plans, study.fingerprint]),
        env={**os.environ, "nnUNet_n_proc_DA": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # The pipes close only when the last worker has gone, so coming here proves it.
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 2, done.stderr
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)

    learner = NnUNetLearner(study.site(tmp_path))
    learner.prepare(study.plans, study.fingerprint, Reports())
    report = Reports()
    learner.train(task(0, n_epochs=4, weights_sha256="x", iterations=2), study.tensors, report)
    assert report[0]["epoch"] == 1
