"""Cases that cannot be used: a site stops at them and names them, or goes on without."""

import json
import shutil
import time

import numpy as np
import pytest
import SimpleITK
from synthetic import DATASET, Reports, dataset_json, task, write_dataset

from fedfs.errors import DatasetError, SetupError, TrainingError
from fedfs.exchange.read import open_study
from fedfs.nnunet.data import folds
from fedfs.nnunet.data.broken_cases import cases_of_study
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.settings import Planning
from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.coordinator.amend import Coordinator
from fedfs.roles.coordinator.begin import init_study
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.roster import approve_sites
from fedfs.roles.site.config import JoinConfig, SiteConfig
from fedfs.roles.site.join import join
from fedfs.roles.site.run import run_site
from fedfs.store import open_store

pytestmark = pytest.mark.usefixtures("no_workers")

CASES = [f"case_{i:03d}" for i in range(6)]
OWN_PLANNING = Planning(
    dataset_json={**dataset_json(), "label_order": ["background", "shell", "core"]},
    dataset_name="Dataset800_Study",
    seed=1,
    plans_name="ownPlans",
    gpu_memory_target_gb=0.1,
    planner_options={"UNet_base_num_features": 8, "UNet_max_features_2d": 16},
)


def rewrite(path, change=lambda array: array, spacing=(1.0, 1.0, 1.0)):
    changed = change(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))
    image = SimpleITK.GetImageFromArray(changed)
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path))


def with_label_nine(array):
    array[0, 0, 0] = 9
    return array


def image(folder, case, channel=0):
    return folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"


def label(folder, case):
    return folder / "labelsTr" / f"{case}.nii.gz"


def truncate(path):
    """Half a file, as an interrupted copy leaves it: ITK reads it, with zeros for the rest."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    """One byte, which ITK does not notice either."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


BREAK = {
    "no image": (lambda f, c: image(f, c).write_bytes(b"not an image"), "cannot be processed"),
    "half an image": (lambda f, c: truncate(image(f, c, 1)), "_0001.nii.gz is damaged or ends"),
    "half a label": (lambda f, c: truncate(label(f, c)), f"{CASES[2]}.nii.gz is damaged or ends"),
    "a damaged image": (lambda f, c: damage(image(f, c)), "_0000.nii.gz is damaged or ends"),
    "shape of the label": (lambda f, c: rewrite(label(f, c), lambda a: a[1:]), "has shape"),
    "unknown label": (lambda f, c: rewrite(label(f, c), with_label_nine), "holds 9, which"),
    "spacing of a channel": (
        lambda f, c: rewrite(image(f, c, 1), spacing=(1.0, 1.0, 2.0)),
        "different shapes or spacings",
    ),
    "shape of a channel": (
        lambda f, c: rewrite(image(f, c, 1), lambda a: a[1:]),
        "different shapes or spacings",
    ),
    "missing channel": (lambda f, c: image(f, c, 1).unlink(), "other numbers of images|1 images"),
    "missing images": (
        lambda f, c: [image(f, c, i).unlink() for i in (0, 1)],
        "no image for the label|0 images",
    ),
    "missing label": (lambda f, c: label(f, c).unlink(), f"lacks (these labels: )?{CASES[2]}"),
}


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory):
    """A dataset of six cases and two channels; copied, never changed."""
    raw = tmp_path_factory.mktemp("two")
    folder = write_dataset(raw, len(CASES), shape=(6, 16, 16))
    for case in CASES:
        shutil.copy(image(folder, case), image(folder, case, 1))
    content = dataset_json(len(CASES), channel_names={"0": "T1", "1": "T2"})
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def copied(folder, raw):
    shutil.rmtree(raw / DATASET, ignore_errors=True)
    return shutil.copytree(folder, raw / DATASET)


def site(study, folder, paths=None, **changes):
    return NnUNetLearner(study.site(folder, **({"paths": paths} if paths else {}), **changes))


def listed(folder):
    return json.loads((folder / "state" / "broken-cases.json").read_text())


