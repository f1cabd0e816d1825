"""The names of nnU-Net's networks tell their normalisation layers, and others are refused."""

import itertools

import pytest
import torch
from dynamic_network_architectures.architectures import unet
from torch import nn

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import StudyError
from fedfs.nnunet.plan.normalisation import check_normalisation
from fedfs.nnunet.plan.plans import WeightsRequest, initial_tensors
from fedfs.tensors.canonical import extract

OPERATIONS = {
    "instance": (nn.Conv2d, nn.InstanceNorm2d),
    "instance 3d": (nn.Conv3d, nn.InstanceNorm3d),
    "batch": (nn.Conv2d, nn.BatchNorm2d),
    "batch 3d": (nn.Conv3d, nn.BatchNorm3d),
}
NETWORKS = {
    "PlainConvUNet": {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1},
    "ResidualEncoderUNet": {"n_blocks_per_stage": 2, "n_conv_per_stage_decoder": 1},
    "ResidualUNet": {"n_blocks_per_stage": 2, "n_conv_per_stage_decoder": 1},
}


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(NETWORKS, OPERATIONS)))
def test_names_tell_the_normalisation_layers_of_every_network(name, kind):
    convolution, normalisation = OPERATIONS[kind]
    network = getattr(unet, name)(
        input_channels=1, n_stages=3, features_per_stage=[2, 4, 4], conv_op=convolution,
        kernel_sizes=3, strides=[1, 2, 2], num_classes=2, norm_op=normalisation,
        norm_op_kwargs={"affine": True}, nonlin=nn.ReLU, deep_supervision=True, **NETWORKS[name],
    )  # fmt: skip
    check_normalisation(network)
    tensors = extract(network)
    found = {name for name in tensors if is_normalisation(name)}
    layers = {id(m): m for m in network.modules() if isinstance(m, normalisation)}.values()
    per_layer = 4 if "batch" in kind else 2
    assert len(found) == per_layer * len(layers)
    assert not any(tensors[name].ndim > 1 for name in found)


class Other(nn.Module):
    """Keeps its normalisation under another name, or has none."""

    def __init__(self, layer=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        if layer is not None:
            self.instance = layer


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.InstanceNorm2d(2, affine=True), "calls one 'instance.bias'"),
        (nn.GroupNorm(1, 2), "calls one 'instance.bias'"),
        (nn.InstanceNorm2d(2), "has none with tensors"),
        (None, "has none with tensors"),
    ],
)
def test_a_network_with_other_names_is_refused(layer, says):
    with pytest.raises(StudyError, match=says) as caught:
        check_normalisation(Other(layer))
    assert "--keep-local" in caught.value.hint


@pytest.mark.nnunet
def test_version_0_is_made_where_names_tell_them_and_nowhere_else(study, monkeypatch):
    request = {
        "plans": study.plans, "dataset_json": study.dataset_json, "configuration": "2d",
        "seed": 1, "output": "", "keep_local": "norm",
    }  # fmt: skip
    made = initial_tensors(WeightsRequest(trainer="nnUNetTrainerBN", **request))
    assert any(name.endswith("norm.running_var") for name in made)
    assert all(torch.is_tensor(torch.tensor(value)) for value in made.values())
    monkeypatch.setattr(
        "fedfs.nnunet.plan.normalisation.is_normalisation", lambda name: "running" in name
    )
    with pytest.raises(StudyError, match="keeps its normalisation layers where fedfs does not"):
        initial_tensors(WeightsRequest(trainer="nnUNetTrainerBN", **request))
