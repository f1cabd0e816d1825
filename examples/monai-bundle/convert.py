r"""Turn an exported model into a MONAI bundle, with MONAI's own converter.

    pip install monai fire
    python examples/monai-bundle/convert.py MODEL BUNDLE

MODEL is the folder that `fedfs export` printed. Then, wherever the bundle is copied to:

    cd BUNDLE
    python -m monai.bundle run --config_file configs/inference.json \
        --meta_file configs/metadata.json --dataset_dir IMAGES --output_dir PREDICTIONS

IMAGES holds files named as in imagesTs. The bundle has one fold, and needs nnunetv2 to predict.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from monai.apps.nnunet.nnunet_bundle import convert_nnunet_to_monai_bundle

HERE = Path(__file__).parent
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
CHECKPOINT, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


def metadata(model: Path) -> dict[str, object]:
    """Describe the bundle as MONAI wants it; what the model does not say is left open."""
    dataset = json.loads((model / "dataset.json").read_text())
    labels = {str(number): name for name, number in dataset["labels"].items()}
    channels = dataset["channel_names"]
    image = {"type": "image", "format": "magnitude", "spatial_shape": ["*", "*", "*"]}
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "converted from an nnU-Net model"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "nnunetv2": version("nnunetv2"),
            "nibabel": version("nibabel"),
        },
        "task": "segmentation",
        "description": f"{model.name}, trained by a federation of hospitals",
        "authors": "to be filled in",
        "copyright": "to be filled in",
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "num_channels": len(channels),
                    "channel_def": channels,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                }
            },
            "outputs": {
                "pred": {
                    **image,
                    "format": "segmentation",
                    "num_channels": 1,
                    "channel_def": labels,
                    "dtype": "uint8",
                    "value_range": [0, max(map(int, labels))],
                    "is_patch_data": False,
                }
            },
        },
    }


def convert(model: Path, bundle: Path, fold: str) -> None:
    """Write the bundle of one fold."""
    trainer, plans, configuration = model.name.split("__")
    (bundle / "models").mkdir(parents=True)
    # The converter wants a checkpoint of the best epoch too. A federation has none: its last
    # version is the result, so that name leads to it as well.
    with tempfile.TemporaryDirectory() as results:
        copy = Path(results, model.parent.name, model.name)
        (copy / f"fold_{fold}").mkdir(parents=True)
        for name in ("plans.json", "dataset.json"):
            shutil.copy(model / name, copy)
        for name in (CHECKPOINT, BEST):
            (copy / f"fold_{fold}" / name).symlink_to(
                (model / f"fold_{fold}" / CHECKPOINT).resolve()
            )
        os.environ["nnUNet_results"] = results  # noqa: SIM112  nnU-Net's spelling
        convert_nnunet_to_monai_bundle(
            {
                "dataset_name_or_id": model.parent.name,
                "nnunet_trainer": trainer,
                "nnunet_plans": plans,
                "nnunet_configuration": configuration,
            },
            str(bundle),
            fold,
        )
    (bundle / "models" / f"fold_{fold}" / "best_model.pt").unlink()  # the same as model.pt
    for folder in ("configs", "scripts", "docs"):
        (bundle / folder).mkdir()
    content = json.loads((HERE / "inference.json").read_text())
    ending = json.loads((model / "dataset.json").read_text())["file_ending"]
    content.update(fold=f"fold_{fold}", file_ending=ending)
    (bundle / "configs" / "inference.json").write_text(json.dumps(content, indent=4))
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata(model), indent=4))
    shutil.copy(HERE / "network.py", bundle / "scripts")
    (bundle / "scripts" / "__init__.py").touch()
    if (model / "MODEL_CARD.md").exists():
        shutil.copy(model / "MODEL_CARD.md", bundle / "docs" / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--fold", default="0", help="0 to 4, or all, as the study's; default 0")
    options = parser.parse_args()
    convert(options.model, options.bundle, options.fold)
    print(f"wrote {options.bundle}")


if __name__ == "__main__":
    main()
