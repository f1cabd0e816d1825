"""What a site had before the study stays, and what the study leaves is what nnU-Net would leave."""

import hashlib
import json
import os
import re
import shutil
import stat

import pytest
import torch
from life import live, settings
from synthetic import DATASET, Reports, dataset_json, make_paths, task, write_dataset

from fedfs.errors import SetupError
from fedfs.nnunet.data import reuse
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.preprocess import adopt
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.plans import rename_plans
from fedfs.nnunet.system.environment import NnUNetPaths, set_variables
from fedfs.nnunet.train import model_folders
from support.one_process import fork_pools

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers", "forked_pools")]

MODEL = "nnUNetTrainer__fedfsPlans__2d"
DATA = "fedfsPlans_2d"
ONE = task(0, weights_sha256="0", total_epochs=1, iterations=1)
END = task(1, weights_sha256="1", first_epoch=1, n_epochs=0, total_epochs=1, iterations=1)


def snapshot(folder):
    """Return path -> (time of the last change, SHA-256) of all that lies in a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def names(folder):
    found = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return {re.sub(r"training_log_[\d_]+", "training_log_TIME", name) for name in found}


def by_hand(study, paths, *, fold=0, train=True):
    """Preprocess with nnU-Net's own functions, and train as ``nnUNetv2_train`` does."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import (  # noqa: PLC0415  heavy
        DefaultPreprocessor,
    )
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415  same

    room = paths.preprocessed / DATASET
    with set_variables(paths.variables()):
        DefaultPreprocessor(verbose=False).run(DATASET, "2d", "fedfsPlans", num_processes=1)
        if not train:
            return
        shutil.copytree(paths.raw / DATASET / "labelsTr", room / "gt_segmentations")
        (room / "dataset_fingerprint.json").write_text(json.dumps(study.fingerprint))
        trainer = get_trainer_from_args(
            DATASET, "2d", fold, "nnUNetTrainer", "fedfsPlans", device=torch.device("cpu")
        )
        trainer.num_epochs = trainer.num_iterations_per_epoch = 1
        trainer.num_val_iterations_per_epoch = 1
        trainer.run_training()
        trainer.perform_actual_validation()


def with_plan(study, paths):
    """Put the study's plan where nnU-Net looks for it, as an operator does who was given it."""
    dataset = RawDataset.open(paths, DATASET)
    room = paths.preprocessed / DATASET
    room.mkdir(parents=True)
    adopted = adopt(study.plans, dataset, "SimpleITKIO")
    (room / "fedfsPlans.json").write_text(json.dumps(adopted))
    shutil.copy(dataset.folder / "dataset.json", room)
    return room