@pytest.mark.parametrize("what", BREAK)
def test_a_case_that_cannot_be_used_stops_the_site_or_is_left_out(
    study, tmp_path, paths, two_channels, what, caplog
):
    folder = copied(two_channels, paths.raw)
    breaks, reason = BREAK[what]
    breaks(folder, CASES[2])
    with pytest.raises((TrainingError, DatasetError), match=f"{CASES[2]}.*") as caught:
        site(study, tmp_path, paths).fingerprint(Reports())
    assert caught.match(reason)
    assert not (tmp_path / "state").exists()

    learner = site(study, tmp_path, paths, skip_broken=True)
    found = learner.fingerprint(Reports())
    assert found.n_cases == len(found.geometry) == learner.dataset_facts()["n_cases"] == 5
    assert list(listed(tmp_path)) == [CASES[2]]
    assert CASES[2] in caplog.text
    assert any(len(r.args) and CASES[2] in str(r.args) for r in caplog.records)


def test_the_first_case_may_be_a_broken_one_and_workers_go_on(study, tmp_path, paths, two_channels):
    folder = copied(two_channels, paths.raw)
    image(folder, CASES[0]).write_bytes(b"not an image")
    rewrite(label(folder, CASES[4]), with_label_nine)
    with pytest.raises(DatasetError, match=f"no reader of nnU-Net reads .*{CASES[0]}"):
        site(study, tmp_path, paths).fingerprint(Reports())
    changes = {"skip_broken": True, "num_processes": 2, "fold": "all"}
    assert site(study, tmp_path, paths, **changes).fingerprint(Reports()).n_cases == 4
    assert list(listed(tmp_path)) == [CASES[0], CASES[4]]


