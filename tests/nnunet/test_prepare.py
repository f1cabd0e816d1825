import copy
import json

import pytest
from synthetic import DATASET, Reports, write_dataset

from fedfs.errors import DatasetError, MalformedError, SetupError, TrainingError
from fedfs.nnunet.data import fingerprint, preprocess
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.nnunet_learner import NnUNetLearner

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@pytest.fixture
def room(study, tmp_path):
    """The site's preprocessed folder."""
    return tmp_path / "preprocessed" / DATASET


def prepare(study, folder, *, plans=None, **changes):
    report = Reports()
    learner = NnUNetLearner(study.site(folder, **changes))
    learner.prepare(plans or study.plans, study.fingerprint, report)
    return report


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_plan_data_and_references_lie_where_nnunet_looks(study, tmp_path, room):
    report = prepare(study, tmp_path)
    plans = json.loads((room / "fedfsPlans.json").read_text())
    assert plans == {**study.plans, "dataset_name": DATASET}
    cases = [f"case_{i:03d}" for i in range(6)]
    assert names(room / "fedfsPlans_2d") == {c + ending for c in cases for ending in ENDINGS}
    assert names(room / "gt_segmentations") == {c + ".nii.gz" for c in cases}
    assert (room / "dataset.json").read_text() == (
        study.paths.raw / DATASET / "dataset.json"
    ).read_text()
    assert [(p["done"], p["total"]) for p in report] == [(n, 6) for n in range(7)]


def test_it_is_what_nnunet_would_have_preprocessed(study, tmp_path, room):
    import numpy as np  # noqa: PLC0415  heavy imports only where they are needed
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import (  # noqa: PLC0415  same
        DefaultPreprocessor,
    )
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2  # noqa: PLC0415

    from fedfs.nnunet.system.environment import set_variables  # noqa: PLC0415  same

    prepare(study, tmp_path)
    ours = room / "fedfsPlans_2d"
    kept = ours.rename(room / "ours")
    with set_variables(study.site(tmp_path).paths.variables()):
        DefaultPreprocessor(verbose=False).run(DATASET, "2d", "fedfsPlans", num_processes=1)
    for case in nnUNetDatasetBlosc2.get_identifiers(str(ours)):
        mine, its = (nnUNetDatasetBlosc2(str(f), [case]).load_case(case) for f in (kept, ours))
        assert np.array_equal(mine[0][:], its[0][:])
        assert np.array_equal(mine[1][:], its[1][:])
        assert mine[3].keys() == its[3].keys()


def test_a_second_time_does_nothing(study, tmp_path, room):
    prepare(study, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in room.rglob("*") if path.is_file()}
    report = prepare(study, tmp_path)
    assert [p["done"] for p in report] == [6]
    assert before == {path: path.stat().st_mtime_ns for path in room.rglob("*") if path.is_file()}


def test_a_kill_leaves_whole_cases_and_the_rest_is_done_later(study, tmp_path, room):
    class Killed(BaseException):
        pass

    def kill(progress):
        if progress.done == 2:
            raise Killed

    with pytest.raises(Killed):
        NnUNetLearner(study.site(tmp_path)).prepare(study.plans, study.fingerprint, kill)
    assert len(names(room / "fedfsPlans_2d")) == 2 * 3
    report = prepare(study, tmp_path)
    assert [p["done"] for p in report] == [2, 3, 4, 5, 6]


def test_two_processes_do_the_same(study, tmp_path, room):
    report = prepare(study, tmp_path, num_processes=2)
    assert report[-1]["done"] == 6
    assert len(names(room / "fedfsPlans_2d")) == 6 * 3


def test_data_of_unknown_origin_are_not_trusted(study, tmp_path, room):
    prepare(study, tmp_path)
    (room / "fedfsPlans_2d" / ".fedfs" / "made_with.json").write_text("{}")
    assert [p["done"] for p in prepare(study, tmp_path)] == list(range(7))


def test_a_case_that_left_the_dataset_is_not_trained_on(study, tmp_path, room):
    prepare(study, tmp_path)
    for ending in ENDINGS:
        (room / "fedfsPlans_2d" / f"gone{ending}").touch()
    prepare(study, tmp_path)
    assert not any(name.startswith("gone") for name in names(room / "fedfsPlans_2d"))


def test_a_case_that_was_corrected_is_preprocessed_again(study, tmp_path, room, caplog):
    prepare(study, tmp_path)
    folder = room / "fedfsPlans_2d"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    settings = study.site(tmp_path)
    label = min((settings.paths.raw / settings.dataset / "labelsTr").glob("*.nii.gz"))
    label.touch()
    assert [p["done"] for p in prepare(study, tmp_path)] == [5, 6]
    case = label.name.removesuffix(".nii.gz")
    assert f"case {case} has changed: it is preprocessed again" in caplog.text
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    assert {name for name in after if after[name] != before[name]} == {
        f"{case}{ending}" for ending in ENDINGS
    }


