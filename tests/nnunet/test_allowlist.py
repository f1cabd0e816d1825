import contextlib

import pytest
from genuine_plan import genuine
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfs.errors import MalformedError
from fedfs.nnunet.allowed import allowlist


def changed(path, value):
    plans = genuine()
    *way, last = path.split("/")
    inner = plans
    for step in way:
        inner = inner[step]
    inner[last] = value
    return plans


C = "configurations/3d_fullres"
A = f"{C}/architecture"
K = f"{A}/arch_kwargs"
CIRCLE = {"inherits_from": "3d_cascade_fullres"}

FORGERIES = [
    ("dataset_name", "Dataset901_x/../../y"),
    ("dataset_name", "../Dataset901_x"),
    ("dataset_name", None),
    ("plans_name", "../../x"),
    ("plans_name", "a/b"),
    ("plans_name", "a\\b"),
    ("plans_name", ".."),
    ("plans_name", ".hidden"),
    ("plans_name", "x" * 200),
    ("plans_name", "plans\n"),
    ("image_reader_writer", "traceback"),
    ("image_reader_writer", "os"),
    ("label_manager", "torch"),
    ("label_manager", None),
    ("experiment_planner_used", "os.system"),
    ("transpose_forward", [0, 1, 1]),
    ("transpose_backward", "012"),
    ("foreground_intensity_properties_per_channel", None),
    ("foreground_intensity_properties_per_channel", {}),
    ("foreground_intensity_properties_per_channel", {"0": {"mean": float("nan")}}),
    ("foreground_intensity_properties_per_channel", {"0": {"std": float("inf")}}),
    ("foreground_intensity_properties_per_channel", {"0": {"std": "1"}}),
    ("configurations", []),
    (f"{C}/data_identifier", "../../x"),
    (f"{C}/data_identifier", "/etc"),
    (f"{C}/data_identifier", None),
    (f"{C}/preprocessor_name", "shutil"),
    (f"{C}/preprocessor_name", "multiprocessing"),
    (f"{C}/normalization_schemes", ["ABC"]),
    (f"{C}/normalization_schemes", "ZScoreNormalization"),
    (f"{C}/use_mask_for_norm", ["yes"]),
    (f"{C}/resampling_fn_data", "recursive_find_python_class"),
    (f"{C}/resampling_fn_seg", "join"),
    (f"{C}/resampling_fn_probabilities", "os"),
    (f"{C}/resampling_fn_data_kwargs", {"device": "cuda"}),
    (f"{C}/resampling_fn_data_kwargs", {"a b": 1}),
    (f"{C}/resampling_fn_data_kwargs", {"order": [1]}),
    (f"{C}/batch_size", 0),
    (f"{C}/batch_size", 10**6),
    (f"{C}/batch_size", 2.5),
    (f"{C}/batch_size", True),
    (f"{C}/patch_size", [40, 56, 10**6]),
    (f"{C}/patch_size", [2048, 2048, 2048]),
    (f"{C}/patch_size", [40]),
    (f"{C}/patch_size", [40, 0, 40]),
    (f"{C}/spacing", [1.0, 0.0, 1.0]),
    (f"{C}/spacing", [1.0, float("nan"), 1.0]),
    (f"{C}/batch_dice", "no"),
    (f"{C}/next_stage", "nowhere"),
    ("configurations/3d_cascade_fullres/previous_stage", "../x"),
    ("configurations/3d_cascade_fullres/inherits_from", "nowhere"),
    (C, CIRCLE),
    (f"{C}/architecture", None),
    (f"{A}/network_class_name", "os.system"),
    (f"{A}/network_class_name", "subprocess.Popen"),
    (f"{A}/network_class_name", "dynamic_network_architectures.architectures.vgg.VGG16"),
    (f"{A}/network_class_name", ["os.system"]),
    (f"{A}/_kw_requires_import", ["norm_op_kwargs"]),
    (f"{A}/_kw_requires_import", ["conv_op", "strides"]),
    (f"{K}/conv_op", "subprocess.Popen"),
    (f"{K}/conv_op", "torch.nn.modules.instancenorm.InstanceNorm3d"),
    (f"{K}/norm_op", "builtins.eval"),
    (f"{K}/dropout_op", "torch.hub.load"),
    (f"{K}/nonlin", "torch.load"),
    (f"{K}/nonlin_kwargs", {"inplace": "x"}),
    (f"{K}/block", "os.system"),
    (f"{K}/n_stages", 10**9),
    (f"{K}/n_stages", None),
    (f"{K}/features_per_stage", [10**6, 2, 2]),
    (f"{K}/features_per_stage", [32] * 1000),
    (f"{K}/features_per_stage", "32"),
    (f"{K}/kernel_sizes", [[3, 3, 10**4]]),
    (f"{K}/strides", [[1, [2], 1]]),
    (f"{K}/conv_bias", "true"),
]


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_lowres", "3d_cascade_fullres"])
def test_a_genuine_plan_passes(configuration):
    allowlist.check_plans(genuine(), configuration)


