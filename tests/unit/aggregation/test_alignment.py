"""Alignment and sharing, on nets as nnU-Net builds them (real classes, few features)."""

import functools

import pytest
from torch import nn

from fedfs.aggregation import alignment
from fedfs.aggregation.alignment import canonical_names, coverage, own_names, share
from fedfs.errors import TensorError, UserError
from fedfs.tensors.canonical import canonical_names as tensor_names

unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")

DIMENSIONS = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}
FEATURES = (3, 6, 12, 24, 32, 32)  # a tenth of nnU-Net's default
DEFAULT_FEATURES = (32, 64, 128, 256, 320, 320)


@functools.cache
def net(stages, *, residual=False, dim=3, flat=(), heads=True, features=FEATURES):
    """Names and shapes of a network; stages in ``flat`` have a kernel and stride of 1 in depth."""
    conv, norm = DIMENSIONS[dim]
    kernels = [([1] if i in flat else [3]) + [3] * (dim - 1) for i in range(stages)]
    strides = [[1] * dim] + [
        ([1] if i in flat else [2]) + [2] * (dim - 1) for i in range(1, stages)
    ]
    common = {
        "input_channels": 1,
        "n_stages": stages,
        "features_per_stage": features[:stages],
        "conv_op": conv,
        "kernel_sizes": kernels,
        "strides": strides,
        "num_classes": 3,
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": heads,
    }
    if residual:
        made = unet.ResidualEncoderUNet(
            n_blocks_per_stage=(1, 3, 4, 6, 6, 6)[:stages],
            n_conv_per_stage_decoder=(1,) * (stages - 1),
            **common,
        )
    else:
        made = unet.PlainConvUNet(
            n_conv_per_stage=(2,) * stages, n_conv_per_stage_decoder=(2,) * (stages - 1), **common
        )
    state = made.state_dict()
    return {name: tuple(state[name].shape) for name in tensor_names(state)}


THREE = {"a": net(6), "b": net(6), "c": net(5)}
KINDS = [{}, {"residual": True}, {"dim": 2}, {"dim": 2, "residual": True}, {"flat": (0, 1)}]


def covered(sites, **policies):
    shared = share(sites, **policies)
    return coverage(sites, shared, alignment=policies.get("alignment", "resolution"))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_names_go_both_ways(kind):
    for stages in (3, 5, 6):
        shapes = net(stages, **kind)
        for policy in alignment.ALIGNMENTS:
            names = canonical_names(shapes, policy)
            assert list(names) == list(shapes)
            inverse = own_names(shapes, policy)
            assert {inverse[canonical]: canonical for canonical in inverse} == names


def test_the_decoder_is_numbered_like_the_encoder_at_the_same_resolution():
    names = alignment.by_resolution(net(6))
    assert names["decoder.stages.4.convs.0.conv.weight"] == "decoder.stages.r0.convs.0.conv.weight"
    assert names["decoder.stages.0.convs.1.norm.bias"] == "decoder.stages.r4.convs.1.norm.bias"
    assert names["decoder.transpconvs.4.weight"] == "decoder.transpconvs.r0.weight"
    assert names["decoder.seg_layers.0.bias"] == "decoder.seg_layers.r4.bias"
    assert all(names[n] == n for n in names if n.startswith("encoder."))
    assert alignment.by_name(net(6)) == {name: name for name in net(6)}


def test_the_shape_is_part_of_the_canonical_name():
    assert canonical_names({"decoder.seg_layers.1.weight": (3, 8, 1, 1)}, "resolution") == {
        "decoder.seg_layers.1.weight": "decoder.seg_layers.r0.weight@3x8x1x1"
    }
    assert canonical_names({"scalar": ()}, "name") == {"scalar": "scalar@"}


def test_facts_two_nets_of_different_depth():
    """DESIGN section 6: by name 51 % of the smaller net, by resolution all of it."""
    pair = {
        "deep": net(6, features=DEFAULT_FEATURES),
        "shallow": net(5, features=DEFAULT_FEATURES),
    }
    by_name = covered(pair, alignment="name")["shallow"]
    assert (by_name.n_tensors, by_name.of_tensors) == (44, 88)
    assert by_name.parameters == pytest.approx(0.513, abs=0.001)
    assert covered(pair)["shallow"].tensors == 1.0
    assert covered(pair)["shallow"].parameters == 1.0


def test_facts_by_name_decoder_tensors_of_different_resolutions_meet():
    pair = {"deep": net(6), "shallow": net(5)}
    shared = [n for n in share(pair, alignment="name") if n.startswith("decoder")]
    assert shared
    assert all(".0." in name or "seg_layers" in name or name.count("x") < 2 for name in shared)
    resolutions = [
        {s: alignment.by_resolution(pair[s])[n.split("@")[0]] for s in pair} for n in shared
    ]
    assert all(names["deep"] != names["shallow"] for names in resolutions)


