"""Another site's network on this site's cases, with the real nnU-Net; and what is refused."""

import copy

import numpy as np
import pytest
from synthetic import DATASET, Reports, task

from fedfs.errors import DatasetError, MalformedError, TensorError
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.tensors.canonical import weights_sha256, write_safetensors

pytestmark = [
    pytest.mark.nnunet,
    pytest.mark.usefixtures("no_workers"),
    pytest.mark.xdist_group("other-model"),
]


@pytest.fixture(scope="module")
def home(study, tmp_path_factory):
    """Settings of a site that has its final model, and that model's scores and weights."""
    settings = study.site(tmp_path_factory.mktemp("site"))
    learner = NnUNetLearner(settings)
    learner.prepare(study.plans, study.fingerprint, Reports())
    trained = learner.train(
        task(n_epochs=2, total_epochs=2, iterations=8), study.tensors, Reports()
    )
    final = task(
        1,
        first_epoch=2,
        n_epochs=0,
        total_epochs=2,
        weights_sha256=weights_sha256(trained.tensors),
    )
    own = learner.finish(final, trained.tensors, Reports())
    learner.close()
    return settings, own, trained.tensors


def restarted(study, home):
    """The learner of a site's next process, which has adopted the plan again."""
    learner = NnUNetLearner(home[0])
    learner.take_over({**study.plans, "dataset_name": DATASET})
    return learner


@pytest.fixture
def tensors(home, tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, home[2])
    return path


def test_the_same_network_scores_as_in_the_sites_own_validation(study, home, tensors):
    settings, own, _ = home
    found = restarted(study, home).score(study.plans, tensors, Reports())
    assert found.n_cases == own.n_cases > 0
    assert set(found.classes) == set(own.classes)
    for name, score in found.classes.items():
        assert score.dice == pytest.approx(own.classes[name].dice, abs=0.03)
    assert not list(settings.state_dir.glob("other-model-*"))


def test_plans_of_another_site_that_are_refused(study, home, tensors):
    learner = restarted(study, home)
    configuration = study.plans["configurations"]["2d"]

    def changed(**changes):
        plans = copy.deepcopy(study.plans)
        plans["configurations"]["2d"].update(changes)
        return plans

    architecture = configuration["architecture"]
    elsewhere = {**architecture, "network_class_name": "os.system"}
    arguments = architecture["arch_kwargs"]
    huge = {
        **architecture,
        "arch_kwargs": {
            **arguments,
            "features_per_stage": [40_000] * arguments["n_stages"],
        },
    }
    for plans in (
        {},
        {"plans_name": "../up"},
        {**study.plans, "plans_name": "../up"},
        changed(architecture=elsewhere),
        changed(architecture=huge),
        changed(preprocessor_name="builtins.eval"),
    ):
        with pytest.raises(MalformedError):
            learner.score(plans, tensors, Reports())


@pytest.mark.usefixtures("in_one_process")
def test_tensors_that_are_not_the_networks_are_refused(study, home, tmp_path):
    path = tmp_path / "model.safetensors"
    name, value = max(home[2].items())
    write_safetensors(path, {**home[2], name: np.zeros((*value.shape, 2), np.float32)})
    with pytest.raises(TensorError):
        restarted(study, home).score(study.plans, path, Reports())


def test_without_a_validation_of_its_own_a_site_cannot_score(study, tensors, tmp_path):
    learner = NnUNetLearner(study.site(tmp_path))
    with pytest.raises(DatasetError, match="finished.json cannot be read"):
        learner.score(study.plans, tensors, Reports())