def test_it_is_as_if_the_dataset_did_not_have_them(study, tmp_path, paths):
    """Fingerprint, preprocessing, splits, training and validation; nnUNet_raw is only read."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    for place, n_cases in ((whole, 6), (part, 6)):
        write_dataset(place / "raw", n_cases, shape=(12, 32, 32))
    truncate(image(part / "raw" / DATASET, CASES[1]))
    for path in (image, label):
        path(whole / "raw" / DATASET, CASES[1]).unlink()
    before = {path: path.read_bytes() for path in part.rglob("*.*")}
    fingerprints, n_trained = [], []
    for place in (whole, part):
        changes = {"skip_broken": place == part}
        learner = site(study, place, paths_of(study, place), **changes)
        fingerprints.append(learner.fingerprint(Reports()))
        learner.close()
        learner = site(study, place, paths_of(study, place), **changes)  # a start later
        learner.prepare(study.plans, study.fingerprint, Reports())
        the_round = task(0, total_epochs=1, iterations=1, weights_sha256="x")
        trained = learner.train(the_round, study.tensors, Reports())
        n_trained.append(trained.n_training_cases)
        if place == part:
            end = task(1, first_epoch=1, n_epochs=0, total_epochs=1, iterations=1)
            assert learner.finish(end, trained.tensors, Reports()).n_cases == 1
            assert CASES[1] not in learner._final_model().validated_cases()
        learner.close()
    assert [f.n_cases for f in fingerprints] == [5, 5]
    assert fingerprints[0].channels == fingerprints[1].channels
    assert n_trained == [4, 4]
    assert before == {path: path.read_bytes() for path in before}
    for kind in ("fedfsPlans_2d", "gt_segmentations"):
        names = [
            {p.name for p in (place / "preprocessed" / DATASET / kind).iterdir()}
            for place in (whole, part)
        ]
        assert names[0] == names[1]
        assert not any(CASES[1] in name for name in names[1])
    splits = [
        (place / "preprocessed" / DATASET / "splits_final.json").read_text()
        for place in (whole, part)
    ]
    assert splits[0] == splits[1]


def paths_of(study, place):
    from fedfs.nnunet.system.environment import NnUNetPaths  # noqa: PLC0415  same as in synthetic

    for name in ("preprocessed", "results"):
        (place / name).mkdir(exist_ok=True)
    return NnUNetPaths(*(place / name for name in ("raw", "preprocessed", "results")))


def test_a_repaired_case_comes_back_when_the_cases_are_measured_and_not_later(
    study, tmp_path, paths
):
    folder = write_dataset(paths.raw, 6, shape=(12, 32, 32))
    broken = image(folder, CASES[3])
    whole = broken.read_bytes()
    truncate(broken)
    learner = site(study, tmp_path, paths, skip_broken=True)
    assert learner.fingerprint(Reports()).n_cases == 5
    broken.write_bytes(whole)
    # The fingerprint may have been published: the next starts go by the list, whatever they say.
    for skip in (True, False):
        later = site(study, tmp_path, paths, skip_broken=skip)
        assert later.dataset_facts()["n_cases"] == 5
        later.prepare(study.plans, study.fingerprint, Reports())
        assert not (paths.preprocessed / DATASET / "fedfsPlans_2d" / f"{CASES[3]}.pkl").exists()
    # A fingerprint is made only where none has been published.
    assert later.fingerprint(Reports()).n_cases == 6
    assert listed(tmp_path) == {}
    assert later.dataset_facts()["n_cases"] == 6


def test_a_case_that_breaks_after_it_was_measured_is_not_trained_on(study, tmp_path, paths):
    folder = write_dataset(paths.raw, 6, shape=(12, 32, 32))
    learner = site(study, tmp_path, paths, skip_broken=True)
    assert learner.fingerprint(Reports()).n_cases == 6
    truncate(image(folder, CASES[3]))
    with pytest.raises(TrainingError, match=CASES[3]) as caught:
        site(study, tmp_path, paths).prepare(study.plans, study.fingerprint, Reports())
    assert caught.value.kind == "broken-case"
    learner.prepare(study.plans, study.fingerprint, Reports())
    assert listed(tmp_path)[CASES[3]]["step"] == "later"
    trained = learner.train(task(0, total_epochs=1, iterations=1), study.tensors, Reports())
    assert trained.n_training_cases == 4
    learner.close()


def test_a_plan_of_its_own_is_made_without_them_and_stays_the_same(study, tmp_path, paths):
    folder = write_dataset(paths.raw, 6, shape=(12, 32, 32))
    truncate(image(folder, CASES[5]))
    changes = {"skip_broken": True, "planning": OWN_PLANNING}
    made = site(study, tmp_path, paths, **changes).plan(Reports())
    assert made.n_cases == 5
    truncate(image(folder, CASES[0]))  # later
    learner = site(study, tmp_path, paths, **changes)
    assert learner.plan(Reports()) == made
    learner = site(study, tmp_path, paths, **changes, fold="all")
    learner.prepare(made.plans, made.fingerprint, Reports())
    assert sorted(listed(tmp_path)) == [CASES[0], CASES[5]]
    assert learner.plan(Reports()) == made


def test_all_cases_broken_is_an_error(study, tmp_path, paths):
    folder = write_dataset(paths.raw, 2, shape=(4, 8, 8))
    for case in CASES[:2]:
        rewrite(label(folder, case), with_label_nine)
    learner = site(study, tmp_path, paths, skip_broken=True, fold="all")
    with pytest.raises(DatasetError, match="None of the 2 cases of Dataset901_Ellipsoids can be"):
        learner.fingerprint(Reports())
    for case in CASES[:2]:
        label(folder, case).unlink()
    with pytest.raises(DatasetError, match="None of the 2 cases"):
        learner.dataset_facts()


def test_what_remains_is_divided_whenever_a_case_breaks(study, tmp_path, paths):
    """Five cases are for nnU-Net to divide; four, and then three, are too few for it."""
    folder = write_dataset(paths.raw, 5, shape=(4, 8, 8))
    truncate(label(folder, CASES[2]))
    learner = site(study, tmp_path, paths, skip_broken=True)
    assert learner.fingerprint(Reports()).n_cases == 4
    splits = paths.preprocessed / DATASET / folds.FILE
    left = [case for case in CASES[:5] if case != CASES[2]]
    assert json.loads(splits.read_text()) == folds.of_few(left)
    truncate(label(folder, CASES[0]))
    learner.prepare(study.plans, study.fingerprint, Reports())
    assert json.loads(splits.read_text()) == folds.of_few(left[1:])
    the_task = task(0, weights_sha256="x", iterations=1, total_epochs=1)
    assert learner.train(the_task, study.tensors, Reports()).n_training_cases == 2
    learner.close()


def test_splits_that_leave_nothing_without_a_broken_case_are_noticed_before_anything_is_published(
    study, tmp_path, paths
):
    folder = write_dataset(paths.raw, 5, shape=(4, 8, 8))
    truncate(label(folder, CASES[4]))
    splits = [{"train": CASES[:4], "val": CASES[4:5]}]
    (folder / folds.FILE).write_text(json.dumps(splits))
    with pytest.raises(SetupError, match="leaves nothing to use of"):
        site(study, tmp_path, paths, skip_broken=True).fingerprint(Reports())
    assert (
        site(study, tmp_path, paths, skip_broken=True, fold="all").fingerprint(Reports()).n_cases
        == 4
    )


@pytest.mark.parametrize("of_its_own", [False, True])
def test_splits_stay_and_a_case_that_breaks_later_is_passed_over(
    study, tmp_path, paths, of_its_own
):
    folder = write_dataset(paths.raw, 6, shape=(12, 32, 32))
    if of_its_own:
        splits = [{"train": CASES[:4], "val": CASES[4:6]}]
        (folder / folds.FILE).write_text(json.dumps(splits))
    learner = site(study, tmp_path, paths, skip_broken=True)
    learner.fingerprint(Reports())
    learner.prepare(study.plans, study.fingerprint, Reports())
    first = task(0, weights_sha256="x", iterations=1, n_epochs=1, total_epochs=2)
    result = learner.train(first, study.tensors, Reports())
    learner.close()
    file = paths.preprocessed / DATASET / folds.FILE
    made = json.loads(file.read_text())
    trained_on, (lost, *_) = made[0]["train"], made[0]["train"]
    assert result.n_training_cases == len(trained_on)
    label(folder, lost).unlink()
    learner = site(study, tmp_path, paths, skip_broken=True)
    learner.prepare(study.plans, study.fingerprint, Reports())
    second = task(1, weights_sha256="y", iterations=1, first_epoch=1, n_epochs=1, total_epochs=2)
    result = learner.train(second, result.tensors, Reports())
    assert result.n_training_cases == len(trained_on) - 1
    learner.close()
    assert json.loads(file.read_text()) == made
    assert listed(tmp_path)[lost]["step"] == "later"


def test_half_an_image_that_is_not_compressed_is_noticed(study, tmp_path, paths):
    folder = write_dataset(paths.raw, 5, shape=(4, 8, 8), file_ending=".nii")
    assert site(study, tmp_path, paths).fingerprint(Reports()).n_cases == 5
    truncate(folder / "imagesTr" / f"{CASES[1]}_0000.nii")
    with pytest.raises(TrainingError, match=f"Case {CASES[1]}: .*ends early: it has 688 of 1376"):
        site(study, tmp_path, paths).fingerprint(Reports())


def test_a_site_without_the_option_keeps_no_list(study, tmp_path, paths):
    write_dataset(paths.raw, 5, shape=(4, 8, 8))
    site(study, tmp_path, paths).fingerprint(Reports())
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["announced-cases.json"]
    assert len(RawDataset.open(paths, DATASET).cases) == 5


def test_numbers_do_not_tell_of_what_was_left_out(study, tmp_path, paths):
    """The fingerprint is that of the other cases, to the last bit."""
    folder = write_dataset(paths.raw, 6, shape=(4, 8, 8))
    rewrite(image(folder, CASES[0]), lambda array: array * 1000)
    rewrite(label(folder, CASES[0]), with_label_nine)
    found = site(study, tmp_path, paths, skip_broken=True).fingerprint(Reports())
    for path in (image, label):
        path(folder, CASES[0]).unlink()
    alone = site(study, tmp_path, paths, state_dir=tmp_path / "other").fingerprint(Reports())
    assert found.channels == alone.channels
    assert np.isfinite(found.channels[0].quantiles).all()


def test_join_and_run_count_the_same_cases_and_the_store_hears_no_names(
    tmp_path, paths, monkeypatch, caplog
):
    folder = write_dataset(paths.raw, 6, shape=(4, 8, 8))
    truncate(image(folder, CASES[4]))
    for name, value in paths.variables().items():
        monkeypatch.setenv(name, value)
    store, skipping = str(tmp_path / "store"), HostSettings(num_processes=1, skip_broken=True)
    options = StudyOptions("x", {**dataset_json(6)}, configuration="2d", min_sites=1)
    init_study(open_store(store, must_exist=False), tmp_path, options, clock=time.time, versions={})
    charter, request = join(JoinConfig(store, "north", DATASET, tmp_path, host=skipping), Reports())
    assert request.n_cases == 5
    assert f"left out: Case {CASES[4]}: {CASES[4]}_0000.nii.gz is damaged" in caplog.text
    approve_sites(Coordinator(open_store(store), tmp_path, clock=time.time), ["north"])
    run = {"store": store, "site": "north", "home": tmp_path, "once": True}
    with pytest.raises(TrainingError, match=f"Case {CASES[4]}"):
        run_site(SiteConfig(**run, host=HostSettings(num_processes=1)), Reports())
    run_site(SiteConfig(**run, host=skipping), Reports())
    state = open_study(open_store(store)).state
    assert state.joins["north"].n_cases == state.fingerprints["north"].n_cases == 5
    assert "case_" not in repr(state)
    assert (paths.results / "fedfs" / charter.study / "north" / "broken-cases.json").is_file()

    # Whoever joins again finds the list as it was when the fingerprint was published.
    truncate(image(folder, CASES[0]))
    again = JoinConfig(store, "north", DATASET, tmp_path, host=skipping)
    assert join(again, Reports())[1].n_cases == 5


def add_cases(folder, *cases):
    for case in cases:
        shutil.copy(image(folder, CASES[0]), image(folder, case))
        shutil.copy(label(folder, CASES[0]), label(folder, case))


def test_a_study_goes_on_with_the_cases_that_were_announced(study, tmp_path, paths, caplog):
    """Also beside a case that breaks, one that comes without its label, and splits of all."""
    folder = write_dataset(paths.raw, 6, shape=(4, 8, 8))
    truncate(label(folder, CASES[5]))
    learner = site(study, tmp_path, paths, skip_broken=True)
    assert learner.fingerprint(Reports()).n_cases == 5
    add_cases(folder, "new_1", "new_2")
    label(folder, "new_2").unlink()
    splits = [{"train": [*CASES[:4], "new_1"], "val": [*CASES[4:], "new_2"]}]
    (folder / folds.FILE).write_text(json.dumps(splits))
    learner = site(study, tmp_path, paths, skip_broken=True)
    learner.prepare(study.plans, study.fingerprint, Reports())
    assert learner.dataset_facts()["n_cases"] == 5
    assert "goes on without new_1, new_2, added after it announced its data" in caplog.text
    made = {path.stem for path in (paths.preprocessed / DATASET / "fedfsPlans_2d").glob("*.pkl")}
    assert made == set(CASES[:5])
    assert list(listed(tmp_path)) == [CASES[5]]
    taken = cases_of_study(RawDataset.listed(paths, DATASET), tmp_path / "state")
    assert taken == set(CASES[:5])  # which models are compared on, too
    (folder / folds.FILE).unlink()
    label(folder, CASES[5]).unlink()
    add_cases(folder, CASES[5], "new_2")  # for another study, all are measured
    assert site(study, tmp_path, paths).fingerprint(Reports()).n_cases == 8


def test_a_plan_of_its_own_stays_with_the_cases_that_were_announced(study, tmp_path, paths):
    folder = write_dataset(paths.raw, 6, shape=(4, 16, 16))
    made = site(study, tmp_path, paths, planning=OWN_PLANNING).plan(Reports())
    add_cases(folder, "new_1")
    learner = site(study, tmp_path, paths, planning=OWN_PLANNING)
    assert learner.plan(Reports(), is_published=True) == made
    assert learner.initial_weights().keys() == made.tensors.keys()
    for file in (tmp_path / "state").glob("own_*"):
        file.unlink()
    assert learner.plan(Reports(), is_published=True) == made
    assert learner.plan(Reports()).n_cases == 7
