"""Partial training: only the values that an update in ``randk`` carries."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_net import SmallNet
from synthetic import Reports, task

from fedfs.errors import TensorError
from fedfs.learner import PartialTraining
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.train import partial
from fedfs.tensors import encodings
from fedfs.tensors.canonical import extract, weights_sha256
from fedfs.tensors.encodings.randk import is_sent

FRACTION = 0.0005
NAMES = {"stem.weight": "shared", "norm.weight": "norm.weight"}


@pytest.fixture
def trainer():
    torch.manual_seed(0)
    network = SmallNet()
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    return SimpleNamespace(
        network=network, optimizer=torch.optim.SGD(network.parameters(), **options)
    )


def steps(trainer, n=3):
    for _ in range(n):
        trainer.optimizer.zero_grad()
        trainer.network(torch.randn(2, 1, 6, 6)).square().mean().backward()
        trainer.optimizer.step()
    return extract(trainer.network)


def test_values_that_do_not_travel_keep_their_bits(trainer):
    before = extract(trainer.network)
    handle = partial.hold(trainer, before, PartialTraining(NAMES, FRACTION))
    after = steps(trainer)
    for own, name in NAMES.items():
        sent = is_sent(name, before[own], FRACTION)
        assert 0 < sent.sum() < sent.size
        np.testing.assert_array_equal(after[own] != before[own], sent)
    assert (after["stem.bias"] != before["stem.bias"]).all()

    handle.remove()
    later = steps(trainer)
    assert all((later[own] != after[own]).all() for own in NAMES)


def test_without_a_part_all_values_are_trained(trainer):
    before = extract(trainer.network)
    assert partial.hold(trainer, before, None) is None
    assert (steps(trainer)["stem.weight"] != before["stem.weight"]).all()


def test_a_base_of_another_network_is_refused(trainer):
    base = {**extract(trainer.network), "stem.weight": np.zeros(3, np.float32)}
    with pytest.raises(TensorError, match=r"base of 'stem\.weight' is not that of the network"):
        partial.hold(trainer, base, PartialTraining(NAMES, FRACTION))


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


@pytest.mark.nnunet
def test_an_update_of_nnunet_carries_all_that_was_trained(study, tmp_path, no_workers):
    """In two rounds, the first of which is killed and goes on in another process."""
    encoding = encodings.by_name("randk", {"fraction": FRACTION})
    names = {name: f"as.{name}" for name in study.tensors}
    tensors = study.tensors

    def kill_in_epoch_1(progress):
        if progress.epoch == 1:
            raise Killed

    def site():
        learner = NnUNetLearner(study.site(tmp_path, checkpoint_interval_s=0))
        learner.prepare(study.plans, study.fingerprint, Reports())
        return learner

    for version in range(2):
        a_round = dataclasses.replace(
            task(
                version, first_epoch=2 * version, n_epochs=2,
                weights_sha256=weights_sha256(tensors),
            ),
            partial=PartialTraining(names, FRACTION),
        )  # fmt: skip
        if version == 0:
            with pytest.raises(Killed):
                site().train(a_round, tensors, kill_in_epoch_1)
        learner = site()
        trained = learner.train(a_round, tensors, Reports()).tensors
        learner.close()
        moved = 0
        for own, name in names.items():
            encoded = encoding.encode(name, trained[own], tensors[own])
            assert np.abs(encoded.residual).max() <= encoding.step / 2
            moved += (trained[own] != tensors[own]).sum()
        assert 100 < moved <= sum(encoding.n_values(value.shape) for value in tensors.values())
        tensors = trained
