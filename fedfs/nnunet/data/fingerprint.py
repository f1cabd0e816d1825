"""A site's dataset fingerprint: nnU-Net's measurements, kept in mergeable form.

Rules:
 * A case is read with the reader nnU-Net would take and cropped with its function; foreground is
   where the segmentation is positive, as in nnU-Net.
 * Every foreground voxel counts, where nnU-Net draws a random sample: one pass, no seed.
 * One unusable case stops the fingerprint, unless the site goes on without. The error names the
   case and stays at the site.
 * The geometries come in random order, so that their order says nothing about the cases.
"""

import contextlib
import logging
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation.fingerprints import CaseSketch, mix_cases, sketch_case
from fedfs.errors import BROKEN_CASE_HINT, DatasetError
from fedfs.learner import CaseGeometry, OnProgress, Progress, SiteFingerprint
from fedfs.nnunet.data.broken_cases import OnBroken, missing_files, require_some
from fedfs.nnunet.data.dataset import Case, RawDataset
from fedfs.nnunet.data.integrity import check_whole
from fedfs.nnunet.system.output import capture_output
from fedfs.nnunet.system.workers import map_cases

log = logging.getLogger(__name__)


def extract(
    dataset: RawDataset,
    *,
    num_processes: int,
    on_progress: OnProgress,
    rng: random.Random | None = None,
    on_broken: OnBroken | None = None,
) -> SiteFingerprint:
    """Read every training case once and return the site's fingerprint.

    Args:
        dataset: the raw dataset.
        num_processes: 1 reads in this process.
        on_progress: called after every case.
        rng: shuffles the geometries; the operating system's randomness by default.
        on_broken: called with each case that is left out as unusable; None stops at the first.

    Raises:
        TrainingError: a case is broken (``broken-case``), or memory ran out.
        DatasetError: no case can be used.
    """
    require_some(len(dataset.cases), dataset)
    reader = reader_name(dataset, any_case=on_broken is not None)
    n_channels = len(dataset.dataset_json["channel_names"])
    measure = partial(
        _measure, reader_name=reader, labels=dataset.label_values, n_channels=n_channels
    )
    sketches: list[list[CaseSketch]] = []
    geometry: list[CaseGeometry] = []
    for channels, one in map_cases(
        measure, dataset.cases, num_processes=num_processes, on_broken=on_broken
    ):
        sketches.append(channels)
        geometry.append(one)
        on_progress(Progress("fingerprint", len(geometry), len(dataset.cases), "case"))
    require_some(len(geometry), dataset)
    (rng or random.SystemRandom()).shuffle(geometry)
    return SiteFingerprint(
        n_cases=len(geometry),
        channels=tuple(mix_cases([one[c] for one in sketches]) for c in range(n_channels)),
        geometry=tuple(geometry),
    )


def find_broken(
    dataset: RawDataset, *, num_processes: int, on_progress: OnProgress
) -> dict[str, str]:
    """Read every training case once; return case -> why it cannot be used.

    Args:
        dataset: the raw dataset.
        num_processes: 1 reads in this process.
        on_progress: called after every case that can be used.

    Raises:
        TrainingError: memory ran out.
        DatasetError: no reader of nnU-Net reads the images.
    """
    lacking = {case.name: missing_files(case, dataset) for case in dataset.cases}
    found = {name: reason for name, reason in lacking.items() if reason}
    try:
        with capture_output(log) as output:
            extract(
                dataset.without(found),
                num_processes=num_processes,
                on_progress=output.outside(on_progress),
                on_broken=found.__setitem__,
            )
    except DatasetError:
        if len(found) < len(dataset.cases):
            raise
    return found


def reader_name(dataset: RawDataset, *, any_case: bool = False) -> str:
    """Return the name of the reader that nnU-Net determines for the dataset.

    Args:
        dataset: the raw dataset.
        any_case: try the other cases if the first cannot be read.

    Raises:
        DatasetError: no reader of nnU-Net reads the first image.
    """
    for case in dataset.cases if any_case else dataset.cases[:1]:
        found = reader_of(dataset.dataset_json, case.images[0])
        if found is not None:
            return found
    raise DatasetError(
        f"In {dataset.name}, no reader of nnU-Net reads {dataset.cases[0].images[0]}.",
        hint="see the file endings in nnU-Net's dataset_format.md",
    )


def reader_of(dataset_json: Mapping[str, Any], image: Path) -> str | None:
    """Return the name of nnU-Net's reader of an image; None if it has none that can read it."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    with (
        capture_output(log) as output,
        contextlib.redirect_stderr(output),  # of readers that nnU-Net tries and drops
        contextlib.suppress(RuntimeError),
    ):
        found = determine_reader_writer_from_dataset_json(
            dict(dataset_json), str(image), verbose=False
        )
        return str(found.__name__)
    return None


def _measure(
    case: Case, *, reader_name: str, labels: frozenset[int], n_channels: int
) -> tuple[list[CaseSketch], CaseGeometry]:
    """Return the sketch of each channel, and the geometry."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    check_whole((*case.images, case.label))
    reader = recursive_find_reader_writer_by_name(reader_name)()
    try:
        images_CZYX, properties = reader.read_images([str(path) for path in case.images])  # noqa: N806  axes are in the name
    except RuntimeError as error:
        if str(error):
            raise
        # nnU-Net prints the reason, and raises without a word.
        raise DatasetError(
            "Its channels have different shapes or spacings.",
            hint=BROKEN_CASE_HINT,
        ) from error
    if len(images_CZYX) != n_channels:
        raise DatasetError(
            f"Its images hold {len(images_CZYX)} channels, dataset.json names {n_channels}.",
            hint=BROKEN_CASE_HINT,
        )
    segmentation_1ZYX, _ = reader.read_seg(str(case.label))  # noqa: N806  same
    if images_CZYX.shape[1:] != segmentation_1ZYX.shape[1:]:
        raise DatasetError(
            f"The image has shape {images_CZYX.shape[1:]}, "
            f"its segmentation {segmentation_1ZYX.shape[1:]}.",
            hint=BROKEN_CASE_HINT,
        )
    if not np.isfinite(images_CZYX).all() or not np.isfinite(segmentation_1ZYX).all():
        raise DatasetError(
            "The image or its segmentation holds NaN or infinite values.",
            hint=BROKEN_CASE_HINT,
        )
    found = {float(value) for value in np.unique(segmentation_1ZYX)}
    if not found <= labels:
        unknown = ", ".join(f"{value:g}" for value in sorted(found - labels)[:5])
        raise DatasetError(
            f"The segmentation holds {unknown}, which dataset.json does not name.",
            hint=BROKEN_CASE_HINT,
        )
    cropped, segmentation, _ = crop_to_nonzero(images_CZYX, segmentation_1ZYX)
    foreground = segmentation[0] > 0
    shape, shape_before = cropped.shape[1:], images_CZYX.shape[1:]
    return [sketch_case(channel[foreground]) for channel in cropped], CaseGeometry(
        spacing_mm=tuple(float(mm) for mm in properties["spacing"]),
        shape_after_crop=tuple(int(n) for n in shape),
        relative_size_after_cropping=float(np.prod(shape) / np.prod(shape_before)),
    )
