"""Encodings of updates and global versions as payloads. One encoding per file.

The encoding is part of the charter; all sites of a study use the same. See
:mod:`fedfs.tensors.encodings.base` for the seam and its rules.
"""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from fedfs.errors import UserError
from fedfs.tensors.encodings.base import Decoder, Encoded, Encoding, Lossy, payload_layout
from fedfs.tensors.encodings.bf16 import Bf16
from fedfs.tensors.encodings.fixed import Fixed
from fedfs.tensors.encodings.fp16 import Fp16
from fedfs.tensors.encodings.fp32 import Fp32
from fedfs.tensors.encodings.int8 import Int8
from fedfs.tensors.encodings.randk import RandK
from fedfs.tensors.encodings.summed import SummedLevels
from fedfs.tensors.encodings.topk import TopK
from fedfs.tensors.safetensors_layout import Entry

ENCODINGS: Mapping[str, type[Any]] = MappingProxyType(
    {cls.name: cls for cls in (Bf16, Fixed, Fp16, Fp32, Int8, RandK, TopK)}
)
"""Name in the charter -> class; options are its keyword arguments, all of them numbers."""


def by_name(name: str, options: Mapping[str, float] | None = None) -> Encoding:
    """Return the encoding that a charter names.

    Raises:
        UserError: no such encoding; or one of its options does not exist, or is out of its range.
            The hint lists what there is.
    """
    cls = ENCODINGS.get(name)
    if cls is None:
        known = ", ".join(sorted(ENCODINGS))
        raise UserError(f"Unknown encoding {name!r}.", hint=f"known are: {known}")
    own = dict(options or {})
    known_options = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(own) - set(known_options))
    if unknown:
        raise UserError(
            f"Encoding {name!r} has no option {unknown[0]!r}.",
            hint=f"its options are: {', '.join(known_options) or 'none'}",
        )
    encoding: Encoding = cls(**own)
    return encoding
