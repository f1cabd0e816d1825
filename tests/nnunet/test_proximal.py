"""FedProx's term: its gradient on small nets, and what it does to nnU-Net's training."""

import copy
import dataclasses
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_net import SmallNet
from synthetic import Reports, Study, task
from torch import nn

from fedfs.errors import TensorError, TrainingError
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.train import proximal
from fedfs.tensors.canonical import extract, weights_sha256
from support.slow import slow

MU = 0.7


class Net(SmallNet):
    """Two outputs as under deep supervision."""

    def forward(self, image):
        features = self.features(image)
        return [self.head(features), self.head(features[..., ::2, ::2])]


def loss_of(outputs, targets):
    parts = [nn.functional.cross_entropy(*pair) for pair in zip(outputs, targets, strict=True)]
    return sum(parts)


@pytest.fixture
def trainer():
    torch.manual_seed(0)
    return SimpleNamespace(network=Net(), loss=loss_of)


@pytest.fixture
def batch():
    target = torch.randint(0, 2, (3, 8, 8))
    return torch.randn(3, 1, 8, 8), [target, target[..., ::2, ::2]]


def moved(base, by=0.5):
    rng = np.random.default_rng(1)
    return {n: np.float32(value + by * rng.normal(size=value.shape)) for n, value in base.items()}


def gradients(trainer, batch, scale=1.0):
    """Canonical name -> gradient of the trainer's loss, in float64."""
    trainer.network.zero_grad()
    (trainer.loss(trainer.network(batch[0]), batch[1]) * scale).backward()
    named = proximal.classes.plain_module(trainer).named_parameters()
    return {name: weight.grad.double().numpy() / scale for name, weight in named}


def expected(trainer, batch, base, mu=MU):
    """The gradient without the term, plus ``mu * (w - base)``."""
    weights = extract(proximal.classes.plain_module(trainer))
    plain = gradients(trainer, batch)
    return {n: plain[n] + mu * (weights[n].astype(np.float64) - base[n]) for n in plain}


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=rtol, atol=atol, err_msg=name)


def compiled(network):
    return torch.compile(network, backend="eager")


def distributed(network):
    return nn.parallel.DistributedDataParallel(network)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [lambda network: network, compiled, distributed])
@pytest.mark.usefixtures("process_group")
def test_the_gradient_is_that_of_the_loss_plus_mu_times_the_way_from_the_base(trainer, batch, wrap):
    base = moved(extract(trainer.network))
    trainer.network = wrap(trainer.network)
    wanted = expected(trainer, batch, base)
    proximal.attach(trainer, base, mu=MU, private=frozenset())
    assert_close(gradients(trainer, batch), wanted)


def test_the_loss_has_the_term_where_gradients_are_recorded_and_nowhere_else(trainer, batch):
    trainer.network.eval()
    base = moved(extract(trainer.network))
    squares = [
        ((weight.detach().numpy() - base[name]) ** 2.0).sum()
        for name, weight in trainer.network.named_parameters()
    ]
    outputs = trainer.network(batch[0])
    own = trainer.loss(outputs, batch[1])
    total = own.item() + MU / 2 * sum(squares)
    proximal.attach(trainer, base, mu=MU, private=frozenset())
    assert trainer.loss(outputs, batch[1]).item() == pytest.approx(total, rel=1e-6)
    with torch.no_grad():
        assert torch.equal(trainer.loss(outputs, batch[1]), own)


def test_it_is_float32_under_autocast_and_scales_with_the_loss(trainer, batch):
    base = moved(extract(trainer.network), by=1e-4)  # lost in bfloat16
    wanted = expected(trainer, batch, base, mu=1e4)
    proximal.attach(trainer, base, mu=1e4, private=frozenset())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(trainer, batch, scale=65536.0)
    assert_close(found, wanted, rtol=0, atol=0.05)
    assert max(np.abs(value).max() for value in wanted.values()) > 1


