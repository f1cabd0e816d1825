"""Masks that hide an update: pseudo-random numbers that a seed of 32 bytes expands to.

Rules:
 * Each tensor of each update has its own stream. The key of a stream is HKDF-SHA256 (RFC 5869,
   without salt) of the seed, with study, track, version, site and tensor as its context, so that
   one seed under two contexts never gives one mask twice.
 * The stream is the keystream of ChaCha20 (RFC 8439) from block 0 with a nonce of zeros: as each
   key serves one stream only, no nonce is needed.
 * Numbers are 32 bits wide, little-endian, on every host.
"""

import base64
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedfs.protocol import codec
from fedfs.protocol.messages import TrackCharter

SEED_BYTES = 32

Mask = npt.NDArray[np.uint32]

_LABEL = "fedfs mask 1"
_KEY_BYTES, _NONCE = 32, bytes(16)
_WORD_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class MaskContext:
    """The update that a mask is for.

    Attributes:
        study: identifier of the study.
        track: name of the track; "" if the study has none.
        version: global version that the update was trained from.
        site: name of the site.
    """

    study: str
    track: str
    version: int
    site: str

    @classmethod
    def of_update(cls, charter: TrackCharter, site: str, version: int) -> Self:
        """Return that of the update which a site has trained from a version."""
        return cls(study=charter.study, track=charter.track.name, version=version, site=site)


class MaskStream:
    """The mask of one tensor, read from its first value on."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()

    def read(self, n: int) -> Mask:
        """Return the next ``n`` numbers, to be added modulo 2**32."""
        return np.frombuffer(self._encryptor.update(bytes(n * _WORD_BYTES)), dtype="<u4")


def as_text(values: Mask) -> str:
    """Return numbers as base64 of their bytes, for a message."""
    return base64.b64encode(values.astype("<u4").tobytes()).decode()


def from_text(text: str) -> Mask:
    """Return the numbers of a text.

    Raises:
        ValueError: it is none that :func:`as_text` returns.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<u4").astype(np.uint32)


def words_in(text: str) -> int:
    """Return how many numbers a text holds; -1 if it holds something else."""
    try:
        return len(from_text(text))
    except ValueError:
        return -1


def mask_stream(seed: bytes, context: MaskContext, tensor: str) -> MaskStream:
    """Return the mask of a tensor.

    Args:
        seed: secret of the site and the helper, of :data:`SEED_BYTES`.
        context: the update.
        tensor: canonical name of the tensor.

    Raises:
        ValueError: the seed has another length.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    info = [_LABEL, context.study, context.track, context.version, context.site, tensor]
    return MaskStream(HKDF(SHA256(), _KEY_BYTES, None, codec.dumps(info)).derive(seed))
