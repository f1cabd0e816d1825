"""Check that image files are complete.

ITK, and with it nnU-Net, reads a NIfTI file that ends early or is damaged without a word: what is
missing is 0. Half an image from an interrupted copy would be trained on.
"""

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

from fedfs.errors import DatasetError

_COPY_HINT = "copy the file again, or go on without the case: --skip-broken-cases"
_BLOCK_BYTES = 2**20
_GZIP = b"\x1f\x8b"


def check_whole(paths: Iterable[Path]) -> None:
    """Check compressed files by their own checksum, and plain NIfTI by its length; others pass.

    Raises:
        DatasetError: naming the file.
        OSError: a file cannot be read.
    """
    for path in paths:
        if path.suffix == ".nii":
            _check_length(path)
            continue
        with path.open("rb") as file:
            is_compressed = file.read(len(_GZIP)) == _GZIP
        if is_compressed:
            _check_sum(path)


def _check_sum(path: Path) -> None:
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path.name} is damaged or ends early: {error}.",
            hint=_COPY_HINT,
        ) from error


def _check_length(path: Path) -> None:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
    except ImageFileError as error:
        raise DatasetError(
            f"{path.name} is no NIfTI file: {error}.",
            hint=_COPY_HINT,
        ) from error
    n_bytes = math.prod(image.shape) * image.header.get_data_dtype().itemsize
    expected = image.dataobj.offset + n_bytes
    if path.stat().st_size < expected:
        raise DatasetError(
            f"{path.name} ends early: it has {path.stat().st_size} of {expected} bytes.",
            hint=_COPY_HINT,
        )
