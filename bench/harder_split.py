"""Divide a raw dataset among sites that are really unlike, by how their images look.

    python bench/harder_split.py --data DIR --folder OUT

Writes OUT, an nnU-Net raw dataset of links with a ``cases.csv`` (case, site, and the numbers that
decided), and prints how unlike the sites are. Deterministic: the same images give the same file.

nnU-Net normalises each MRI image to mean 0 and SD 1, so brightness and scale of an image do not
matter. What stays for a network to learn is how the organ looks in a normalised image: its mean
brightness, and its contrast to the two voxels around it. The first principal component of their
ranks orders the cases, and each site is a stretch of that order, so that no two sites have such
cases in common.

``--own`` keeps the sites of the dataset's ``cases.csv`` instead, to see how unlike those are.
``--organ NAME`` makes one class of all labels, so that small networks converge in fewer iterations.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.simulation.cases import case_names, place_dataset, raw_dataset_json, read_cases

FEATURES = ("brightness", "contrast")
SHARES = {"north": 0.5, "east": 0.3, "south": 0.2}
SHELL_VOXELS = 2


def features(image: Path, labels: Path) -> tuple[float, float]:
    """Return mean brightness and contrast of an organ in an image normalised as nnU-Net does."""
    import SimpleITK as sitk  # noqa: N813  its usual name
    from scipy import ndimage

    values = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).astype(np.float64)
    values = (values - values.mean()) / max(values.std(), 1e-8)
    organ = sitk.GetArrayFromImage(sitk.ReadImage(str(labels))) > 0
    shell = ndimage.binary_dilation(organ, iterations=SHELL_VOXELS) & ~organ
    brightness = float(values[organ].mean())
    return brightness, brightness - float(values[shell].mean())


def order(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return each case's place on the first principal component of the features' ranks."""
    ranks = values.argsort(axis=0).argsort(axis=0).astype(float)
    ranks -= ranks.mean(axis=0)
    _, _, axes = np.linalg.svd(ranks, full_matrices=False)
    first = axes[0] * np.sign(axes[0][np.abs(axes[0]).argmax()])
    return np.asarray(ranks @ first)


def divide(places: np.ndarray[Any, Any]) -> list[str]:
    """Return the site of each case: stretches of the order, as large as :data:`SHARES` says."""
    ends = np.cumsum([round(share * len(places)) for share in SHARES.values()])
    sites = [""] * len(places)
    for rank, case in enumerate(np.argsort(places, kind="stable")):
        sites[case] = list(SHARES)[min(int(np.searchsorted(ends, rank, "right")), len(SHARES) - 1)]
    return sites


def merge_labels(path: Path, organ: str) -> None:
    """Make one region of all labels in a ``dataset.json``."""
    dataset = json.loads(path.read_text())
    values = [value for name, value in dataset["labels"].items() if name != "background"]
    dataset |= {"labels": {"background": 0, organ: values}, "regions_class_order": [1]}
    path.write_text(json.dumps(dataset, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset")
    parser.add_argument("--folder", type=Path, required=True, help="raw dataset to make")
    parser.add_argument("--own", action="store_true", help="keep the sites of cases.csv")
    parser.add_argument("--organ", metavar="NAME", help="make one class of all labels")
    options = parser.parse_args()
    ending = str(raw_dataset_json(options.data)["file_ending"])
    cases = case_names(options.data, ending)
    folder = options.data
    values = np.array(
        [
            features(
                folder / "imagesTr" / f"{case}_0000{ending}",
                folder / "labelsTr" / f"{case}{ending}",
            )
            for case in cases
        ]
    )
    sites = divide(order(values))
    if options.own:
        site_of = {case: site for site, own in read_cases(folder).items() for case in own}
        sites = [site_of[case] for case in cases]
    place_dataset(folder, options.folder, cases)
    if options.organ:
        merge_labels(options.folder / "dataset.json", options.organ)
    with (options.folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "site", *FEATURES))
        for case, site, row in zip(cases, sites, values, strict=True):
            writer.writerow((case, site, *(f"{value:.6f}" for value in row)))
    print(json.dumps({"cases": {site: sites.count(site) for site in sorted(set(sites))}}))
    of = {site: values[[s == site for s in sites]] for site in sorted(set(sites))}
    for number, name in enumerate(FEATURES):
        means = (f"{site} {of[site][:, number].mean():.3f} ± {of[site][:, number].std():.3f}"
                 for site in of)  # fmt: skip
        between = np.var([of[s][:, number].mean() for s in sites])
        share = between / values[:, number].var()
        print(f"{name:<10} {'   '.join(means)}   variance between sites {100 * share:.0f} %")


if __name__ == "__main__":
    main()
