import csv
import json

import numpy as np
import pytest
import reference
from synthetic import DATASET, Reports, dataset_json, make_paths, write_dataset

from fedfs.aggregation.disclosure import coarsen
from fedfs.aggregation.fingerprints import merge_fingerprints, to_nnunet
from fedfs.errors import MalformedError, SetupError, StudyError, UserError
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.data import fingerprint
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.plan.plans import PlanRequest, WeightsRequest, initial_weights, plan
from fedfs.tensors.canonical import TensorFile, write_safetensors

INTENSITIES = "foreground_intensity_properties_per_channel"
SMALL = {"UNet_base_num_features": 8, "UNet_max_features_2d": 32, "UNet_max_features_3d": 32}


def geometry_only(n_cases=8, shape=(24, 40, 32), spacing=(1.0, 1.0, 1.0)):
    """A fingerprint that needs no image."""
    stats = dict.fromkeys(("mean", "median", "std", "max", "percentile_99_5"), 1.0)
    return {
        "spacings": [list(spacing)] * n_cases,
        "shapes_after_crop": [list(shape)] * n_cases,
        INTENSITIES: {"0": {**stats, "min": 0.0, "percentile_00_5": 0.5}},
        "median_relative_size_after_cropping": 1.0,
    }


def request(**changes):
    values = {
        "dataset_name": DATASET,
        "dataset_json": dataset_json(),
        "fingerprint": geometry_only(),
        "n_cases": 8,
        "configuration": "2d",
        "gpu_memory_target_gb": 0.3,
        "planner_options": SMALL,
    }
    return PlanRequest(**{**values, **changes})


def without_intensities(plans):
    return {key: value for key, value in plans.items() if key != INTENSITIES}


@pytest.mark.parametrize(
    "planner",
    ["ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"],
)
def test_what_nnunets_planners_emit_passes_the_allowlist(planner):
    made = plan(
        request(planner=planner, gpu_memory_target_gb=None, planner_options={}, plans_name="P")
    ).plans
    for configuration in made["configurations"]:
        allowlist.check_plans(made, configuration)
    assert made["experiment_planner_used"] == planner
    assert made["plans_name"] == "P"
    assert made["configurations"]["2d"]["data_identifier"] == "P_2d"


def test_a_cascade_passes_the_allowlist():
    large = geometry_only(shape=(400, 500, 500))
    made = plan(request(fingerprint=large, configuration="3d_cascade_fullres")).plans
    assert set(made["configurations"]) == {"2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"}


def test_options_reach_the_planner():
    made = plan(request(target_spacing=(2.0, 1.0, 1.0))).plans["configurations"]
    assert made["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16, 32, 32]
    assert made["3d_fullres"]["spacing"] == [2.0, 1.0, 1.0]


def test_the_batch_size_follows_the_number_of_cases():
    few, many = (
        plan(request(n_cases=n, gpu_memory_target_gb=4)).plans["configurations"]["2d"]["batch_size"]
        for n in (8, 80)
    )
    assert few < many


def test_it_plans_where_data_loading_has_no_workers(no_workers):
    assert plan(request()).plans["configurations"]["2d"]


def test_dataset_json_comes_back_with_what_was_planned_for():
    made = plan(request())
    assert made.dataset_json["numTraining"] == 8
    assert made.versions["nnunetv2"].startswith("2.")
    json.dumps([made.plans, made.dataset_json], allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"configuration": "3d_lowres"}, StudyError, "no configuration 3d_lowres"),
        ({"planner": "PlannerOfNobody"}, SetupError, "has no planner PlannerOfNobody"),
        ({"planner": "shutil"}, SetupError, "has no planner shutil"),
        ({"planner": "os.system"}, MalformedError, "planner"),
        ({"planner_options": {"plans": 1}}, MalformedError, "planner option"),
        ({"plans_name": "../x"}, MalformedError, "plans_name"),
        ({"dataset_name": "Dataset1_x"}, MalformedError, "dataset_name"),
        ({"dataset_json": dataset_json(file_ending=".docx")}, StudyError, "no reader .*docx"),
    ],
)
def test_what_cannot_be_planned_is_said(changes, error, message):
    with pytest.raises(error, match=message):
        plan(request(**changes))


@pytest.fixture(scope="module")
def planned():
    return plan(request())


