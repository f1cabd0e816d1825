"""Sites with fewer cases than nnU-Net divides into folds, and what of them counts as a score."""

import json

import numpy as np
import pytest
from synthetic import DATASET, LABELS, Reports, task, write_dataset

from fedfs.errors import SetupError
from fedfs.learner import EvaluationResult
from fedfs.nnunet.data import folds
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.nnunet_learner import NnUNetLearner

pytestmark = pytest.mark.usefixtures("no_workers")

FIRST = task(0, weights_sha256="0", total_epochs=1, iterations=2)
LAST = task(1, weights_sha256="1", first_epoch=1, n_epochs=0, total_epochs=1, iterations=2)


def names(n):
    return [f"case_{i:03d}" for i in range(n)]


@pytest.fixture
def dataset(paths):
    """Return a function that opens a dataset as if it had so many cases."""
    write_dataset(paths.raw, 6, shape=(4, 8, 8))
    found = RawDataset.open(paths, DATASET)
    return lambda n: found.without(names(6)[n:])


@pytest.fixture
def path(paths):
    return paths.preprocessed / DATASET / folds.FILE


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_cases_are_divided_so_that_each_is_validated_on(paths, dataset, path, n):
    folds.settle(0, dataset(n), paths)
    splits = json.loads(path.read_text())
    assert len(splits) == 5
    for fold, split in enumerate(splits):
        assert split["val"] == [names(n)[fold % n]]
        assert split["train"] == ([c for c in names(n) if c not in split["val"]] or names(1))


def test_nnunet_divides_five_cases_itself(paths, dataset, path):
    folds.settle(0, dataset(5), paths)
    assert not path.exists()
    folds.settle("all", dataset(2), paths)
    assert not path.exists()


@pytest.mark.parametrize(("before", "after"), [(4, 3), (3, 4), (4, 5), (2, 1)])
def test_what_was_made_here_follows_the_cases(paths, dataset, path, before, after, caplog):
    folds.settle(0, dataset(before), paths)
    folds.settle(0, dataset(after), paths)
    assert "made of other cases" in caplog.text
    if after == 5:
        assert not path.exists()
    else:
        assert json.loads(path.read_text()) == folds.of_few(names(after))


def test_a_sites_own_file_is_never_changed(paths, dataset, path):
    few = dataset(4)
    own = [{"train": names(2), "val": ["case_002"]}]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(own))
    folds.settle(0, few, paths)
    assert json.loads(path.read_text()) == own

    path.unlink()
    (few.folder / folds.FILE).write_text(json.dumps(folds.of_few(names(3))))
    for _ in range(2):  # copied, then found
        folds.settle(0, few, paths)
        assert json.loads(path.read_text()) == folds.of_few(names(3))


@pytest.mark.usefixtures("dataset")
def test_a_patient_on_both_sides_is_warned_of(paths, path, caplog):
    """nnU-Net knows no patients, and would divide cases at random."""
    patients = paths.raw / DATASET / "patients.csv"
    patients.write_text("case,patient\ncase_000,a\ncase_001,a\ncase_002,b\n")
    dataset = RawDataset.open(paths, DATASET)
    folds.settle(0, dataset, paths)
    assert "nnU-Net divides the cases without asking whose they are" in caplog.text
    path.parent.mkdir(parents=True, exist_ok=True)
    for first, said in ((1, True), (2, False)):
        caplog.clear()
        path.write_text(json.dumps([{"train": names(6)[first:], "val": names(6)[:first]}]))
        folds.settle(0, dataset, paths)
        assert ("validated on: 1; scores will be too good" in caplog.text) == said


def test_one_case_has_nothing_to_train_on_in_a_fold_drawn_at_random(paths, dataset):
    folds.settle(6, dataset(2), paths)
    with pytest.raises(SetupError, match="leaves nothing to use of .* for fold 6"):
        folds.settle(6, dataset(1), paths)


