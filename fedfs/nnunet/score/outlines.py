"""Grey values as PNG, and masks as outlines of an SVG.

Outlines run between pixels, at half of the way, and are counted in half pixels: whole numbers.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SHRINK = 0.8
_SMALLEST_SIDE = 48


@dataclass(frozen=True)
class Outline:
    """Outlines of a class in a section.

    Attributes:
        class_number: from 1, in the order of the classes.
        path: ``d`` of an SVG path, in half pixels.
        at: rightmost point of the longest outline, as shares of width and height: where the
            class's number may stand.
    """

    class_number: int
    path: str
    at: tuple[float, float]


def outline(class_number: int, mask_YX: Array) -> Outline:  # noqa: N803  axes are in the name
    """Return the outlines of a mask that is not empty."""
    from skimage.measure import find_contours

    parts, longest = [], np.zeros((1, 2), dtype=int)
    for contour in find_contours(np.pad(mask_YX, 1).astype(np.float32), 0.5):
        # Point (1, 1) of the padded mask is the centre of the first pixel: half a pixel in.
        points = np.rint(contour * 2 - 1).astype(int)[:, ::-1]
        steps = np.diff(points, axis=0)
        turns = np.any(steps[1:] != steps[:-1], axis=1)  # of a straight line only the ends
        kept = points[np.concatenate([[True], turns, [True]])]
        moves = np.diff(kept, axis=0)[:-1]  # the last returns to the first
        parts.append(f"M{kept[0][0]} {kept[0][1]}l" + " ".join(f"{x} {y}" for x, y in moves) + "z")
        longest = max(longest, points, key=len)
    x, y = longest[longest[:, 0].argmax()]
    height, width = mask_YX.shape
    return Outline(class_number, "".join(parts), (float(x) / 2 / width, float(y) / 2 / height))


def grey_png(values_YX: Array, grey: tuple[float, float], max_bytes: int) -> bytes:  # noqa: N803  axes are in the name
    """Return a picture with ``grey`` from black to white, made smaller until it fits."""
    from PIL import Image

    low, high = grey
    scaled = (values_YX - low) / ((high - low) or 1.0)
    picture = Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))
    while True:
        out = io.BytesIO()
        picture.save(out, "PNG", optimize=True)
        if out.tell() <= max_bytes or max(picture.size) <= _SMALLEST_SIDE:
            return out.getvalue()
        width, height = (max(round(n * _SHRINK), 1) for n in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
