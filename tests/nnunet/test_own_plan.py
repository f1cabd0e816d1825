"""A site plans for itself, and the aggregator builds the same network from what it tells."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from synthetic import DATASET, LABELS, Reports, dataset_json, make_paths, task, write_dataset

from fedfs.aggregation import alignment
from fedfs.errors import DatasetError, MalformedError, SetupError, StudyError
from fedfs.nnunet import child
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan import overlay, own_plan, planner, plans
from fedfs.nnunet.plan import published as site_network
from fedfs.nnunet.settings import LearnerSettings, Planning
from fedfs.nnunet.system import files
from fedfs.nnunet.system.environment import HostSettings
from fedfs.protocol.messages import Charter, DatasetSpec, NnUNetSpec, Schedule
from fedfs.tensors.canonical import TensorFile, weights_sha256, write_safetensors

pytestmark = [pytest.mark.nnunet, pytest.mark.usefixtures("no_workers")]

STUDY = "Dataset800_Study"
SMALL = {"UNet_base_num_features": 4, "UNet_max_features_2d": 8, "UNet_max_features_3d": 8}
FILES = ("own_fingerprint.json", "own_plan.json", "initial.safetensors")


class Killed(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


def planning(**changes):
    values = {
        "dataset_json": {**dataset_json(), "label_order": list(LABELS)},
        "dataset_name": STUDY,
        "plans_name": "fedfsPlans",
        "gpu_memory_target_gb": 0.01,
        "planner_options": SMALL,
        "seed": 7,
    }
    return Planning(**{**values, **changes})


class Site:
    """A site's raw dataset, and its process, which can be started anew."""

    def __init__(self, folder, *, n_cases=2, shape=(8, 48, 48), **changes):
        self.folder = folder
        self.paths = make_paths(folder)
        self.raw = write_dataset(self.paths.raw, n_cases, shape=shape, **changes)

    def learner(self, *, configuration="2d", trainer="nnUNetTrainer", state="state", **changes):
        return NnUNetLearner(
            LearnerSettings(
                paths=self.paths,
                dataset=DATASET,
                configuration=configuration,
                trainer=trainer,
                fold="all",
                state_dir=self.folder / state,
                host=HostSettings(device="cpu", num_processes=1),
                planning=planning(**changes),
            )
        )

    def plan(self, **changes):
        """Return the plan of a new process, and the weights that its network starts from."""
        learner = self.learner(**changes)
        return learner.plan(Reports()), learner.initial_weights()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A site that has planned, never changed; its plan and weights."""
    made = Site(tmp_path_factory.mktemp("planned"))
    return made, *made.plan()


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def architecture(plan):
    return plan.configuration["architecture"]["arch_kwargs"]


def charter_of(**changes):
    """Return the parts of a charter that decide a network."""
    configuration = changes.pop("configuration", "2d")
    values = {"planner": "ExperimentPlanner", "trainer": "nnUNetTrainer"}
    spec = NnUNetSpec(**{**values, **changes}, plans_name="fedfsPlans")
    charter = SimpleNamespace(
        configuration=configuration,
        fold="all",
        seed=7,
        keep_local="",
        dataset=DatasetSpec(
            name=STUDY, channel_names={"0": "MRI"}, labels=LABELS, label_order=tuple(LABELS)
        ),
        nnunet=spec,
        schedule=Schedule(
            rounds=1, local_epochs=1, iterations_per_epoch=1, val_iterations_per_epoch=1, seed=7
        ),
    )
    charter.dataset_json = lambda: Charter.dataset_json(charter)
    return charter


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a network as the aggregator does, but in this process: a start takes seconds."""

    def here(function, request, *, workdir):
        return child.FUNCTIONS[function](dataclasses.asdict(request), Reports())

    monkeypatch.setattr(planner, "run_isolated", here)

    def build(configuration, *, charter=None, **options):
        path = tmp_path / "network.safetensors"
        made = planner.NnUNetPlanner(tmp_path / "planner")
        made.network_weights(charter or charter_of(), configuration, path, **options)
        with TensorFile(path) as tensors:
            return dict(tensors)

    return build


def test_the_plan_is_the_sites_and_what_leaves_it_is_little(planned):
    site, plan, weights = planned
    assert plan.plans["dataset_name"] == DATASET
    assert plan.plans["image_reader_writer"] == "SimpleITKIO"
    assert plan.plans_sha256 == files.json_sha256(plan.plans)
    assert plan.n_cases == len(plan.fingerprint["spacings"]) == 2
    assert plan.tensors == {name: value.shape for name, value in weights.items()}
    assert plan.configuration.keys() == {"patch_size", "batch_size", "spacing", "architecture"}
    local = site.paths.preprocessed / DATASET / "dataset_fingerprint.json"
    kept = json.loads(local.read_text())
    assert sorted(kept.pop("spacings")) == plan.fingerprint["spacings"]
    assert kept["median_relative_size_after_cropping"] == 1.0