def test_a_different_plan_of_the_same_name_is_not_overwritten(study, tmp_path, room):
    room.mkdir(parents=True)
    (room / "fedfsPlans.json").write_text('{"mine": true}')
    with pytest.raises(SetupError, match="different plan of the same name"):
        prepare(study, tmp_path)
    assert (room / "fedfsPlans.json").read_text() == '{"mine": true}'


def test_a_model_of_a_different_plan_is_not_overwritten(study, tmp_path):
    model = tmp_path / "results" / DATASET / "nnUNetTrainer__fedfsPlans__2d"
    model.mkdir(parents=True)
    (model / "plans.json").write_text("{}")
    with pytest.raises(SetupError, match="model of another plan"):
        prepare(study, tmp_path)


def test_a_dataset_json_of_other_labels_is_not_overwritten(study, tmp_path, room):
    room.mkdir(parents=True)
    content = json.loads((study.paths.raw / DATASET / "dataset.json").read_text())
    content["labels"]["shell"] = 3
    (room / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="label 'shell'"):
        prepare(study, tmp_path)


def test_a_forged_plan_writes_nothing(study, tmp_path, room):
    forged = copy.deepcopy(study.plans)
    forged["configurations"]["2d"]["preprocessor_name"] = "shutil"
    with pytest.raises(MalformedError, match="preprocessor_name"):
        prepare(study, tmp_path, plans=forged)
    assert not room.exists()


def test_the_datasets_own_splits_are_used(study, paths, tmp_path):
    folder = write_dataset(paths.raw, 3, shape=(4, 16, 16))
    splits = [{"train": ["case_000", "case_001"], "val": ["case_002"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    prepare(study, tmp_path, paths=paths)
    copied = paths.preprocessed / DATASET / "splits_final.json"
    assert json.loads(copied.read_text()) == splits


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([{"train": ["case_000"], "val": ["gone"]}], "names gone, which is not in"),
        ([{"train": ["case_000"], "val": []}], "leaves nothing"),
        ([{"train": ["case_000"]}], "not a list of train and val"),
        ("no", "not a list of train and val"),
        (7, "not a list of train and val"),
    ],
)
def test_splits_that_do_not_fit_are_refused(study, tmp_path, room, splits, message):
    room.mkdir(parents=True)
    (room / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(SetupError, match=message):
        prepare(study, tmp_path)


@pytest.mark.parametrize("fold", ["-1", "x", "", "1000"])
def test_a_fold_is_a_number_or_all(study, tmp_path, fold):
    with pytest.raises(SetupError, match="neither a number nor all"):
        prepare(study, tmp_path, fold=fold)


def test_a_broken_case_is_named_and_nothing_half_is_left(study, paths, tmp_path):
    folder = write_dataset(paths.raw, 3, shape=(4, 16, 16))
    (folder / "labelsTr" / "case_001.nii.gz").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="case_001") as caught:
        prepare(study, tmp_path, paths=paths, fold="all")
    assert caught.value.kind == "broken-case"
    assert names(paths.preprocessed / DATASET / "fedfsPlans_2d") == {
        "case_000" + ending for ending in ENDINGS
    }


def test_the_second_stage_of_a_cascade_needs_the_first(study, tmp_path):
    cascade = copy.deepcopy(study.plans)
    cascade["configurations"]["cascade"] = {"inherits_from": "2d", "previous_stage": "3d_lowres"}
    dataset = RawDataset.open(study.paths, DATASET)
    with pytest.raises(SetupError, match="cascade continues 3d_lowres"):
        preprocess.check_previous_stage(
            cascade, dataset, study.site(tmp_path, configuration="cascade")
        )


def test_the_local_fingerprint_is_kept_where_nnunet_keeps_it(study, tmp_path, room):
    learner = NnUNetLearner(study.site(tmp_path))
    learner.fingerprint(Reports())
    local = json.loads((room / "dataset_fingerprint.json").read_text())
    assert len(local["spacings"]) == 6
    (room / "dataset_fingerprint.json").write_text("{}")
    learner.fingerprint(Reports())
    assert (room / "dataset_fingerprint.json").read_text() == "{}"


def test_the_reader_is_the_sites_own(study):
    assert fingerprint.reader_name(RawDataset.open(study.paths, DATASET)) == "SimpleITKIO"
