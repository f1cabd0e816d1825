"""Use a model in Python, with nnU-Net's own predictor: fedfs is not needed for it.

    python examples/predict.py MODEL IMAGES OUTPUT

MODEL is the folder that `fedfs export` printed, or that a site has in its nnUNet_results
(.../nnUNetTrainer__nnUNetPlans_...__2d); IMAGES holds files named as in imagesTs. Segments all of
them into files, then the first once more as an array, and says which classes were found.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder


def classes(segmentation: np.ndarray, labels: Mapping[str, object]) -> str:
    """Name the classes that occur, and how much of the image each has."""
    names = {value: name for name, value in labels.items() if isinstance(value, int)}
    values, counts = np.unique(segmentation, return_counts=True)
    shares = zip(values.astype(int).tolist(), counts / segmentation.size, strict=True)
    return ", ".join(f"{names.get(value, value)} {share:.1%}" for value, share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--fold", default="0", help="0 to 4, or all, as the study's; default 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    predictor = nnUNetPredictor(device=torch.device(options.device), allow_tqdm=False)
    fold = options.fold if options.fold == "all" else int(options.fold)
    predictor.initialize_from_trained_model_folder(str(options.model), use_folds=(fold,))
    ending, labels = (predictor.dataset_json[key] for key in ("file_ending", "labels"))
    reader = predictor.plans_manager.image_reader_writer_class()

    # From files to files; a case is the list of its channels' files.
    cases = create_lists_from_splitted_dataset_folder(str(options.images), ending, num_processes=1)
    names = [Path(files[0]).name.removesuffix(f"_0000{ending}") for files in cases]
    options.output.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files(
        cases,
        [str(options.output / name) for name in names],
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )
    for name in names:
        segmentation, _ = reader.read_seg(str(options.output / f"{name}{ending}"))
        print(f"{name}: {classes(segmentation, labels)}")

    # From an array to an array. The reader that the model was trained with gives axes and spacing
    # in the order that the predictor wants.
    image_CZYX, properties = reader.read_images(cases[0])
    segmentation_ZYX = predictor.predict_single_npy_array(image_CZYX, properties)
    print(f"{names[0]}, as an array: {classes(segmentation_ZYX, labels)}")


if __name__ == "__main__":  # nnU-Net's worker processes import this file
    main()
