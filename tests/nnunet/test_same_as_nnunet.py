"""A site that federates alone gets the weights of ``nnUNetv2_train``, bit for bit.

The federation is real: messages, signatures, planner, learner, aggregator, files of weights. Both
sides start from the same random streams, see :mod:`plain`; fedfs when it has adopted the plan,
before it has looked at version 0. That version follows from the study's seed, and so do nnU-Net's
initial weights: none have to be loaded, and ``-pretrained_weights`` would not load the segmentation
layers. Plan, preprocessed cases and ``splits_final.json`` are those that fedfs left where nnU-Net
looks for them.

What is not deterministic in nnU-Net is controlled on both sides alike: it seeds neither its streams
nor its workers, so the test does; one augmentation worker, as batches of several come in any order;
one thread. A training that is stopped and goes on draws other numbers, in nnU-Net too.
"""

import dataclasses

import plain
import pytest
import torch
from synthetic import DATASET, dataset_json, make_paths, write_dataset

from fedfs.nnunet import child
from fedfs.nnunet.nnunet_learner import LearnerSettings, NnUNetLearner
from fedfs.nnunet.plan.planner import NnUNetPlanner
from fedfs.nnunet.system.environment import HostSettings
from fedfs.protocol.messages import Schedule
from fedfs.roles.coordinator.options import StudyOptions
from support.federation import Federation
from support.slow import slow

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("same_as_nnunet")]

SEED, ITERATIONS, VAL_ITERATIONS = 3, 3, 2
SITE = "alone"


class OneSite:
    """A study of one site, run to its end.

    Args:
        folder: empty.
        options: of the study.
    """

    def __init__(self, folder, **options):
        self.paths = make_paths(folder / "nnunet")
        write_dataset(self.paths.raw, 6, shape=(12, 32, 32))
        self.study = Federation(
            folder / "hosts",
            targets={SITE: 0.0},
            dataset_json=dataset_json(),
            gpu_memory_target_gb=0.1,
            planner_options={
                "UNet_base_num_features": 8,
                "UNet_max_features_2d": 16,
                "UNet_max_features_3d": 16,
            },
            **options,
        )
        self.spec, (self.track,) = self.study.charter.nnunet, self.study.charter.tracks
        self.learner = NnUNetLearner(
            LearnerSettings(
                paths=self.paths,
                dataset=DATASET,
                configuration=self.track.configuration,
                trainer=self.spec.trainer,
                fold=self.track.fold,
                state_dir=folder / "state",
                host=HostSettings(device="cpu", num_processes=1),
                full_validation=False,  # it comes after the weights
            )
        )
        self.study.learners[SITE] = self.learner
        self.study.planner = NnUNetPlanner(folder / "planning")

    def run(self):
        """Return nnU-Net's last checkpoint at the site."""
        self.study.start()
        for name in (SITE, "aggregator"):  # fingerprint; plan and version 0
            self.study.run_process(name)
        assert "adopted the federated plan" in self.study.step(SITE).text
        plain.seed_streams(SEED)
        self.study.run()
        folder = self.learner.model_folder() / "fold_0"
        self.learner.close()
        return load(folder / "checkpoint_final.pth")

    def request(self, output, **changes):
        """Return what nnU-Net is asked to do, see :func:`plain.train`."""
        schedule = self.study.charter.schedule
        return {
            "dataset": DATASET,
            "configuration": self.track.configuration,
            "plans": self.spec.plans_name,
            "seed": SEED,
            "epochs": schedule.rounds * schedule.local_epochs,
            "iterations": schedule.iterations_per_epoch,
            "val_iterations": schedule.val_iterations_per_epoch,
            "output": str(output),
            **changes,
        }


@pytest.fixture
def federate(tmp_path, monkeypatch):
    """Return a function that runs a study of one site; returns it and its checkpoint."""
    n_threads = torch.get_num_threads()

    def federate(*, rounds, local_epochs, workers, **options):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        plain.seed_workers(monkeypatch.setattr)
        schedule = Schedule(
            rounds=rounds,
            local_epochs=local_epochs,
            iterations_per_epoch=ITERATIONS,  # where epochs are counted, they have 250
            val_iterations_per_epoch=VAL_ITERATIONS,
            seed=SEED,
        )
        monkeypatch.setattr(StudyOptions, "schedule", lambda self: schedule)
        # The planner's functions, but in this process: one of its own takes five seconds to start.
        monkeypatch.setattr("fedfs.nnunet.plan.planner.run_isolated", in_this_process)
        site = OneSite(tmp_path / "federated", **options)
        return site, site.run()

    yield federate
    torch.set_num_threads(n_threads)


def in_this_process(function, request, *, workdir):
    return child.FUNCTIONS[function](dataclasses.asdict(request), lambda progress: None)


def load(path):
    return torch.load(path, weights_only=False)


def bits(value):
    """Return a checkpoint's value as something that is equal only where all bits are."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def differences(first, second):
    """Return the parts of two checkpoints that are not the same; nnU-Net's log key by key."""
    parts = [
        {**checkpoint, **{f"log {key}": value for key, value in checkpoint["logging"].items()}}
        for checkpoint in (first, second)
    ]
    assert parts[0].keys() == parts[1].keys()
    ignored = {"logging", "log epoch_start_timestamps", "log epoch_end_timestamps", "init_args"}
    return {name for name in parts[0] if bits(parts[0][name]) != bits(parts[1][name])} - ignored


def test_rounds_are_the_epochs_of_nnunet(federate, tmp_path):
    """Everything in the checkpoint: weights, momentum, learning rates, losses, Dice."""
    site, federated = federate(rounds=3, local_epochs=1, workers=0, configuration="2d")
    runs = {
        "same": site.request(tmp_path / "same.pth"),
        "one more iteration": site.request(tmp_path / "more.pth", iterations=ITERATIONS + 1),
        "other cases": site.request(tmp_path / "other.pth", numpy_seed=SEED + 1),
    }
    plain.train(site.paths, list(runs.values()), workers=0)
    assert differences(federated, load(runs["same"]["output"])) == set()
    for name in ("one more iteration", "other cases"):
        assert "network_weights" in differences(federated, load(runs[name]["output"])), name


@slow
def test_several_epochs_in_a_round_and_an_augmentation_worker(federate, tmp_path):
    """Looking at versions takes batches from the validation worker, which no weight depends on."""
    site, federated = federate(rounds=2, local_epochs=2, workers=1, configuration="3d_fullres")
    request = site.request(tmp_path / "same.pth")
    plain.train(site.paths, [request], workers=1)
    of_validation = {"log val_losses", "log mean_fg_dice", "log ema_fg_dice", "_best_ema"}
    of_validation |= {"log dice_per_class_or_region"}
    assert differences(federated, load(request["output"])) <= of_validation
