r"""The format of a bundle: objects of a store in one file, or in parts of it, for a stick.

::

    fedfs-bundle 1\n
    {"created_at": ..., "direction": ..., "sealed": ..., "site": ..., "study": ...}\n
    objects, one after the other
    index: zlib-compressed JSON, which names them
    64 bytes: where the index is, its length, its SHA-256; the file's last bytes

Rules:
 * With encryption, each object and the index are age files of their own: an object is found without
   reading the others, and an export that broke off goes on behind the last whole one.
 * There are no paths in a bundle: an object is named by its key, and keys are checked by
   :func:`fedfs.protocol.layout.check_key`.
 * The header is for people; nothing is decided by it but which keys may open the index, and nothing
   in a bundle is believed because of it.
 * Split, the parts ``NAME.001``, ``NAME.002``, ... are the pieces of that one file.
"""

import struct
from dataclasses import dataclass

MAGIC = b"fedfs-bundle 1\n"
CHUNK_BYTES = 1 << 20
MAX_INDEX_BYTES = 64 << 20
"""Limit of an index before compression; 100,000 objects take 20 MB."""

TRAILER = struct.Struct(">8sQQ8x32s")
MARK = b"fedfs-ix"


@dataclass(frozen=True)
class Header:
    """Header of a bundle, for people.

    Attributes:
        study: id of the study.
        site: the site that it is for or from, or the helper in place of one.
        direction: ``for`` a site or ``from`` it.
        created_at: UTC.
        sealed: whether it is encrypted.
    """

    study: str
    site: str
    direction: str
    created_at: str
    sealed: bool


@dataclass(frozen=True)
class Item:
    """An object in a bundle: its key, size and SHA-256; where it is stored, in how many bytes."""

    key: str
    size: int
    sha256: str
    offset: int
    stored: int


@dataclass(frozen=True)
class Index:
    """Objects in a bundle, and keys that its sender's store holds.

    Attributes:
        items: objects, in the order in which they are to be published.
        has: keys that the sender's store holds of what the other side writes, or needs not send.
    """

    items: tuple[Item, ...]
    has: tuple[str, ...] = ()