def test_facts_one_shallow_net_costs_the_deep_ones_under_intersection():
    """DESIGN section 6: an intersection over all sites cut two deep nets to 27 %."""
    deep, shallow = (net(stages, features=DEFAULT_FEATURES) for stages in (6, 5))
    three = {"a": deep, "b": deep, "c": shallow}
    paper = covered(three, alignment="name", sharing="intersection")
    assert paper["a"] == paper["b"]
    assert paper["a"].parameters == pytest.approx(0.272, abs=0.001)
    assert {c.tensors for c in covered(three).values()} == {1.0}
    assert {c.parameters for c in covered(three).values()} == {1.0}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_smaller_net_is_wholly_shared_by_resolution(kind):
    found = covered({"deep": net(6, **kind), "shallow": net(5, **kind)})
    assert found["shallow"].parameters == 1.0
    assert 0.5 < found["deep"].parameters < 1.0


def test_what_only_one_site_has_stays_private():
    pair = {"deep": net(6), "shallow": net(5)}
    for policies in ({}, {"alignment": "name"}, {"sharing": "intersection"}):
        assert set(share(pair, **policies).values()) == {("deep", "shallow")}
    own = alignment.shared_names("deep", pair["deep"], share(pair), alignment="resolution")
    assert not any(name.startswith("encoder.stages.5") for name in own.values())
    assert share({"alone": net(5)}) == {}
    assert share({"alone": net(5)}, sharing="intersection") == {}
    assert share({}) == {}


def test_nets_of_other_kernels_in_some_stages_share_the_others():
    sites = {"cubic": net(5), "flat": net(5, flat=(0, 1))}
    shared = share(sites)
    assert "encoder.stages.2.0.convs.0.conv.weight@12x6x3x3x3" in shared
    assert not any(name.startswith("encoder.stages.0.0.convs.1.conv.weight") for name in shared)
    assert "encoder.stages.0.0.convs.1.conv.bias@3" in shared
    assert 0.5 < covered(sites)["flat"].parameters < 1.0


def test_each_shape_of_a_name_is_shared_among_those_that_have_it():
    flat = net(5, flat=(0, 1))
    sites = {"a": net(5), "b": net(5), "c": flat, "d": flat, "e": net(4, dim=2)}
    shared = share(sites)
    stem = "encoder.stages.0.0.convs.1.conv.weight"
    assert shared[f"{stem}@3x3x3x3x3"] == ("a", "b")
    assert shared[f"{stem}@3x3x1x3x3"] == ("c", "d")
    assert f"{stem}@3x3x3x3" not in shared
    assert shared["encoder.stages.0.0.convs.1.conv.bias@3"] == ("a", "b", "c", "d", "e")
    assert share(sites, sharing="intersection").keys() < shared.keys()


def test_a_net_with_fewer_heads_shares_those_nearest_to_the_output():
    heads = [n for n in net(6) if n.startswith("decoder.seg_layers.")]
    # As if a net had only the heads of its two highest resolutions, numbered from 0.
    few = {n: s for n, s in net(6).items() if n not in heads}
    for new, old in ((0, 3), (1, 4)):
        for part in ("weight", "bias"):
            few[f"decoder.seg_layers.{new}.{part}"] = net(6)[f"decoder.seg_layers.{old}.{part}"]
    assert covered({"all": net(6), "few": few})["few"].tensors == 1.0


def test_deep_supervision_does_not_change_what_there_is_to_share():
    assert covered({"on": net(5), "off": net(5, heads=False)})["off"].tensors == 1.0


def test_plain_and_residual_nets_share_what_fits():
    found = covered({"plain": net(5), "residual": net(5, residual=True)})
    assert 0 < found["residual"].parameters < 0.6


def test_the_order_of_sites_and_tensors_does_not_matter():
    turned = {site: dict(reversed(shapes.items())) for site, shapes in reversed(THREE.items())}
    for policies in ({}, {"alignment": "name", "sharing": "intersection"}):
        assert list(share(turned, **policies).items()) == list(share(THREE, **policies).items())


def test_more_sites_never_take_a_tensor_away_from_others():
    fewer = share({"a": net(6), "c": net(5)})
    for name, sites in share(THREE).items():
        assert set(fewer.get(name, ())) <= set(sites)


@pytest.mark.parametrize(
    "policies", [{"alignment": "depth"}, {"sharing": "majority"}], ids=["alignment", "sharing"]
)
def test_an_unknown_policy_lists_the_known_ones(policies):
    with pytest.raises(UserError, match="Unknown") as error:
        share(THREE, **policies)
    assert error.value.hint.startswith("known are: ")


@pytest.mark.parametrize(
    "names",
    [
        ("decoder.stages.0.w", "decoder.stages.00.w"),
        ("decoder.stages.r0.w", "decoder.stages.0.w"),
        ("some@2", "other"),
    ],
)
def test_names_that_could_be_mistaken_for_each_other_are_refused(names):
    with pytest.raises(TensorError):
        share({"site": dict.fromkeys(names, (2,)), "other": net(3)})


def test_a_site_cannot_be_told_to_share_what_it_has_not():
    with pytest.raises(TensorError, match="has no tensor"):
        alignment.shared_names("a", net(3), {"x@2": ("a", "b")}, alignment="name")