@pytest.mark.parametrize(("path", "value"), FORGERIES, ids=lambda x: str(x)[:40])
def test_forgeries_are_refused_by_name(path, value):
    with pytest.raises(MalformedError) as caught:
        allowlist.check_plans(changed(path, value), "3d_cascade_fullres")
    *_, field = path.split("/")
    if value is not CIRCLE:
        assert field in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_circle_of_inheritance_ends():
    plans = changed(C, CIRCLE)
    with pytest.raises(MalformedError, match="circle"):
        allowlist.check_plans(plans, "3d_fullres")


def test_a_configuration_that_is_missing_lists_those_that_exist():
    with pytest.raises(MalformedError, match="has .*3d_cascade_fullres.*3d_fullres.*3d_lowres"):
        allowlist.check_plans(genuine(), "2d")


def test_old_plans_without_architecture_are_refused():
    plans = genuine()
    del plans["configurations"]["3d_fullres"]["architecture"]
    with pytest.raises(MalformedError, match="architecture"):
        allowlist.check_plans(plans, "3d_lowres")


def test_keys_that_nnunet_ignores_are_left_alone():
    allowlist.check_plans({**genuine(), "comment": {"any": ["thing"]}}, "3d_fullres")


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetPlannerResEncM", "_x1"])
def test_identifiers_pass(name):
    assert allowlist.check_name("trainer", name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a b", "1a", "a\n", "x" * 81, None, "ä"])
def test_other_names_do_not(name):
    with pytest.raises(MalformedError, match="trainer"):
        allowlist.check_name("trainer", name)


def test_memory_and_spacing_are_numbers_with_which_the_planner_ends():
    allowlist.check_planning(None, None)
    allowlist.check_planning(8, (0.5, 0.5, 3.0))
    for memory in (-8, 0, 1e-7, float("nan"), float("inf"), "8"):
        with pytest.raises(MalformedError, match="gpu_memory_target_gb"):
            allowlist.check_planning(memory, None)
    for spacing in ((0, 0, 0), (1, 1, -1), (1.0, float("inf"), 1.0), (1.0,)):
        with pytest.raises(MalformedError, match="target_spacing"):
            allowlist.check_planning(None, spacing)


def test_planner_options_are_those_that_users_change():
    allowlist.check_planner_options({"UNet_base_num_features": 16, "max_dataset_covered": 0.1})
    for options in ({"dataset_name": 1}, {"UNet_class": 1}, {"UNet_min_batch_size": -1}):
        with pytest.raises(MalformedError, match="planner option"):
            allowlist.check_planner_options(options)
    with pytest.raises(MalformedError, match="UNet_min_batch_size"):
        allowlist.check_planner_options({"UNet_min_batch_size": "8"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def places(value, way=()):
    yield way
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield from places(inner, (*way, key))


@settings(max_examples=500, deadline=None)
@given(place=st.sampled_from([p for p in places(genuine()) if p]), value=JSON)
def test_whatever_stands_in_a_plan_it_is_accepted_or_refused(place, value):
    with contextlib.suppress(MalformedError):
        allowlist.check_plans(changed("/".join(place), value), "3d_cascade_fullres")
