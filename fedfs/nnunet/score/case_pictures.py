"""Pictures of cases: slices with the outlines of the reference and of each model.

Rules:
 * A case is shown by up to three slices. Those slices that hold the structure, in the reference or
   as the ranked model sees it, are divided into three parts; each part is shown by the slice in
   which that model errs on the largest area.
 * All pictures of a case show the same square section. From black to white they show three times
   the range of the grey values inside the reference: air around a patient does not count.
 * Slices lie and are turned as :mod:`fedfs.nnunet.score.orientation` says.
 * What the reference leaves open (nnU-Net's ignore label) is no error, and is outlined as such.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.errors import DatasetError
from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.data.fingerprint import reader_of
from fedfs.nnunet.data.integrity import check_whole
from fedfs.nnunet.score.case_scores import CaseView
from fedfs.nnunet.score.distances import bounding_box, has_spacing, hd95_mm, long_axes
from fedfs.nnunet.score.orientation import Display, display_of
from fedfs.nnunet.score.outlines import Outline, grey_png, outline
from fedfs.nnunet.score.summary import class_values
from fedfs.nnunet.system.output import capture_output
from fedfs.nnunet.system.workers import map_cases

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

N_SLICES = 3
_CONTEXT = 1.8
"""Side of the section, in sides of the box around what is outlined in it."""
_FEWEST_PIXELS = 32
_GREY_PERCENTILES = (0.5, 99.5)
_MAX_BYTES = 5_000_000  # of all images of a page, before base64
_MAX_BYTES_OF_IMAGE = 150_000


@dataclass(frozen=True)
class SlicePicture:
    """A section of a slice, and what is outlined in it.

    Attributes:
        number: of the slice, from 1, as the file counts them.
        png: the section's grey values.
        reference: outlines of the reference.
        models: model -> its outlines.
        unannotated: ``d`` of an SVG path around what the reference leaves open; "" for nothing.
    """

    number: int
    png: bytes
    reference: tuple[Outline, ...]
    models: Mapping[str, tuple[Outline, ...]]
    unannotated: str = ""


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """Pictures of a case, and its distances.

    Attributes:
        slices: the pictures.
        hd95_mm: model -> class -> HD95 where it is defined; nothing where files tell no spacing.
        n_slices: that the image has.
        display: orientation of the pictures.
        spacing_mm: of the image's axes Z, Y, X; () where the files do not tell it.
        shape: rows and columns of the section, in pixels.
        side: of the square section, in mm, or in pixels where there is no spacing.
        grey: lowest and highest grey value of the pictures.
    """

    slices: tuple[SlicePicture, ...]
    hd95_mm: Mapping[str, Mapping[str, float]]
    n_slices: int
    display: Display
    spacing_mm: tuple[float, ...]
    shape: tuple[int, int]
    side: float
    grey: tuple[float, float]


@dataclass(frozen=True)
class _Section:
    """A square part of the slices; may reach beyond them."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    def cut(self, slice_YX: Array, fill: float = 0) -> Array:  # noqa: N803  axes are in the name
        """Return the section, with ``fill`` around the image."""
        (top, bottom), (left, right) = self.rows, self.columns
        ends = zip((self.rows, self.columns), slice_YX.shape, strict=True)
        inside = slice_YX[max(top, 0) : bottom, max(left, 0) : right]
        padding = [(max(-first, 0), max(end - n, 0)) for (first, end), n in ends]
        return np.pad(inside, padding, constant_values=fill)


