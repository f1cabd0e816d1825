"""A plan as nnU-Net writes it, for tests of what may stand in one."""

import copy

UNET = "dynamic_network_architectures.architectures.unet."
KWARGS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


def genuine():
    """A plan with everything that nnU-Net 2.8 writes."""
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [40, 56, 40],
        "median_image_size_in_voxels": [36.0, 50.0, 35.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": dict(KWARGS),
        "resampling_fn_seg_kwargs": dict(KWARGS),
        "resampling_fn_probabilities_kwargs": dict(KWARGS),
        "architecture": {
            "network_class_name": UNET + "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [32, 64, 128],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 3,
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    lowres = {**copy.deepcopy(configuration), "next_stage": "3d_cascade_fullres"}
    return {
        "dataset_name": "Dataset901_Ellipsoids",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": configuration,
            "3d_lowres": lowres,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 2.0}},
    }
