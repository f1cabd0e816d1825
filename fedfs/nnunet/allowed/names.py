"""The names that nnU-Net 2.8 itself writes into plans, and what its network classes take.

A name that is added here becomes something that a plan from the store may have nnU-Net import.
"""

from collections.abc import Mapping

_UNET = "dynamic_network_architectures.architectures.unet."
NETWORKS = frozenset({_UNET + "PlainConvUNet", _UNET + "ResidualEncoderUNet"})
_DIMENSIONS = ("1d", "2d", "3d")
_NORMS = ("InstanceNorm", "BatchNorm", "Dropout")
_MODULE_OF = {"InstanceNorm": "instancenorm", "BatchNorm": "batchnorm", "Dropout": "dropout"}
BUILDING_BLOCKS: Mapping[str, frozenset[str]] = {
    "conv_op": frozenset(f"torch.nn.modules.conv.Conv{d}" for d in _DIMENSIONS),
    "norm_op": frozenset(
        f"torch.nn.modules.{_MODULE_OF[n]}.{n}{d}" for n in _NORMS[:2] for d in _DIMENSIONS
    ),
    "dropout_op": frozenset(f"torch.nn.modules.dropout.Dropout{d}" for d in _DIMENSIONS[1:]),
    "nonlin": frozenset(
        prefix + name
        for prefix in ("torch.nn.", "torch.nn.modules.activation.")
        for name in ("LeakyReLU", "ReLU", "ELU", "GELU", "SiLU", "Mish", "PReLU")
    ),
}
PER_STAGE = (
    "features_per_stage",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "kernel_sizes",
    "strides",
)
OTHER_ARGUMENTS = ("n_stages", "conv_bias", "nonlin_first", "stem_channels")
ARCHITECTURE_OPTIONS = ("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs")

CASCADE = ("3d_lowres", "3d_cascade_fullres")
"""nnU-Net's configurations of a cascade: the first stage, and the one that continues it."""

PREPROCESSORS = frozenset({"DefaultPreprocessor"})
RESAMPLING = frozenset(
    {
        "resample_data_or_seg_to_shape",
        "resample_torch_simple",
        "resample_torch_fornnunet",
        "no_resampling_hack",
    }
)
NORMALIZATION = frozenset(
    {
        "ZScoreNormalization",
        "CTNormalization",
        "NoNormalization",
        "RescaleTo01Normalization",
        "RGBTo01Normalization",
    }
)
READERS = frozenset(
    {
        "NaturalImage2DIO",
        "SimpleITKIO",
        "SimpleITKIOWithReorient",
        "Tiff3DIO",
        "NibabelIO",
        "NibabelIOWithReorient",
    }
)
LABEL_MANAGERS = frozenset({"LabelManager"})
PLANNER_OPTIONS = frozenset(
    {
        "UNet_base_num_features",
        "UNet_max_features_2d",
        "UNet_max_features_3d",
        "UNet_featuremap_min_edge_length",
        "UNet_min_batch_size",
        "max_dataset_covered",
    }
)
"""Attributes of nnU-Net's planner that its documentation has users change in a subclass."""
