"""The network of the bundle: nnU-Net's own prediction, with axes in the order that MONAI has.

MONAI's wrapper for nnU-Net (monai.apps.nnunet.ModelnnUNetWrapper, MONAI 1.6) cannot be used here:
it does not fit the trainers of nnunetv2 2.8.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from monai.data import MetaTensor
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


class NnUNet(torch.nn.Module):
    """An image in its own spacing -> its segmentation, as nnUNetv2_predict makes it.

    Args:
        folder: ``models`` of the bundle.
        fold: ``fold_0``, say.
        device: predicts there.
    """

    def __init__(self, folder: str, fold: str, device: torch.device) -> None:
        super().__init__()
        models = Path(folder)
        dataset_json = json.loads((models / "dataset.json").read_text())
        plans = PlansManager(json.loads((models / "plans.json").read_text()))
        facts = torch.load(models / "nnunet_checkpoint.pth", weights_only=True)
        weights = torch.load(models / fold / "model.pt", weights_only=True, map_location="cpu")
        configuration = plans.get_configuration(facts["init_args"]["configuration"])
        trainer = recursive_find_trainer_class_by_name(facts["trainer_name"])
        self.network = trainer.build_network_architecture(
            plans,
            configuration,
            determine_num_input_channels(plans, configuration, dataset_json),
            plans.get_label_manager(dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        self.predictor = nnUNetPredictor(device=device, allow_tqdm=False)
        self.predictor.manual_initialization(
            self.network,
            plans,
            configuration,
            [weights["network_weights"]],
            dataset_json,
            facts["trainer_name"],
            facts["inference_allowed_mirroring_axes"],
        )

    def forward(self, x: MetaTensor) -> MetaTensor:
        """Segment a batch of one image of shape (1, C, X, Y, Z); return shape (1, 1, X, Y, Z)."""
        # MONAI reads images as x, y, z, and nnU-Net as z, y, x.
        image_CZYX = x[0].cpu().numpy().transpose(0, 3, 2, 1)
        spacing_zyx = x.meta["pixdim"][0][1:4].tolist()[::-1]
        predict = self.predictor.predict_single_npy_array
        segmentation_ZYX = predict(image_CZYX, {"spacing": spacing_zyx})
        segmentation_XYZ = torch.from_numpy(segmentation_ZYX.transpose(2, 1, 0).copy())
        made = MetaTensor(segmentation_XYZ[None, None], meta=x.meta)
        made.is_batch = True
        return made


def cases(folder: str, file_ending: str) -> list[dict[str, list[str]]]:
    """Return the cases in a folder, each with the files of its channels, as nnU-Net names them."""
    found: dict[str, list[str]] = {}
    for file in sorted(Path(folder).glob(f"*_[0-9][0-9][0-9][0-9]{file_ending}")):
        case = file.name.removesuffix(file_ending)[:-5]
        found.setdefault(case, []).append(str(file))
    return [{"image": files} for files in found.values()]
