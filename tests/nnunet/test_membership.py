"""How well weights fit cases, models for comparison, and the search by a gradient, with nnU-Net."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from synthetic import Reports, task

from fedfs.nnunet.membership.case_fits import CaseFits, _of_labels, _of_regions
from fedfs.nnunet.membership.inversion import _likeness, invert
from fedfs.nnunet.membership.references import train_reference
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.tensors.canonical import weights_sha256

pytestmark = [
    pytest.mark.nnunet,
    pytest.mark.usefixtures("no_workers"),
    pytest.mark.xdist_group("membership"),
]


@pytest.fixture(scope="module")
def site(study, tmp_path_factory):
    """Settings, plan and cases of a site, and its cases measured by the study's first weights."""
    folder = tmp_path_factory.mktemp("site")
    learner = NnUNetLearner(study.site(folder))
    learner.prepare(study.plans, study.fingerprint, Reports())
    meter = CaseFits(*learner.prepared(), results=folder / "other")
    meter.load(study.tensors)
    return learner.prepared(), meter


def test_the_loss_of_a_case_is_nnunets_own_over_all_of_its_slices(site):
    _, meter = site
    assert (len(meter.training), len(meter.validation)) == (4, 2)
    image, target = meter.read(meter.training[0])  # as large as the patch
    with torch.no_grad():
        logits = meter.trainer.network(image.transpose(0, 1)).transpose(0, 1)
    fit = meter.fit(meter.training[0])
    assert fit.loss == pytest.approx(float(meter.loss(logits[None], target[None])), abs=1e-5)
    assert fit == meter.fit(meter.training[0])


def test_a_case_that_patches_do_not_divide_has_every_voxel_once(site, monkeypatch):
    """A network that returns the intensity gives it back for each voxel."""
    _, meter = site
    image = torch.rand(1, 3, 45, 20)
    monkeypatch.setattr(meter.trainer, "network", lambda x: x.expand(-1, 3, -1, -1))
    assert torch.allclose(meter._logits(image), image.expand(3, -1, -1, -1))


def test_margin_and_dice_of_labels_pass_over_what_is_ignored():
    logits = torch.tensor([[0.0, 0.0, 2.0, 9.0], [3.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    true = torch.tensor([[1, 1, 0, 3]])
    margin, dice = _of_labels(logits, true, 3)
    first = 3 - math.log(2)  # against two others with 0
    second = 1 - math.log(1 + math.exp(2))
    assert margin == pytest.approx((first + second) / 2)  # the third is background for both
    assert dice == pytest.approx((2 / 3 + 0) / 2)
    assert _of_labels(logits[:, 2:3], true[:, 2:3], 3)[1] is None


def test_margin_and_dice_of_regions_pass_over_what_is_ignored():
    logits = torch.tensor([[2.0, -1.0, -5.0, 7.0], [1.0, -3.0, -5.0, 7.0]])
    true = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).bool()
    margin, dice = _of_regions(logits, true, 9)
    assert margin == pytest.approx(((2 - 1) / 2 + (-1 + 3) / 2) / 2)
    assert dice == pytest.approx((2 / 3 + 0) / 2)


def test_a_reference_is_trained_on_its_cases_alone_and_goes_on_from_its_checkpoint(
    study, site, tmp_path
):
    settings, plans, dataset = site[0]
    names = [case.name for case in dataset.cases]
    round_0 = task(0, total_epochs=1, weights_sha256="0", iterations=2)
    data = next(settings.paths.preprocessed.glob("Dataset*/fedfsPlans_2d"))
    hidden = [path for name in names[3:] for path in data.glob(f"{name}*")]
    moved = {path: path.rename(tmp_path / path.name) for path in hidden}
    assert len(hidden) == 9

    def train():
        return train_reference(
            settings, plans, dataset, cases=names[:3], task=round_0, tensors=study.tensors,
            folder=tmp_path / "reference", on_progress=reports,
        )  # fmt: skip

    try:
        reports = Reports()
        once = train()
    finally:
        for path, place in moved.items():
            place.rename(path)
    assert reports[-1]["done"] == reports[-1]["total"] == 2
    assert weights_sha256(once) != weights_sha256(study.tensors)
    reports = Reports()
    assert weights_sha256(train()) == weights_sha256(once)
    assert reports == []
    assert not list(settings.paths.results.rglob("fold_all"))


def test_a_patch_is_searched_by_its_gradient(study, site):
    _, meter = site
    reports = Reports()
    found = invert(
        meter, meter.training[0], meter.validation, version=0, on_progress=reports, n_steps=4
    )
    assert (found.version, found.shape, found.n_others) == (0, (32, 32), 2)
    assert 0 < found.gradient_cosine < 1
    assert found.from_labels.correlation > found.others.correlation
    assert all(math.isfinite(v) for v in dataclasses.asdict(found.found).values())
    assert len(reports) == 4
    assert all(parameter.grad is None for parameter in meter.trainer.network.parameters())


def test_a_patch_is_as_like_another_as_the_best_linear_change_of_it():
    patch = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 16, 16)))
    same = _likeness(patch, 3 - 2 * patch)
    assert same.correlation == pytest.approx(-1)
    assert same.ssim == pytest.approx(1)
    assert same.psnr_db > 100
    assert _likeness(patch, torch.zeros(1, 16, 16)).correlation == 0
