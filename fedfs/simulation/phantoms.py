"""Made-up three-dimensional images of three hospitals whose scanners differ.

The anatomy is the same everywhere, an ellipsoidal organ (label 1) with a round lesion in it
(label 2); how it looks is not: ``north`` has bright organs and dark lesions, ``east`` the reverse,
``south`` weak contrast, noise and an uneven field, with small organs. A model that saw one of them
does not know the others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SHAPE_ZYX = (12, 40, 40)
SPACING_XYZ_MM = (1.0, 1.0, 2.5)
DATASET_JSON: Mapping[str, object] = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "organ": 1, "lesion": 2},
    "numTraining": 0,
    "file_ending": ".nii.gz",
}


@dataclass(frozen=True)
class Scanner:
    """Appearance of a hospital's images: mean intensities, noise, field, and size of the organ."""

    background: float
    organ: float
    lesion: float
    noise: float
    field: float
    radius: float


SCANNERS: Mapping[str, Scanner] = {
    "east": Scanner(background=260, organ=120, lesion=200, noise=22, field=0.1, radius=11.0),
    "north": Scanner(background=90, organ=230, lesion=150, noise=20, field=0.1, radius=12.0),
    "south": Scanner(background=100, organ=135, lesion=190, noise=16, field=0.25, radius=8.5),
}


def make_case(
    scanner: Scanner, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return one image and its label map, both of :data:`SHAPE_ZYX`."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE_ZYX), indexing="ij")
    centre = np.array(SHAPE_ZYX) / 2 + rng.uniform(-1, 1, 3) * (1, 5, 5)
    radii = scanner.radius * rng.uniform(0.8, 1.2, 3) * (0.38, 1, 1)
    angle = rng.uniform(0, np.pi)
    dy, dx = y - centre[1], x - centre[2]
    u, v = dy * np.cos(angle) + dx * np.sin(angle), dx * np.cos(angle) - dy * np.sin(angle)
    organ = ((z - centre[0]) / radii[0]) ** 2 + (u / radii[1]) ** 2 + (v / radii[2]) ** 2 <= 1
    offset = rng.uniform(-0.4, 0.4, 3) * radii
    size = scanner.radius * rng.uniform(0.4, 0.55)
    lesion = organ & (
        ((z - centre[0] - offset[0]) * 2.5) ** 2 + (dy - offset[1]) ** 2 + (dx - offset[2]) ** 2
        <= size**2
    )
    label = organ.astype(np.uint8) + lesion.astype(np.uint8)
    image = np.choose(label, (scanner.background, scanner.organ, scanner.lesion)).astype(np.float64)
    # Distractors of the organ's brightness: position and size matter, not intensity alone.
    for _ in range(3):
        at = rng.uniform(0, 1, 3) * SHAPE_ZYX
        blob = ((z - at[0]) * 2.5) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= rng.uniform(
            2, 4
        ) ** 2
        image[blob & (label == 0)] = scanner.organ
    slope = rng.normal(0, 1, 2)
    field = 1 + scanner.field * (slope[0] * (y / y.max() - 0.5) + slope[1] * (x / x.max() - 0.5))
    image = image * field + rng.normal(0, scanner.noise, SHAPE_ZYX)
    return np.clip(image, 1, None).astype(np.float32), label


def is_written(folder: Path) -> bool:
    """Return whether :func:`write_dataset` has come to its end in a folder."""
    return (folder / "cases.csv").exists()  # what is written last


def write_dataset(
    folder: Path, *, n_cases: Mapping[str, int], seed: int, with_lesions: bool = True
) -> None:
    """Write an nnU-Net raw dataset of all sites, with ``cases.csv`` (columns ``case,site``).

    Args:
        folder: where ``imagesTr``, ``labelsTr``, ``dataset.json`` go.
        n_cases: cases of each scanner in :data:`SCANNERS`.
        seed: equal seeds give equal images.
        with_lesions: whether a lesion is a class of its own, or a part of the organ.
    """
    import SimpleITK as sitk  # noqa: PLC0415, N813  comes with nnunetv2, heavy

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = ["case,site"]
    for index, (site, number) in enumerate(sorted(n_cases.items())):
        rng = np.random.default_rng((seed, index))
        for case in range(number):
            name = f"{site}_{case:03d}"
            image, label = make_case(SCANNERS[site], rng)
            if not with_lesions:
                label = np.minimum(label, 1)
            for array, path in (
                (image, folder / "imagesTr" / f"{name}_0000.nii.gz"),
                (label, folder / "labelsTr" / f"{name}.nii.gz"),
            ):
                picture = sitk.GetImageFromArray(array)
                picture.SetSpacing(SPACING_XYZ_MM)
                sitk.WriteImage(picture, str(path))
            lines.append(f"{name},{site}")
    dataset = {**DATASET_JSON, "numTraining": sum(n_cases.values())}
    if not with_lesions:
        dataset["labels"] = {"background": 0, "organ": 1}
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