def take_pictures(
    views: Sequence[CaseView],
    dataset_json: Mapping[str, Any],
    *,
    ranked_by: str,
    channel: int = 0,
    num_processes: int = 1,
    on_progress: OnProgress = lambda _: None,
    on_broken: Callable[[str, str], None] | None = None,
) -> dict[str, CasePictures]:
    """Return case -> its pictures.

    Args:
        views: the cases.
        dataset_json: names the classes.
        ranked_by: model whose errors choose the slices.
        channel: that is shown, from 0.
        num_processes: 1 reads in this process.
        on_progress: called after every case.
        on_broken: called with the name of a case that cannot be shown, and why; None stops at it.

    Raises:
        DatasetError: no reader of nnU-Net reads any of the images.
        TrainingError: a case is broken (``broken-case``), or memory ran out.
    """
    if not views:
        return {}
    readers = (reader_of(dataset_json, view.images[0]) for view in views)
    reader = next(filter(None, readers), None)
    if reader is None:
        raise DatasetError(
            f"No reader of nnU-Net reads {views[0].images[0]}, nor those of the other cases.",
            hint="give all images the file ending that dataset.json names",
        )
    take = partial(
        _take,
        values=class_values(dataset_json),
        ignored=dataset_json["labels"].get("ignore"),
        reader_name=reader,
        ranked_by=ranked_by,
        channel=channel,
        max_bytes=min(_MAX_BYTES // (N_SLICES * len(views)), _MAX_BYTES_OF_IMAGE),
    )
    out = {}
    jobs = map_cases(take, views, num_processes=num_processes, on_broken=on_broken)
    with capture_output(log) as output:
        for name, pictures in jobs:
            out[name] = pictures
            output.outside(on_progress)(Progress("pictures", len(out), len(views), "case"))
    return out


def _take(
    view: CaseView,
    *,
    values: Mapping[str, Sequence[int]],
    ignored: int | None,
    reader_name: str,
    ranked_by: str,
    channel: int,
    max_bytes: int,
) -> tuple[str, CasePictures]:
    """Return the case's name and pictures."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    images = view.images if len(view.images) == 1 else view.images[channel : channel + 1]
    check_whole((*images, view.reference, *view.predictions.values()))
    reader = recursive_find_reader_writer_by_name(reader_name)()
    image, properties = reader.read_images([str(path) for path in images])
    image = image[channel if len(image) > 1 else 0]
    reference = _read_seg(reader, view.reference, image.shape)
    models = {n: _read_seg(reader, path, image.shape) for n, path in view.predictions.items()}
    spacing = tuple(float(mm) for mm in properties["spacing"])
    distances = {
        model: _distances(reference, np.where(reference == ignored, 0, prediction), values, spacing)
        if has_spacing(reader)
        else {}
        for model, prediction in models.items()
    }
    display = display_of(properties)
    image, reference = display.arranged(image), display.arranged(reference)
    models = {model: display.arranged(prediction) for model, prediction in models.items()}
    numbers = _choose_slices(reference, models[ranked_by], ignored)
    outlined = [stack[number] != 0 for stack in (reference, *models.values()) for number in numbers]
    pixel = spacing[display.axes[1]], spacing[display.axes[2]]
    section = _section(np.any(outlined, axis=0), pixel)
    grey = _grey_range(image[numbers], reference[numbers] != 0)

    def outlines(seg_YX: Array) -> tuple[Outline, ...]:  # noqa: N803  axes are in the name
        cut = section.cut(seg_YX)
        masks = [np.isin(cut, labels) for labels in values.values()]
        return tuple(outline(n, mask) for n, mask in enumerate(masks, start=1) if mask.any())

    return view.name, CasePictures(
        slices=tuple(
            SlicePicture(
                number=number + 1,
                png=grey_png(section.cut(image[number], fill=grey[0]), grey, max_bytes),
                reference=outlines(reference[number]),
                models={model: outlines(stack[number]) for model, stack in models.items()},
                unannotated=_unannotated(section.cut(reference[number]), ignored),
            )
            for number in numbers
        ),
        hd95_mm=distances,
        n_slices=len(image),
        display=display,
        spacing_mm=spacing if has_spacing(reader) else (),
        shape=(section.rows[1] - section.rows[0], section.columns[1] - section.columns[0]),
        side=(section.rows[1] - section.rows[0]) * pixel[0],
        grey=grey,
    )


def _read_seg(reader: Any, path: Path, shape_ZYX: tuple[int, ...]) -> Array:  # noqa: N803  axes are in the name
    segmentation: Array = reader.read_seg(str(path))[0][0]
    if segmentation.shape != shape_ZYX:
        raise DatasetError(
            f"The image has shape {shape_ZYX}, its segmentation {path} {segmentation.shape}.",
            hint="a prediction is left from other images: remove it, and start the site again",
        )
    return segmentation.astype(np.int32)


def _distances(
    reference: Array,
    prediction: Array,
    values: Mapping[str, Sequence[int]],
    spacing_mm: Sequence[float],
) -> dict[str, float]:
    """Return class -> HD95 where it is defined."""
    axes = long_axes(reference.shape)
    spacing_mm = [spacing_mm[axis] for axis in axes]
    true, predicted = (s.reshape([s.shape[a] for a in axes]) for s in (reference, prediction))
    box = bounding_box((true != 0) | (predicted != 0))  # of a large image a small part
    found = {
        name: hd95_mm(np.isin(true[box], labels), np.isin(predicted[box], labels), spacing_mm)
        for name, labels in values.items()
    }
    return {name: mm for name, mm in found.items() if mm is not None}


def _choose_slices(reference: Array, prediction: Array, ignored: int | None) -> list[int]:
    """Return the slice with the largest error in each third of those that hold something."""
    counted = np.ones_like(reference, dtype=bool) if ignored is None else reference != ignored
    errors = ((reference != prediction) & counted).sum(axis=(1, 2))
    areas = ((reference != 0) & counted).sum(axis=(1, 2))
    holding = np.flatnonzero(((reference != 0) | (prediction != 0)).any(axis=(1, 2)))
    if not holding.size:
        holding = np.arange(len(reference))
    thirds = [third for third in np.array_split(holding, N_SLICES) if third.size]
    return [int(max(third, key=lambda n: (errors[n], areas[n]))) for third in thirds]


def _section(outlined_YX: Array, pixel_mm: tuple[float, float]) -> _Section:  # noqa: N803  axes are in the name
    """Return a square around all that is outlined, with what is around it."""
    spans, squares = [], []
    for axis in (0, 1):
        found = np.flatnonzero(outlined_YX.any(axis=1 - axis))
        ends = (found[0], found[-1] + 1) if found.size else (0, outlined_YX.shape[axis])
        spans.append((int(ends[0]), int(ends[1])))
    sides = [(end - begin) * mm for (begin, end), mm in zip(spans, pixel_mm, strict=True)]
    whole = [n * mm for n, mm in zip(outlined_YX.shape, pixel_mm, strict=True)]
    side = min(max(_CONTEXT * max(sides), _FEWEST_PIXELS * min(pixel_mm)), max(whole))
    for (begin, end), n, mm in zip(spans, outlined_YX.shape, pixel_mm, strict=True):
        n_shown = max(round(side / mm), 1)
        # Moved into the image where it fits, and else around it.
        lowest, highest = min(0, (n - n_shown) // 2), max(n - n_shown, (n - n_shown) // 2)
        first = min(max((begin + end - n_shown) // 2, lowest), highest)
        squares.append((first, first + n_shown))
    return _Section(*squares)


def _grey_range(slices: Array, structure: Array) -> tuple[float, float]:
    """Return what is black and what is white: the structure's range, thrice as wide."""
    values = slices[np.isfinite(slices)]
    inside = slices[structure & np.isfinite(slices)]
    low, high = np.percentile(inside if inside.size else values, _GREY_PERCENTILES)
    width = high - low
    return float(max(low - width, values.min())), float(min(high + width, values.max()))


def _unannotated(seg_YX: Array, ignored: int | None) -> str:  # noqa: N803  axes are in the name
    """Return the outline of what nobody has annotated; "" for nothing."""
    mask = seg_YX == ignored
    return outline(0, mask).path if mask.any() else ""