def weights(planned, tmp_path, **changes):
    output = tmp_path / "weights.safetensors"
    values = {
        "plans": planned.plans,
        "dataset_json": planned.dataset_json,
        "configuration": "2d",
        "trainer": "nnUNetTrainer",
        "seed": 7,
        "output": str(output),
    }
    initial_weights(WeightsRequest(**{**values, **changes}))
    with TensorFile(output) as tensors:
        return dict(tensors)


def test_the_same_seed_gives_the_same_weights(planned, tmp_path):
    first, again = weights(planned, tmp_path), weights(planned, tmp_path)
    other = weights(planned, tmp_path, seed=8)
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_the_trainer_decides_about_the_network(planned, tmp_path):
    deep = weights(planned, tmp_path)
    flat = weights(planned, tmp_path, trainer="nnUNetTrainerNoDeepSupervision")
    assert {name for name in deep if "seg_layers" not in name} <= flat.keys()


@pytest.mark.parametrize("trainer", ["nnUNetTrainerOfNobody", "torch", "sys"])
def test_a_trainer_that_nnunet_has_not_is_refused(planned, tmp_path, trainer):
    with pytest.raises(SetupError, match="has no trainer"):
        weights(planned, tmp_path, trainer=trainer)


def test_pretrained_weights_replace_all_but_the_segmentation_layers(planned, tmp_path):
    own = weights(planned, tmp_path)
    given = {name: value + 1 for name, value in own.items()}
    write_safetensors(tmp_path / "pretrained.safetensors", given)
    made = weights(planned, tmp_path, pretrained=str(tmp_path / "pretrained.safetensors"))
    for name, value in made.items():
        expected = own if "seg_layers" in name else given
        assert np.array_equal(value, expected[name]), name


def test_pretrained_weights_that_do_not_fit_are_refused(planned, tmp_path):
    path = tmp_path / "pretrained.safetensors"
    own = weights(planned, tmp_path)
    name = next(name for name in own if "seg_layers" not in name)
    write_safetensors(path, {**own, name: np.zeros((3, 3), np.float32)})
    with pytest.raises(UserError, match=f"{name} has shape"):
        weights(planned, tmp_path, pretrained=str(path))
    write_safetensors(path, {k: v for k, v in own.items() if k != name})
    with pytest.raises(UserError, match=f"no tensor {name}"):
        weights(planned, tmp_path, pretrained=str(path))


def site_fingerprint(paths, dataset):
    return fingerprint.extract(
        RawDataset.open(paths, dataset), num_processes=1, on_progress=Reports()
    )


@pytest.mark.nnunet
def test_the_federated_plan_is_the_plan_of_the_pooled_data(tmp_path):
    """Three unlike sites against nnU-Net on all their cases."""
    pooled = make_paths(tmp_path / "pooled")
    target = write_dataset(pooled.raw, 0)
    sites = {}
    shapes = {"a": (20, 40, 32), "b": (28, 48, 40), "c": (24, 36, 36)}
    for number, (site, shape) in enumerate(shapes.items()):
        paths = make_paths(tmp_path / site)
        folder = write_dataset(
            paths.raw,
            3 + number,
            seed=number,
            shape=shape,
            gain=100.0 * 3**number,
            spacing=(1.0 + number, 1.0, 1.0),
        )
        for sub in ("imagesTr", "labelsTr"):
            for path in (folder / sub).iterdir():
                (target / sub / f"{site}_{path.name}").symlink_to(path)
        sites[site] = site_fingerprint(paths, DATASET)
    content = dataset_json(sum(site.n_cases for site in sites.values()))
    (target / "dataset.json").write_text(json.dumps(content))
    options = {"plans_name": "Pooled", "gpu_memory_target_in_gb": 0.5}
    _, (theirs,) = reference.plan(pooled, DATASET, [("ExperimentPlanner", options, SMALL)])
    merged = merge_fingerprints({n: coarsen(s, extremes=False) for n, s in sites.items()})
    ours = plan(
        request(
            fingerprint=to_nnunet(merged),
            n_cases=merged.n_cases,
            plans_name="Pooled",
            gpu_memory_target_gb=0.5,
        )
    ).plans
    assert without_intensities(ours) == without_intensities(theirs)