@pytest.fixture(scope="module")
def trained_by_hand(study, tmp_path_factory):
    """nnU-Net's folders of a site that trained fold 1 by itself with the study's plan."""
    made = make_paths(tmp_path_factory.mktemp("by-hand"))
    paths = NnUNetPaths(study.paths.raw, made.preprocessed, made.results)
    with_plan(study, paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        fork_pools(patch)
        by_hand(study, paths, fold=1)
    return paths


@pytest.fixture
def site(study, trained_by_hand, tmp_path):
    """Return a function that gives settings of the study at that site."""
    shutil.copytree(trained_by_hand.preprocessed, tmp_path / "preprocessed")
    shutil.copytree(trained_by_hand.results, tmp_path / "results")
    return lambda **changes: study.site(tmp_path, **changes)


def run(study, site):
    learner = NnUNetLearner(site)
    learner.prepare(study.plans, study.fingerprint, Reports())
    trained = learner.train(ONE, study.tensors, Reports())
    learner.finish(END, trained.tensors, Reports())
    learner.close()
    return learner.model_folder()


def test_the_raw_dataset_is_only_read(paths, tmp_path):
    """Held against its names, times and contents; and by file modes, if these hold for us."""
    write_dataset(paths.raw, 5, shape=(6, 32, 32))
    before = snapshot(paths.raw)
    everything = [paths.raw, *paths.raw.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        live(paths, tmp_path, DATASET, dataset_json())
    finally:
        for path in everything:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert snapshot(paths.raw) == before


def test_what_is_left_is_what_nnunet_leaves(study, trained_by_hand, tmp_path):
    """Names of files, apart from two marks, which are hidden, and the scores of cases."""
    site = study.site(tmp_path, fold="1")
    run(study, site)
    theirs, ours = (names(p.preprocessed / DATASET) for p in (trained_by_hand, site.paths))
    assert ours - theirs == {f"{DATA}/.fedfs/made_with.json"}
    assert theirs - ours == set()
    theirs, ours = (names(p.results / DATASET) for p in (trained_by_hand, site.paths))
    cases = f"{MODEL}/fold_1/validation/case_scores.json"
    assert ours - theirs == {f"{MODEL}/fold_1/{model_folders.MARK}", cases}
    assert theirs - ours == set()
    assert f"{MODEL}/fold_1/validation/summary.json" in ours


def prepare(study, site):
    """Return how many cases were there already, and how many are in the end."""
    report = Reports()
    NnUNetLearner(site).prepare(study.plans, study.fingerprint, report)
    return report[0]["done"], report[-1]["done"]


def test_what_nnunet_preprocessed_with_this_plan_is_used(study, site):
    """The operator was given the plan, and did not wait for fedfs."""
    folder = site().paths.preprocessed / DATASET / DATA
    before = snapshot(folder)
    for _ in range(2):  # also when it starts again
        assert prepare(study, site()) == (6, 6)
    assert {k: v for k, v in snapshot(folder).items() if ".fedfs" not in k} == before


def test_what_nnunet_preprocesses_anew_is_used(study, tmp_path):
    """``nnUNetv2_preprocess`` removes the folder that fedfs made, and its marker."""
    site = study.site(tmp_path)
    assert prepare(study, site) == (0, 6)
    folder = site.paths.preprocessed / DATASET / DATA
    by_hand(study, site.paths, train=False)
    assert not (folder / reuse.HIDDEN).exists()
    before = snapshot(folder)
    assert prepare(study, site) == (6, 6)
    assert {k: v for k, v in snapshot(folder).items() if ".fedfs" not in k} == before


def test_cases_that_are_missing_are_added(study, site):
    folder = site().paths.preprocessed / DATASET / DATA
    for name in ("case_002.b2nd", "case_002_seg.b2nd", "case_002.pkl", "case_004.pkl"):
        (folder / name).unlink()
    assert prepare(study, site()) == (4, 6)


def under_another_name(study, **changes):
    """The study's plan as that of a study which goes on from it."""
    plans = rename_plans(study.plans, dataset_name="Dataset801_Next", plans_name="nextPlans")
    plans["configurations"]["2d"] |= changes
    return plans


def test_what_the_same_plan_of_another_name_made_is_copied(study, site):
    room = site().paths.preprocessed / DATASET
    before = snapshot(room / DATA)
    age(room / DATA / "case_004.pkl", ns=1)  # older than its images
    report = Reports()
    NnUNetLearner(site()).prepare(under_another_name(study), study.fingerprint, report)
    assert (report[0]["done"], report[-1]["done"]) == (5, 6)
    for name in ("case_000.b2nd", "case_000_seg.b2nd", "case_000.pkl"):
        assert (room / "nextPlans_2d" / name).read_bytes() == (room / DATA / name).read_bytes()
    assert snapshot(room / DATA).keys() == before.keys()
    assert not list((room / "nextPlans_2d" / reuse.HIDDEN / "partial").glob("*"))


def test_what_another_plan_made_is_not_copied(study, site):
    report = Reports()
    plans = under_another_name(study, spacing=[1.5, 1.5])
    NnUNetLearner(site()).prepare(plans, study.fingerprint, report)
    assert report[0]["done"] == 0


def age(path, *, ns):
    os.utime(path, ns=(ns, ns))


def older_than_the_plan(room):
    age(room / DATA / "case_003_seg.b2nd", ns=(room / "fedfsPlans.json").stat().st_mtime_ns - 1)


def plan_put_there_later(room):
    age(room / "fedfsPlans.json", ns=(room / DATA / "case_000.pkl").stat().st_mtime_ns + 10**9)


def no_plan(room):
    (room / "fedfsPlans.json").unlink()


UNSURE = {
    "older": (older_than_the_plan, "case_003 is older than .*fedfsPlans.json"),
    "a later plan": (plan_put_there_later, "case_000 is older than .*fedfsPlans.json"),
    "no plan": (no_plan, "case_000 is older than .*fedfsPlans.json"),
    "half": (lambda room: (room / DATA / "case_001.b2nd").unlink(), "case_001.b2nd is missing"),
    "other": (lambda room: (room / DATA / "case_001.npz").touch(), "case_001.npz belongs to no"),
}


@pytest.mark.parametrize("why", UNSURE)
def test_what_may_be_of_another_plan_is_neither_used_nor_removed(study, site, why):
    change, message = UNSURE[why]
    room = site().paths.preprocessed / DATASET
    change(room)
    before = snapshot(room / DATA)
    for _ in range(2):  # the plan is there the second time
        with pytest.raises(SetupError, match=message) as caught:
            prepare(study, site())
        assert "move it away" in caught.value.hint
        assert str(room / DATA) in str(caught.value)
    assert snapshot(room / DATA) == before
    (room / DATA).rename(room / "moved-away")
    assert prepare(study, site()) == (0, 6)


def test_what_is_older_than_its_images_is_not_used(study, trained_by_hand, tmp_path):
    paths = make_paths(tmp_path)
    shutil.copytree(study.paths.raw, paths.raw, dirs_exist_ok=True)
    shutil.copytree(trained_by_hand.preprocessed, paths.preprocessed, dirs_exist_ok=True)
    made = (paths.preprocessed / DATASET / DATA / "case_001.pkl").stat().st_mtime_ns
    for sub in ("imagesTr/case_001_0000.nii.gz", "labelsTr/case_001.nii.gz"):
        age(paths.raw / DATASET / sub, ns=made + 10**9)
        with pytest.raises(SetupError, match=rf"case_001 is older than .*{sub}"):
            prepare(study, settings(paths, tmp_path, DATASET))
        age(paths.raw / DATASET / sub, ns=made - 10**9)
    assert prepare(study, settings(paths, tmp_path, DATASET)) == (6, 6)


def test_what_nnunet_made_is_not_cleared_later_either(study, site):
    prepare(study, site())
    folder = site().paths.preprocessed / DATASET / DATA
    (folder / "gone.pkl").touch()
    with pytest.raises(SetupError, match="gone.pkl belongs to no case"):
        prepare(study, site())
    (folder / "gone.pkl").unlink()
    marker = folder / reuse.HIDDEN / "made_with.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "sha256": "other"}))
    before = snapshot(folder)
    with pytest.raises(SetupError, match="the dataset has changed since"):
        prepare(study, site())
    assert snapshot(folder) == before


def test_a_kill_while_a_folder_of_ours_is_cleared_leaves_it_ours(study, tmp_path, monkeypatch):
    site = study.site(tmp_path)
    prepare(study, site)
    folder = site.paths.preprocessed / DATASET / DATA
    (folder / reuse.HIDDEN / "made_with.json").write_text('{"sha256": "other"}')

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedfs.nnunet.data.reuse.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(study, site)
    assert names(folder) == {".fedfs/made_with.json"}
    assert prepare(study, site) == (0, 6)


def test_a_model_that_the_site_trained_by_itself_is_not_overwritten(study, site):
    """Of the same trainer, plan, configuration and fold."""
    model = site().paths.results / DATASET / MODEL
    before = snapshot(model)
    with pytest.raises(SetupError, match=r"fold_1 holds a model that this study .*\(checkpoint_be"):
        prepare(study, site(fold="1"))
    assert snapshot(model) == before
    (model / "fold_1").rename(model.parent / "mine")
    run(study, site(fold="1", full_validation=False))
    assert {k: v for k, v in before.items() if k.startswith("fold_1/")} == {
        f"fold_1/{k}": v for k, v in snapshot(model.parent / "mine").items()
    }


def test_other_folds_stay_as_they_are(study, site):
    model = site().paths.results / DATASET / MODEL
    before = snapshot(model / "fold_1")
    assert run(study, site(full_validation=False)) == model
    assert snapshot(model / "fold_1") == before
    assert (model / "fold_0" / "checkpoint_final.pth").exists()


def test_a_model_of_another_plan_of_the_same_name_is_not_overwritten(study, site):
    path = site().paths.results / DATASET / MODEL / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"]["batch_size"] += 1
    path.write_text(json.dumps(plans))
    before = snapshot(path.parent)
    for fold in ("0", "1"):
        with pytest.raises(SetupError, match="model of another plan"):
            prepare(study, site(fold=fold))
    assert snapshot(path.parent) == before


def test_a_study_knows_its_model_again_and_no_other_study_takes_it(study, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    model = run(study, study.site(here, full_validation=False))
    assert prepare(study, study.site(here)) == (6, 6)
    with pytest.raises(SetupError, match="a model that this study did not make"):
        prepare(study, study.site(here, state_dir=here / "another-study"))
    mounted = here.rename(tmp_path / "there")
    assert prepare(study, study.site(mounted)) == (6, 6)
    # A model that is trained by hand where ours was moved away from is the site's own.
    fold = mounted / model.relative_to(here) / "fold_0"
    fold.rename(fold.with_name("ours"))
    fold.mkdir()
    (fold / "checkpoint_final.pth").touch()
    with pytest.raises(SetupError, match="a model that this study did not make"):
        prepare(study, study.site(mounted))