def test_it_is_nnunets_own_plan_of_these_cases(planned):
    _, plan, _ = planned
    theirs = plans.plan(
        plans.PlanRequest(
            dataset_name=DATASET,
            dataset_json=dataset_json(),
            fingerprint=plan.fingerprint,
            n_cases=2,
            configuration="2d",
            plans_name="fedfsPlans",
            gpu_memory_target_gb=0.01,
            planner_options=SMALL,
        )
    )
    assert plan.plans == theirs.plans


def test_planning_again_gives_the_same_and_opens_no_image(site):
    plan, weights = site.plan()
    for image in (site.raw / "imagesTr").iterdir():
        image.write_bytes(b"not an image any more")
    again, same = site.plan()
    assert again == plan
    assert equal(same, weights)


def test_planning_again_needs_no_nnunet(planned):
    site, plan, weights = planned
    code = f"""
import json, sys
from pathlib import Path
from fedfs.tensors.canonical import weights_sha256
from fedfs.nnunet.system.environment import HostSettings, NnUNetPaths
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.settings import LearnerSettings, Planning
learner = NnUNetLearner(LearnerSettings(
    paths=NnUNetPaths(*map(Path, {[str(p) for p in site.paths.variables().values()]!r})),
    dataset={DATASET!r}, configuration="2d", trainer="nnUNetTrainer", fold="all",
    state_dir=Path({str(site.folder / "state")!r}), host=HostSettings(num_processes=1),
    planning=Planning(**json.loads(sys.stdin.read())),
))
plan = learner.plan(print)
print(plan.plans_sha256, weights_sha256(learner.initial_weights()))
sys.exit("nnunetv2" in sys.modules or "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(dataclasses.asdict(planning())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [plan.plans_sha256, weights_sha256(weights)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["removed", "empty", "cut off", "a bit flipped", "a list"])
def test_a_damaged_file_is_made_again(planned, tmp_path, name, damage):
    site, plan, weights = planned
    state = site.folder / f"{name}-{damage}"
    state.mkdir()
    for kept in FILES:
        files.copy(site.folder / "state" / kept, state / kept)
    content = (state / name).read_bytes()
    flipped = bytearray(content)
    flipped[-20] ^= 1
    damaged = {
        "empty": b"",
        "cut off": content[: len(content) // 2],
        "a bit flipped": bytes(flipped),
        "a list": b"[1, 2]",
    }
    (state / name).unlink() if damage == "removed" else (state / name).write_bytes(damaged[damage])
    again, same = site.plan(state=state.name)
    assert again == plan
    assert equal(same, weights)
    assert equal(site.learner(state=state.name).initial_weights(), weights)


def test_a_kill_loses_what_was_being_made_and_nothing_else(planned, monkeypatch):
    site, plan, weights = planned
    writers = {own_plan.files: "write_json", own_plan: "write_safetensors"}
    originals = {module: getattr(module, name) for module, name in writers.items()}
    read, left = [], 0

    def dying(original):
        def write(path, *args, **kwargs):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            original(path, *args, **kwargs)

        return write

    for module, name in writers.items():
        monkeypatch.setattr(module, name, dying(originals[module]))
    # The names of the cases, the fingerprint, the initial weights; then the plan is to be written.
    for n_writes, survived in ((0, 0), (1, 1), (2, 2), (1, 3)):
        learner = site.learner(state="killed")
        left = n_writes
        with pytest.raises(Killed):
            learner.plan(lambda progress: read.append(progress.done))
        assert len(list((site.folder / "killed").glob("*"))) == survived
    left = 2
    learner = site.learner(state="killed")
    assert learner.plan(lambda progress: read.append(progress.done)) == plan
    assert equal(learner.initial_weights(), weights)
    assert read == [1, 2] * 3  # images were read until the fingerprint was kept


def test_another_case_is_another_plan_and_another_seed_is_not(site):
    plan, weights = site.plan()
    same, others = site.plan(seed=8)
    assert same == plan
    assert not equal(others, weights)
    for sub, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        files.copy(site.raw / sub / f"case_000{end}", site.raw / sub / f"case_002{end}")
    more, _ = site.plan()
    assert more.n_cases == len(more.fingerprint["spacings"]) == 3


def test_the_machine_and_the_images_decide_the_network(planned, tmp_path):
    site, plan, _ = planned
    assert (plan.configuration["patch_size"], architecture(plan)["n_stages"]) == ([48, 48], 4)
    small, _ = site.plan(state="small", gpu_memory_target_gb=0.0005)
    assert math.prod(small.configuration["patch_size"]) < math.prod([48, 48])
    assert architecture(small)["n_stages"] < 4
    flat = Site(tmp_path, shape=(4, 24, 40), spacing=(4.0, 1.0, 1.0), n_cases=1)
    cube, flat = (s.plan(state="3d", configuration="3d_fullres")[0] for s in (site, flat))
    assert cube.configuration["spacing"] != flat.configuration["spacing"]
    assert architecture(cube)["kernel_sizes"] != architecture(flat)["kernel_sizes"]


def test_without_a_way_to_plan_there_is_no_plan(site, tmp_path):
    settings = dataclasses.replace(site.learner()._settings, planning=None)
    with pytest.raises(SetupError, match="not told how to plan"):
        NnUNetLearner(settings).plan(Reports())
    with pytest.raises(SetupError, match="has not planned yet"):
        site.learner().initial_weights()
    with pytest.raises(StudyError, match="no configuration 3d_lowres"):
        site.learner(configuration="3d_lowres").plan(Reports())
    with pytest.raises(SetupError, match="has no planner"):
        site.learner(planner="PlannerOfNobody").plan(Reports())


def test_images_without_foreground_are_said(site):
    for path in (site.raw / "labelsTr").iterdir():
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)) * 0, str(path))
    with pytest.raises(DatasetError, match=r"no case has a foreground voxel in channel 0 \(MRI\)"):
        site.learner().plan(Reports())
    assert not (site.paths.preprocessed / DATASET / "dataset_fingerprint.json").exists()


@pytest.mark.parametrize("name", ["ExperimentPlanner", "nnUNetPlannerResEncM"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_aggregator_builds_the_sites_network(planned, build, name, configuration):
    site, *_ = planned
    plan, weights = site.plan(state=configuration + name, configuration=configuration, planner=name)
    published = json.loads(json.dumps(plan.configuration, sort_keys=True))
    charter = charter_of(configuration=configuration, planner=name)
    assert equal(build(published, charter=charter), weights)
    given = plan.configuration["architecture"]["arch_kwargs"]
    bound = site_network.parameter_bound(
        features=given["features_per_stage"],
        kernels=[math.prod(kernel) for kernel in given["kernel_sizes"]],
        strides=[math.prod(stride) for stride in given["strides"]],
        encoder=given.get("n_blocks_per_stage") or given["n_conv_per_stage"],
        decoder=given["n_conv_per_stage_decoder"],
        stem=0,
        n_inputs=1,
        n_outputs=3,
    )
    actual = sum(value.size for value in weights.values())
    assert actual <= bound <= 4 * actual


def test_in_a_process_of_its_own_too(planned, tmp_path):
    _, plan, weights = planned
    path = tmp_path / "network.safetensors"
    planner.NnUNetPlanner(tmp_path / "planner").network_weights(
        charter_of(), plan.configuration, path
    )
    with TensorFile(path) as tensors:
        assert equal(dict(tensors), weights)


def test_a_cascade_has_the_labels_of_its_first_stage_as_channels(planned, build):
    _, plan, _ = planned
    cascade = {**plan.configuration, "previous_stage": "3d_lowres"}
    charter = charter_of(configuration="3d_cascade_fullres")
    first = next(name for name in plan.tensors if name.startswith("encoder.stages.0."))
    assert build(cascade, charter=charter)[first].shape[0] == plan.tensors[first][0]
    weights = build(cascade, charter=charter)["encoder.stages.0.0.convs.0.conv.weight"]
    assert weights.shape[1] == 3


def changed(configuration, path, value):
    out = copy.deepcopy(dict(configuration))
    *folders, last = path.split(".")
    place = out
    for folder in folders:
        place = place[folder]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return out


ARGUMENTS = "architecture.arch_kwargs"
PRELU = {"nonlin": "torch.nn.PReLU", "nonlin_kwargs": {"num_parameters": 10**12}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("architecture", None),
        ("architecture", "x"),
        ("architecture.network_class_name", "subprocess.Popen"),
        ("architecture.network_class_name", "torch.nn.Sequential"),
        ("architecture._kw_requires_import", ["os.system"]),
        (f"{ARGUMENTS}.conv_op", "os.system"),
        (f"{ARGUMENTS}.conv_op", None),
        (f"{ARGUMENTS}.block", "shutil.rmtree"),
        (f"{ARGUMENTS}.n_stages", 10**9),
        (f"{ARGUMENTS}.n_stages", 3),
        (f"{ARGUMENTS}.features_per_stage", [10**6] * 4),
        (f"{ARGUMENTS}.features_per_stage", 4096),
        (f"{ARGUMENTS}.features_per_stage", [4, 8, 8]),
        (f"{ARGUMENTS}.kernel_sizes", [[3, 3, 3]] * 4),
        (f"{ARGUMENTS}.n_conv_per_stage", [[2], [2], [2], [2]]),
        (f"{ARGUMENTS}.nonlin_kwargs", PRELU["nonlin_kwargs"]),
        ("patch_size", [10**9, 10**9]),
        ("spacing", None),
        ("previous_stage", "../../x"),
        ("previous_stage", ["x"]),
    ],
)
def test_a_hostile_configuration_is_refused_before_anything_is_built(
    planned, tmp_path, path, value, monkeypatch
):
    _, plan, _ = planned
    monkeypatch.setattr(planner, "run_isolated", None)
    hostile = changed(plan.configuration, path, value)
    if path.endswith("features_per_stage") and value == 4096:
        hostile["architecture"]["arch_kwargs"]["n_conv_per_stage"] = [8] * 4
    if path.endswith("nonlin_kwargs"):
        hostile["architecture"]["arch_kwargs"]["nonlin"] = PRELU["nonlin"]
    with pytest.raises(MalformedError):
        planner.NnUNetPlanner(tmp_path).network_weights(charter_of(), hostile, tmp_path / "x")


def test_an_architecture_that_cannot_be_built_is_the_sites_mistake(planned, tmp_path):
    _, plan, _ = planned
    broken = changed(plan.configuration, f"{ARGUMENTS}.norm_op_kwargs", {"nonsense": 1})
    with pytest.raises(MalformedError, match="no network can be built"):
        planner.NnUNetPlanner(tmp_path).network_weights(charter_of(), broken, tmp_path / "x")


def test_networks_of_unlike_depth_take_each_others_tensors(planned, build, tmp_path):
    site, plan, weights = planned
    small, own = site.plan(state="small", gpu_memory_target_gb=0.0005)
    assert len(small.tensors) < len(plan.tensors)
    given = {name: value + 1 for name, value in weights.items()}
    path = tmp_path / "pretrained.safetensors"
    write_safetensors(path, given)
    theirs = alignment.own_names(plan.tensors, "resolution")
    canonical = alignment.canonical_names(small.tensors, "resolution")
    expected = {
        name: value if "seg_layers" in name else given[theirs[canonical[name]]]
        for name, value in own.items()
    }
    again, laid_over = site.plan(state="small", gpu_memory_target_gb=0.0005, pretrained=path)
    assert again == small
    assert equal(laid_over, expected)
    assert equal(build(small.configuration, pretrained=path), expected)
    # By name, a tensor of another resolution is taken for the same; what has no namesake stays.
    write_safetensors(path, {name: value + 1 for name, value in own.items()})
    deep = overlay.overlay_tensors(weights, path, alignment="name")
    kept = [name for name in weights if name not in own]
    assert kept
    assert all(np.array_equal(deep[name], weights[name]) for name in kept)


def test_one_case_is_enough_for_a_study_on_all_cases(tmp_path):
    site = Site(tmp_path, n_cases=1)
    learner = site.learner()
    plan = learner.plan(Reports())
    weights = learner.initial_weights()
    learner.prepare(plan.plans, plan.fingerprint, Reports())
    assert (site.paths.preprocessed / DATASET / "fedfsPlans_2d" / "case_000.pkl").exists()
    the_task = task(0, weights_sha256=weights_sha256(weights), iterations=1, total_epochs=1)
    assert learner.evaluate(the_task, weights, Reports()).n_cases == 1
    result = learner.train(the_task, weights, Reports())
    assert result.n_training_cases == 1
    assert {name: value.shape for name, value in result.tensors.items()} == plan.tensors
    last = task(1, first_epoch=1, n_epochs=0, total_epochs=1, weights_sha256="y", iterations=1)
    assert learner.finish(last, result.tensors, Reports()).n_cases == 1
    model = Path(learner.model_folder())
    assert json.loads((model / "plans.json").read_text()) == plan.plans
    assert json.loads((model / "dataset_fingerprint.json").read_text()) == plan.fingerprint
    learner.close()