@pytest.mark.nnunet
@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_cases_train_and_validate(study, paths, tmp_path, forked_pools, n):
    """A single case is trained on and validated on: its scores are nobody's to take for more."""
    write_dataset(paths.raw, n, shape=(12, 32, 32))
    learner = NnUNetLearner(study.site(tmp_path, paths=paths, fold="3"))
    learner.prepare(study.plans, study.fingerprint, Reports())
    evaluated = learner.evaluate(FIRST, study.tensors, Reports())
    trained = learner.train(FIRST, study.tensors, Reports())
    finished = learner.finish(LAST, trained.tensors, Reports())
    assert trained.n_training_cases == max(1, n - 1)
    fold = learner.model_folder() / "fold_3"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
    assert (fold / "checkpoint_final.pth").exists()
    if n == 1:
        assert evaluated == EvaluationResult.unscored()
        assert finished == EvaluationResult.unscored(finished.seconds)
        assert finished.mean_dice is None
        assert learner.score(study.plans, study.weights_file, Reports()) == evaluated
        assert trained.metrics.keys() == {"train_loss", "learning_rate"}
    else:
        assert (evaluated.n_cases, finished.n_cases) == (1, 1)
        assert list(evaluated.classes) == list(finished.classes) == ["shell", "core"]
        assert {"val_loss", "pseudo_dice"} <= trained.metrics.keys()
    again = NnUNetLearner(study.site(tmp_path, paths=paths, fold="3"))
    again.prepare(study.plans, study.fingerprint, Reports())
    assert again.finish(LAST, trained.tensors, Reports()) == finished
    learner.close()


@pytest.mark.nnunet
def test_cases_that_are_trained_on_are_not_scored(study, tmp_path, forked_pools):
    """Whatever the file says; but with fold all, every site's are, and the charter says so."""
    site = study.site(tmp_path)
    folder = site.paths.preprocessed / DATASET
    folder.mkdir(parents=True)
    splits = [{"train": names(5), "val": ["case_004", "case_005"]}]
    (folder / folds.FILE).write_text(json.dumps(splits))
    learner = NnUNetLearner(site)
    learner.prepare(study.plans, study.fingerprint, Reports())
    assert learner.evaluate(FIRST, study.tensors, Reports()) == EvaluationResult.unscored()
    learner.close()
    learner = NnUNetLearner(study.site(tmp_path, fold="all"))
    learner.prepare(study.plans, study.fingerprint, Reports())
    assert learner.evaluate(FIRST, study.tensors, Reports()).n_cases == 6
    learner.close()


@pytest.mark.nnunet
@pytest.mark.parametrize("predicted", [False, True])
def test_a_class_that_a_site_does_not_have(study, paths, tmp_path, forked_pools, predicted):
    """Its Dice is not known, or 0 where the network finds it nevertheless, as in nnU-Net."""
    folder = write_dataset(paths.raw, 5, shape=(12, 32, 32))
    relabel(folder / "labelsTr", core=LABELS["background"])
    site = study.site(tmp_path, paths=paths)
    learner = NnUNetLearner(site)
    learner.fingerprint(Reports())
    learner.prepare(study.plans, study.fingerprint, Reports())
    trained = learner.train(FIRST, study.tensors, Reports())
    assert np.isfinite(trained.metrics["train_loss"])
    tensors = biased(trained.tensors, core=100 if predicted else -100)
    evaluated = learner.evaluate(FIRST, tensors, Reports())
    finished = learner.finish(LAST, tensors, Reports())
    learner.close()
    for scores in (evaluated, finished):
        assert list(scores.classes) == ["shell", "core"]
        core = scores.classes["core"]
        assert core.dice == (0 if predicted else None)
        assert core.hd95_mm is None
        assert scores.classes["shell"].dice is not None
        expected = scores.classes["shell"].dice / (2 if predicted else 1)
        assert scores.mean_dice == pytest.approx(expected)
    json.dumps(evaluated.mean_dice, allow_nan=False)


def relabel(folder, *, core):
    import SimpleITK  # noqa: PLC0415  heavy, and only here

    for path in folder.iterdir():
        image = SimpleITK.ReadImage(str(path))
        array = SimpleITK.GetArrayFromImage(image)
        array[array == LABELS["core"]] = core
        changed = SimpleITK.GetImageFromArray(array)
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(path))


def biased(tensors, *, core):
    """Return weights whose every output says ``core`` everywhere, or nowhere."""
    out = dict(tensors)
    for name, value in tensors.items():
        if "seg_layers" in name and name.endswith("bias"):
            out[name] = value.copy()
            out[name][LABELS["core"]] = core
    return out
