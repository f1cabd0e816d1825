"""Each of nnU-Net's planners, told by the charter, against nnU-Net's own command; and training."""

import json

import pytest
from life import in_this_process, live
from synthetic import DATASET, dataset_json, write_dataset

from fedfs.nnunet.plan.planner import NnUNetPlanner
from fedfs.nnunet.system.environment import set_variables
from support.federation import Federation

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers", "forked_pools")]

RESENC = ("nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL")
SHAPE, N_CASES = (48, 72, 64), 2000
OPTIONS = {
    **{planner: {"planner": planner} for planner in ("ExperimentPlanner", *RESENC)},
    "less memory": {"planner": RESENC[0], "gpu_memory_target_gb": 2.0},
    "more memory": {"gpu_memory_target_gb": 20.0},
    "another spacing": {"planner": RESENC[1], "target_spacing": (2.5, 1.5, 0.75)},
}


def fingerprint():
    """Of cases that no test has to write: as large as plans differ by, and unlike each other."""
    stats = dict.fromkeys(("mean", "median", "std", "max", "percentile_99_5"), 50.0)
    return {
        "spacings": [[1.5 + 0.1 * (i % 3), 0.8, 0.8] for i in range(N_CASES)],
        "shapes_after_crop": [[n - i % 5 for n in SHAPE] for i in range(N_CASES)],
        "foreground_intensity_properties_per_channel": {
            "0": {**stats, "min": 0.0, "percentile_00_5": 0.5}
        },
        "median_relative_size_after_cropping": 0.9,
    }


def of_nnunet(paths, plans_name, *, planner="ExperimentPlanner", **options):
    """Return what ``nnUNetv2_plan_experiment`` plans with the same options."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api  # noqa: PLC0415  heavy

    room = paths.preprocessed / DATASET
    room.mkdir(exist_ok=True)
    (room / "dataset_fingerprint.json").write_text(json.dumps(fingerprint()))
    with set_variables({**paths.variables(), "nnUNet_n_proc_DA": "1"}):
        plan_and_preprocess_api.plan_experiments(
            [int(DATASET[7:10])],
            planner,
            options.get("gpu_memory_target_gb"),
            overwrite_target_spacing=options.get("target_spacing"),
            overwrite_plans_name=plans_name,
        )
    plans = json.loads((room / f"{plans_name}.json").read_text())
    for name, configuration in plans["configurations"].items():
        # ResEnc planners share the default planner's data; a study's data are its own.
        if "data_identifier" in configuration:
            configuration["data_identifier"] = f"{plans_name}_{name}"
    return plans


def test_the_charters_planner_plans_what_nnunet_does(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("fedfs.nnunet.plan.planner.run_isolated", in_this_process)
    write_dataset(paths.raw, 1, shape=(4, 8, 8))
    (paths.raw / DATASET / "dataset.json").write_text(json.dumps(dataset_json(N_CASES)))
    different = set()
    for number, (name, options) in enumerate(OPTIONS.items()):
        study = Federation(tmp_path / str(number), dataset_json=dataset_json(), **options)
        planner = NnUNetPlanner(tmp_path / "planning")
        made = planner.plan(study.charter, fingerprint(), N_CASES).plans
        theirs = of_nnunet(paths, made["plans_name"], **options)
        assert made == {**theirs, "dataset_name": study.charter.dataset.name}, name
        configuration = made["configurations"]["3d_fullres"]
        if "target_spacing" in options:
            assert configuration["spacing"] == list(options["target_spacing"])
        assert made["experiment_planner_used"] == options.get("planner", "ExperimentPlanner")
        different.add(json.dumps({**configuration, "data_identifier": ""}))
    assert len(different) == len(OPTIONS)


@pytest.mark.parametrize("planner", RESENC)
def test_a_residual_network_is_trained_and_validated(paths, tmp_path, planner):
    write_dataset(paths.raw, 5, shape=(6, 32, 32))
    life = live(paths, tmp_path, DATASET, dataset_json(), planner=planner)
    assert life.plans["experiment_planner_used"] == planner
    architecture = life.plans["configurations"]["2d"]["architecture"]
    assert architecture["network_class_name"].endswith(".ResidualEncoderUNet")
    assert any(".blocks." in name for name in life.trained.tensors)
    assert life.finished.n_cases == 1
    assert (life.model / "fold_0" / "checkpoint_final.pth").exists()
