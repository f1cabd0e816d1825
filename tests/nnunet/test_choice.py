"""Choice of configuration and postprocessing from sums, beside nnU-Net's own on all cases."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from synthetic import make_paths

from fedfs.aggregation.best_configuration import choose
from fedfs.errors import SetupError, StudyError
from fedfs.nnunet.score.cross_validation import CrossValidationRequest, cross_validate
from fedfs.nnunet.score.inference_information import ChoiceRequest, write_choice
from fedfs.nnunet.score.summary import class_names
from fedfs.nnunet.system.environment import HostSettings, set_variables
from fedfs.protocol.messages import DiceSum

DATASET = "Dataset901_Ellipsoids"
CONFIGURATIONS = ("2d", "3d_fullres")
MODELS = {name: f"nnUNetTrainer__nnUNetPlans__{name}" for name in CONFIGURATIONS}
SITES = {"north": range(3), "east": range(3, 5), "south": range(5, 8)}
LABELS = {
    "labels": {"labels": {"background": 0, "shell": 1, "core": 2}},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "regions_class_order": [1, 2],
    },
    "one class": {"labels": {"background": 0, "organ": 1}},
}


def fold_of(case):
    return case % 2


def write_site(folder, plans, cases, kind, *, noise):
    """Validation predictions of two folds and two configurations, as nnU-Net leaves them."""
    paths = make_paths(folder)
    content = {
        "channel_names": {"0": "MRI"},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        **LABELS[kind],
    }
    preprocessed = paths.preprocessed / DATASET
    (preprocessed / "gt_segmentations").mkdir(parents=True)
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    names = {case: f"case_{case:03d}" for case in cases}
    splits = [
        {
            "train": [n for case, n in names.items() if fold_of(case) != fold],
            "val": [n for case, n in names.items() if fold_of(case) == fold],
        }
        for fold in (0, 1)
    ]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for case, name in names.items():
        rng = np.random.default_rng(case)
        distance = np.linalg.norm(np.indices((8, 14, 14)).T - rng.uniform(4, 9, 3)[::-1], axis=-1).T
        truth = (distance < 4).astype(np.uint8) + (distance < 2).astype(np.uint8)
        truth = np.minimum(truth, 2 if kind != "one class" else 1)
        write(preprocessed / "gt_segmentations" / f"{name}.nii.gz", truth)
        for number, configuration in enumerate(CONFIGURATIONS):
            validation = paths.results / DATASET / MODELS[configuration]
            validation = validation / f"fold_{fold_of(case)}" / "validation"
            validation.mkdir(parents=True, exist_ok=True)
            probabilities = imagined(truth, kind, np.random.default_rng((case, number)), noise)
            save(validation / name, probabilities, kind)
    for configuration in CONFIGURATIONS:
        model = paths.results / DATASET / MODELS[configuration]
        (model / "plans.json").write_text(json.dumps(plans))
        (model / "dataset.json").write_text(json.dumps(content))
    return paths


def imagined(truth, kind, rng, noise):
    """Probabilities around the truth, with errors and spots far away from it."""
    if kind == "regions":
        wanted = np.stack([truth > 0, truth == 2]).astype(np.float32)
    else:
        wanted = np.stack([truth == label for label in range(truth.max() + 1)]).astype(np.float32)
    spots = rng.random(truth.shape) < noise
    out = 0.8 * wanted + 0.1 + rng.normal(0, 0.18, wanted.shape)
    out[-1][spots & (truth == 0)] += 0.9
    return out.astype(np.float32)


def save(stem, probabilities, kind):
    if kind == "regions":
        segmentation = np.zeros(probabilities.shape[1:], np.uint8)
        for label, one in zip((1, 2), probabilities, strict=True):
            segmentation[one > 0.5] = label
    else:
        segmentation = probabilities.argmax(0).astype(np.uint8)
    write(f"{stem}.nii.gz", segmentation)
    np.savez_compressed(f"{stem}.npz", probabilities=probabilities)
    properties = {
        "sitk_stuff": {
            "spacing": (1.0,) * 3,
            "origin": (0.0,) * 3,
            "direction": tuple(np.eye(3).ravel()),
        },
        "spacing": [1.0] * 3,
    }
    stem.with_name(f"{stem.name}.pkl").write_bytes(pickle.dumps(properties))


def write(path, array):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))


def request(paths, **changes):
    return CrossValidationRequest(
        paths=paths,
        dataset=DATASET,
        models=MODELS,
        folds=("0", "1"),
        cases=[f"case_{case:03d}" for case in range(8)],
        **{"host": HostSettings(num_processes=1), **changes},
    )


def chosen_by(sites, kind):
    content = {"labels": LABELS[kind]["labels"]}
    return choose(
        {site: one.scores for site, one in sites.items()},
        sum(one.n_cases for one in sites.values()),
        configurations=CONFIGURATIONS,
        classes=list(class_names(content).values()),
        overlap=kind == "regions",
    )


@pytest.fixture(scope="module")
def plans(study):
    found = {**study.plans, "dataset_name": DATASET, "plans_name": "nnUNetPlans"}
    found["configurations"] = {**found["configurations"]}
    found["configurations"]["3d_fullres"] = found["configurations"]["2d"]
    return {**found, "image_reader_writer": "SimpleITKIO"}


def found_by_nnunet(paths):
    from nnunetv2.evaluation.find_best_configuration import (  # noqa: PLC0415  takes seconds
        find_best_configuration,
    )

    models = tuple(
        {"plans": "nnUNetPlans", "configuration": name, "trainer": "nnUNetTrainer"}
        for name in CONFIGURATIONS
    )
    with set_variables(paths.variables()):
        best = find_best_configuration(DATASET, models, num_processes=1, folds=(0, 1))
    written = Path(best["best_model_or_ensemble"]["postprocessing_file"])
    return best, pickle.loads(written.read_bytes())


@pytest.mark.parametrize("noise", [0.0, 0.004, 0.05])
@pytest.mark.parametrize("kind", sorted(LABELS))
def test_three_sites_choose_what_nnunet_chooses_with_all_cases(
    tmp_path, plans, kind, noise, forked_pools
):
    sites = {
        site: write_site(tmp_path / site, plans, cases, kind, noise=noise)
        for site, cases in SITES.items()
    }
    pooled = write_site(tmp_path / "pooled", plans, range(8), kind, noise=noise)
    ours = chosen_by(
        {s: cross_validate(request(p), lambda _: None) for s, p in sites.items()}, kind
    )
    best, (functions, kwargs) = found_by_nnunet(pooled)
    models = [
        m["configuration"] for m in best["best_model_or_ensemble"]["selected_model_or_models"]
    ]
    assert ours.candidate.split("+") == models
    theirs = list(best["all_results"].values())
    assert list(ours.dice.values()) == pytest.approx(theirs, rel=1e-12)
    after = best["best_model_or_ensemble"]["result_on_crossval_post_pp"]
    assert ours.dice_after == pytest.approx(after, rel=1e-12)
    assert len(ours.steps) == len(kwargs) == len(functions)
    exported = write_choice(
        ChoiceRequest(
            results=str(pooled.results), dataset=DATASET, models=MODELS, folds=("0", "1"),
            candidate=ours.candidate, steps=ours.steps, dice=ours.dice, dice_after=ours.dice_after,
            classes=ours.classes,
        )
    )  # fmt: skip
    expected = best["best_model_or_ensemble"]["postprocessing_file"]
    assert str(exported / "postprocessing.pkl") == expected
    assert pickle.loads(Path(expected).read_bytes()) == (functions, kwargs)
    instructions = (pooled.results / DATASET / "inference_instructions.txt").read_text()
    assert ("nnUNetv2_ensemble" in instructions) == (len(models) == 2)
    assert f"-pp_pkl_file {expected}" in instructions


def test_the_cases_above_are_of_all_kinds(tmp_path, plans):
    found = set()
    for noise in (0.0, 0.004, 0.05):
        paths = write_site(tmp_path / f"{noise}", plans, range(8), "labels", noise=noise)
        made = chosen_by({"all": cross_validate(request(paths), lambda _: None)}, "labels")
        found.add(made.steps)
    assert len(found) > 1
    assert any(found)


def test_a_case_that_was_trained_on_does_not_count(tmp_path, plans):
    paths = write_site(tmp_path, plans, range(4), "labels", noise=0.01)
    path = paths.preprocessed / DATASET / "splits_final.json"
    splits = json.loads(path.read_text())
    splits[0]["train"] = splits[0]["val"]
    path.write_text(json.dumps(splits))
    found = cross_validate(request(paths), lambda _: None)
    assert found.n_cases == 2


def test_predictions_that_are_gone_are_named(tmp_path, plans):
    paths = write_site(tmp_path, plans, range(2), "labels", noise=0.01)
    shutil.rmtree(paths.results / DATASET / MODELS["2d"] / "fold_1")
    with pytest.raises(SetupError, match="case_001"):
        cross_validate(request(paths), lambda _: None)


def test_a_case_that_the_site_goes_on_without_is_not_looked_for(tmp_path, plans):
    """nnU-Net's file of splits stays as it is when a case breaks, or names cases added since."""
    paths = write_site(tmp_path, plans, range(5), "labels", noise=0)
    for path in paths.results.rglob("case_003*"):
        path.unlink()
    taken = replace(request(paths), cases=["case_000", "case_001", "case_002", "case_004"])
    assert cross_validate(taken, lambda _: None).n_cases == 4


def test_sites_that_scored_something_else_are_not_mixed():
    scores = {"2d": {"": {"1": DiceSum(1.0, 2)}}}
    with pytest.raises(StudyError, match="has not scored 2d with the postprocessing foreground"):
        choose({"a": scores}, 2, configurations=["2d"], classes=["1"], overlap=False)


def test_a_study_in_which_nothing_occurs_has_no_best_model():
    nothing = {"": {"1": DiceSum(0.0, 0)}, "foreground": {"1": DiceSum(0.0, 0)}}
    with pytest.raises(StudyError, match="No site has a case"):
        choose({"a": {"2d": nothing}}, 0, configurations=["2d"], classes=["1"], overlap=False)


def test_of_equals_the_first_and_simplest_wins():
    same = {"": {"1": DiceSum(1.0, 2)}, "foreground": {"1": DiceSum(1.0, 2)}}
    scores = dict.fromkeys(("2d", "3d_fullres", "2d+3d_fullres"), same)
    made = choose({"a": scores}, 2, configurations=CONFIGURATIONS, classes=["1"], overlap=False)
    assert (made.candidate, made.steps) == ("2d", ())