def test_a_gradient_scaler_steps_as_without_one(trainer, batch):
    base = moved(extract(trainer.network))
    other = copy.deepcopy(trainer)
    for one, scaler in (
        (trainer, torch.amp.GradScaler("cpu", init_scale=65536.0)),
        (other, torch.amp.GradScaler("cpu", enabled=False)),
    ):
        proximal.attach(one, base, mu=MU, private=frozenset())
        optimizer = torch.optim.SGD(one.network.parameters(), lr=0.1)
        scaler.scale(one.loss(one.network(batch[0]), batch[1])).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(one.network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
    assert_close(extract(trainer.network), extract(other.network))


def test_parameters_that_share_their_storage_count_once(trainer, batch):
    trainer.network.twin = nn.Conv2d(1, 4, 3, padding=1)
    for name in ("weight", "bias"):
        getattr(trainer.network.twin, name).data = getattr(trainer.network.stem, name).data
    base = moved(extract(trainer.network))
    assert not [name for name in base if name.startswith(("decoder.", "twin."))]
    proximal.attach(trainer, base, mu=MU, private=frozenset())
    assert len(trainer.loss._pairs) == 6


def test_private_and_frozen_tensors_are_left_alone(trainer, batch):
    base = moved(extract(trainer.network))
    plain = gradients(trainer, batch)
    wanted = expected(trainer, batch, base)
    wanted["head.weight"] = plain["head.weight"]
    trainer.network.norm.bias.requires_grad = False
    proximal.attach(trainer, base, mu=MU, private=frozenset({"head.weight", "norm.bias"}))
    trainer.network.norm.bias.requires_grad = True
    wanted["norm.bias"] = plain["norm.bias"]
    assert_close(gradients(trainer, batch), wanted)


def test_where_everything_is_private_nothing_is_added(trainer, batch):
    base = extract(trainer.network)
    own = loss_of(trainer.network(batch[0]), batch[1])
    proximal.attach(trainer, {}, mu=MU, private=frozenset(base))
    assert torch.equal(trainer.loss(trainer.network(batch[0]), batch[1]), own)


def test_a_new_base_replaces_the_old_one_and_none_gives_the_own_loss_back(trainer, batch):
    base = extract(trainer.network)
    proximal.attach(trainer, base, mu=0.0, private=frozenset())
    assert trainer.loss is loss_of
    proximal.attach(trainer, moved(base, by=9), mu=3.0, private=frozenset())
    later = moved(base)
    wanted = expected(SimpleNamespace(network=trainer.network, loss=loss_of), batch, later)
    proximal.attach(trainer, later, mu=MU, private=frozenset())
    assert_close(gradients(trainer, batch), wanted)
    proximal.attach(trainer, base, mu=0.0, private=frozenset())
    assert trainer.loss is loss_of


def test_the_base_is_a_copy(trainer, batch):
    base = moved(extract(trainer.network))
    wanted = expected(trainer, batch, base)
    proximal.attach(trainer, base, mu=MU, private=frozenset())
    for value in base.values():
        value[...] = 0
    assert_close(gradients(trainer, batch), wanted)


def test_a_base_of_another_network_is_refused(trainer):
    base = extract(trainer.network)
    lacking = {name: value for name, value in base.items() if name != "head.bias"}
    with pytest.raises(TensorError, match=r"lacks the tensor 'head\.bias'"):
        proximal.attach(trainer, lacking, mu=MU, private=frozenset())
    with pytest.raises(TensorError, match=r"'head\.bias' is \[2\], and \[1\] in the base"):
        proximal.attach(
            trainer, {**base, "head.bias": np.zeros(1, np.float32)}, mu=MU, private=frozenset()
        )
    assert trainer.loss is loss_of


# Real training from here on.

ITERATIONS = 8
nnunet = pytest.mark.nnunet


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


def a_round(study: Study, **changes):
    made = task(
        n_epochs=2,
        total_epochs=8,
        iterations=ITERATIONS,
        weights_sha256=weights_sha256(study.tensors),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def start(study, tmp_path, monkeypatch, no_workers):
    """Return a function that starts a site's process; equal seeds give equal batches."""
    learners = []

    def start(site="site", **changes):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  the stream that nnU-Net draws from
        torch.manual_seed(1)
        folder = tmp_path / site
        folder.mkdir(exist_ok=True)
        settings = study.site(folder, **changes)
        for name, value in settings.paths.variables().items():
            monkeypatch.setenv(name, value)  # for tests that look inside
        learners.append(NnUNetLearner(settings))
        learners[-1].prepare(study.plans, study.fingerprint, Reports())
        return learners[-1]

    yield start
    for learner in learners:
        learner.close()


def distances(tensors, base):
    return {name: float(np.linalg.norm(tensors[name] - base[name])) for name in base}


@nnunet
def test_a_site_stays_nearer_to_the_base_except_with_what_is_its_own(study, start):
    private = max(study.tensors, key=lambda name: study.tensors[name].size)
    held = {"proximal_mu": 50.0}
    free, all_held, one_free = (
        distances(start(site).train(the_round, study.tensors, Reports()).tensors, study.tensors)
        for site, the_round in (
            ("free", a_round(study)),
            ("held", a_round(study, **held)),
            ("private", a_round(study, **held, private=frozenset({private}))),
        )
    )
    assert sum(all_held.values()) < sum(free.values()) / 2
    assert all_held[private] < one_free[private] / 2
    others = set(study.tensors) - {private}
    assert sum(one_free[n] for n in others) < sum(free[n] for n in others) / 2


@slow
@nnunet
def test_mu_0_trains_as_if_there_were_no_fedprox_bit_for_bit(study, start, monkeypatch):
    zero = start("zero").train(a_round(study, proximal_mu=0.0), study.tensors, Reports())
    some = start("some").train(a_round(study, proximal_mu=1.0), study.tensors, Reports())
    monkeypatch.setattr("fedfs.nnunet.train.session.Session.set_base", lambda *_: None)
    without = start("without").train(a_round(study), study.tensors, Reports())
    assert weights_sha256(zero.tensors) == weights_sha256(without.tensors)
    assert weights_sha256(some.tensors) != weights_sha256(without.tensors)
    assert zero.metrics == without.metrics


@nnunet
def test_a_round_that_goes_on_after_a_kill_is_held_to_its_base(study, start):
    the_round = a_round(study, proximal_mu=1.0)

    def kill_in_epoch_1(progress):
        if progress.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        start(checkpoint_interval_s=0).train(the_round, study.tensors, kill_in_epoch_1)
    session, progress = start()._begun().resume(the_round, study.tensors)
    assert progress.epochs_done == 1
    starts = [start.numpy() for _, start in session.trainer.loss._pairs]
    weights = [weight.detach().numpy() for weight, _ in session.trainer.loss._pairs]
    assert len(starts) == len(study.tensors)
    for one, value in zip(starts, study.tensors.values(), strict=True):
        assert np.array_equal(one, value)
    assert not all(np.array_equal(*pair) for pair in zip(starts, weights, strict=True))


@nnunet
def test_the_next_round_has_its_own_base_and_one_without_fedprox_none(study, start):
    learner = start()
    first = learner.train(a_round(study, proximal_mu=1.0), study.tensors, Reports()).tensors
    learner.evaluate(a_round(study, version=1), first, Reports())
    then = {"version": 1, "first_epoch": 2, "weights_sha256": weights_sha256(first)}
    session, _ = learner._begun().resume(a_round(study, **then, proximal_mu=2.0), first)
    for (_, start_), value in zip(session.trainer.loss._pairs, first.values(), strict=True):
        assert np.array_equal(start_.numpy(), value)
    own = session.trainer.loss.loss
    session, _ = learner._begun().resume(a_round(study, **then), first)
    assert session.trainer.loss is own


@nnunet
def test_validation_has_nnunets_own_loss(study, start):
    losses = []
    for site, mu in (("plain", 0.0), ("held", 1e6)):
        learner = start(site)
        far = {name: value + np.float32(1) for name, value in study.tensors.items()}
        session, _ = learner._begun().resume(a_round(study, proximal_mu=mu), far)
        session.load(study.tensors)
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002  the stream that nnU-Net draws from
        torch.manual_seed(2)
        losses.append(learner.evaluate(a_round(study), study.tensors, Reports()).loss)
    assert losses[0] == losses[1]


@nnunet
def test_the_model_folder_is_as_ever(study, start):
    learner = start()
    trained = learner.train(a_round(study, proximal_mu=1.0), study.tensors, Reports()).tensors
    final = a_round(study, version=1, first_epoch=8, n_epochs=0, weights_sha256="")
    assert learner.finish(final, trained, Reports()).n_cases == 2  # nnU-Net's own validation
    fold = learner.model_folder() / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert not [key for key in checkpoint if "loss" in key]
    for name, value in trained.items():
        assert np.array_equal(checkpoint["network_weights"][name].numpy(), value)


@nnunet
def test_a_trainer_that_makes_its_loss_anew_is_an_error(study, start, monkeypatch):
    learner = start()
    the_round = a_round(study, proximal_mu=1.0)
    trainer = learner._begun().open(the_round).trainer
    original = trainer.on_train_epoch_start

    def replace_loss():
        trainer.loss = trainer._build_loss()
        original()

    monkeypatch.setattr(trainer, "on_train_epoch_start", replace_loss)
    with pytest.raises(TrainingError, match="nnUNetTrainer replaced its loss") as caught:
        learner.train(the_round, study.tensors, Reports())
    assert caught.value.kind == "crash"
