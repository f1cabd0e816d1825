"""Frozen tensors: on a small net, in nnU-Net's training, and in a whole study."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hospitals import Hospitals
from small_net import SmallNet
from synthetic import Reports, task

from fedfs.aggregation.trained_tensors import is_trained
from fedfs.errors import TensorError
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.pretrained import read_checkpoint
from fedfs.nnunet.train import freezing
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK
from fedfs.tensors.canonical import extract, weights_sha256, write_safetensors
from support.slow import slow

UNUSED = "decoder.seg_layers.0."
"""Under deep supervision nnU-Net gives the lowest resolution the weight 0."""


def trainer_of(network):
    made = SimpleNamespace(network=network)
    made.configure_optimizers = lambda: (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
        None,
    )
    return made


@pytest.mark.parametrize(
    "names",
    [
        {"stem.weight", "stem.bias"},
        {"norm.running_mean"},
        {"stem.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"},
    ],
    ids=["layer", "statistics", "more"],
)
def test_frozen_tensors_keep_their_bits_and_have_no_part_in_the_optimizer(names):
    torch.manual_seed(0)
    trainer = trainer_of(SmallNet())
    freezing.freeze(trainer, names)
    optimizer, _ = trainer.configure_optimizers()
    before = extract(trainer.network)
    for _ in range(3):
        trainer.network.train()
        freezing.hold_statistics(trainer, names)
        optimizer.zero_grad()
        trainer.network(torch.randn(2, 1, 6, 6)).square().mean().backward()
        optimizer.step()
    after = extract(trainer.network)
    of_optimizer = [one for group in optimizer.param_groups for one in group["params"]]
    assert len(of_optimizer) == 6 - len([name for name in names if "running" not in name])
    same = {name for name in before if before[name].tobytes() == after[name].tobytes()}
    statistics = {"norm.running_mean", "norm.running_var"}
    assert same == names | (statistics if names & statistics else set())


def test_a_name_that_the_network_lacks_is_refused():
    trainer = trainer_of(SmallNet())
    freezing.freeze(trainer, {"stem.wait"})
    with pytest.raises(TensorError, match=r"tensor 'stem\.wait' is to be frozen"):
        trainer.configure_optimizers()


@pytest.mark.nnunet
def test_nnunet_trains_the_rest_and_goes_on_from_a_checkpoint(study, tmp_path, no_workers):
    """Two rounds, the second in another process."""
    names = frozenset(name for name in study.tensors if not is_trained(name, ["norm", "heads"]))
    tensors = study.tensors
    for version in range(2):
        learner = NnUNetLearner(study.site(tmp_path))
        learner.prepare(study.plans, study.fingerprint, Reports())
        a_round = dataclasses.replace(
            task(version, first_epoch=version, weights_sha256=weights_sha256(tensors)),
            frozen=names,
        )
        result = learner.train(a_round, tensors, Reports())
        learner.close()
        same = {n for n, value in result.tensors.items() if value.tobytes() == tensors[n].tobytes()}
        assert names <= same
        assert {name for name in same - names if not name.startswith(UNUSED)} == set()
        tensors = result.tensors


@slow
@pytest.mark.nnunet
def test_hospitals_fine_tune_a_part_of_a_pretrained_model(tmp_path, monkeypatch, in_one_process):
    """A finished study's model is the pretrained one; the export is nnU-Net's whole model."""
    sites = {"north": 4, "south": 5}
    options = {"configuration": "2d", "gpu_memory_target_gb": 0.02}
    options["trainer"] = "nnUNetTrainerBN"
    first = Hospitals(tmp_path / "first", monkeypatch, {"north": 6, "east": 4}, **options).run()
    pretrained = tmp_path / "pretrained.safetensors"
    checkpoint = read_checkpoint(first.final("north"))
    write_safetensors(pretrained, checkpoint)
    second = Hospitals(
        tmp_path / "second", monkeypatch, sites, **options, rounds=2, train_only="norm,heads",
        pretrained=pretrained,
    ).run()  # fmt: skip
    (made,) = second.export().models
    exported = read_checkpoint(made.folder / "fold_0" / "checkpoint_final.pth")
    assert set(exported) == set(checkpoint)
    for name, value in exported.items():
        is_same = value.tobytes() == checkpoint[name].tobytes()
        assert name.startswith(UNUSED) or is_same != is_trained(name, ["norm", "heads"]), name
        for site in sites:
            np.testing.assert_array_equal(read_checkpoint(second.final(site))[name], value)
    state = second.observe().state
    sizes = {one.size for record in state.rounds.values() for one in record.updates}
    assert max(sizes) < 0.4 * 4 * sum(value.size for value in checkpoint.values())
    assert all(item.level == OK for item in verify_study(second.observe()))