@pytest.mark.nnunet
def test_hippocampus_is_planned_as_if_pooled(hippocampus, tmp_path, capsys):
    dataset = "Dataset004_Hippocampus"
    with (hippocampus / "cases.csv").open() as file:
        site_of = {row["case"]: row["site"] for row in csv.DictReader(file)}
    rooms = {name: make_paths(tmp_path / name) for name in ("pooled", *sorted({*site_of.values()}))}
    for name, paths in rooms.items():
        folder = paths.raw / dataset
        for sub in ("imagesTr", "labelsTr"):
            (folder / sub).mkdir(parents=True)
            for path in (hippocampus / sub).iterdir():
                if name in ("pooled", site_of["_".join(path.name.split(".")[0].split("_")[:2])]):
                    (folder / sub / path.name).symlink_to(path)
        (folder / "dataset.json").symlink_to(hippocampus / "dataset.json")
    sites = {n: site_fingerprint(paths, dataset) for n, paths in rooms.items() if n != "pooled"}
    merged = merge_fingerprints({n: coarsen(s, extremes=False) for n, s in sites.items()})
    assert {name: site.n_cases for name, site in sites.items()} == {
        "east": 58,
        "north": 97,
        "south": 40,
    }

    planners = [
        ("ExperimentPlanner", {"plans_name": "Default"}, {}),
        ("nnUNetPlannerResEncM", {"plans_name": "ResEncM"}, {}),
    ]
    pooled, theirs = reference.plan(rooms["pooled"], dataset, planners)
    content = json.loads((hippocampus / "dataset.json").read_text())
    for (planner, options, _), expected in zip(planners, theirs, strict=True):
        ours = plan(
            request(
                dataset_name=dataset,
                dataset_json=content,
                fingerprint=to_nnunet(merged),
                n_cases=merged.n_cases,
                planner=planner,
                gpu_memory_target_gb=None,
                planner_options={},
                **options,
            )
        ).plans
        for name, configuration in expected["configurations"].items():
            # ResEnc planners share the default planner's data; a study's data are its own.
            configuration["data_identifier"] = f"{options['plans_name']}_{name}"
        assert without_intensities(ours) == without_intensities(expected)

    check_plan_of_coarse_fingerprints(sites, dataset, content, theirs[0])
    (found,) = to_nnunet(merged)[INTENSITIES].values()
    (true,) = pooled[INTENSITIES].values()
    averaged = averaged_over_sites(sites)
    spread = true["percentile_99_5"] - true["percentile_00_5"]
    with capsys.disabled():
        print(f"\n{'':16}{'pooled':>12}{'merged':>12}{'averaged':>12}")  # noqa: T201  for people
        for key in found:
            row = f"{key:16}{true[key]:12.1f}{found[key]:12.1f}{averaged[key]:12.1f}"
            print(row)  # noqa: T201  same
    assert found.keys() == true.keys() - {"min", "max"}
    for key in ("mean", "std"):
        assert found[key] == pytest.approx(true[key], rel=1e-3), key
    for key in ("percentile_00_5", "median", "percentile_99_5"):
        assert abs(found[key] - true[key]) <= 5e-3 * spread, key
    assert abs(averaged["std"] - true["std"]) > 1e-3 * true["std"]  # averaging is not pooling
    assert abs(averaged["percentile_99_5"] - true["percentile_99_5"]) > 5e-3 * spread


def check_plan_of_coarse_fingerprints(sites, dataset, content, expected):
    coarse = merge_fingerprints(
        {n: coarsen(s, extremes=False, digits=3, quantiles=5) for n, s in sites.items()}
    )
    found = plan(
        request(
            dataset_name=dataset,
            dataset_json=content,
            fingerprint=to_nnunet(coarse),
            n_cases=coarse.n_cases,
            gpu_memory_target_gb=None,
            planner_options={},
            plans_name="Default",
        )
    ).plans
    for name, configuration in expected["configurations"].items():
        ours = found["configurations"][name]
        for field in ("patch_size", "spacing", "architecture"):
            assert ours.get(field) == configuration.get(field), field
        assert ours["batch_size"] == pytest.approx(configuration["batch_size"], rel=0.05)


def averaged_over_sites(sites):
    """The published reference: case-weighted means of the sites' own numbers."""
    total = sum(site.n_cases for site in sites.values())
    numbers = {name: to_nnunet(site)[INTENSITIES]["0"] for name, site in sites.items()}
    return {
        key: sum(numbers[name][key] * site.n_cases for name, site in sites.items()) / total
        for key in next(iter(numbers.values()))
    }
