"""Carry a study between stores: in files, or between two stores that one host sees.

``bundle`` has the format; ``outgoing`` writes a bundle, ``incoming`` publishes one; ``sync`` needs
none.
"""

from fedfs.roles.courier.bundle.format import Header, Index, Item
from fedfs.roles.courier.bundle.pack import BundleWriter
from fedfs.roles.courier.bundle.parts import Parts, find_parts, parse_size
from fedfs.roles.courier.bundle.unpack import BundleReader
from fedfs.roles.courier.incoming import Imported, import_bundle, unsealer
from fedfs.roles.courier.outgoing import Exported, export_bundle
from fedfs.roles.courier.sync import Sync, run_sync

__all__ = [
    "BundleReader", "BundleWriter", "Exported", "Header", "Imported", "Index", "Item", "Parts",
    "Sync", "export_bundle", "find_parts", "import_bundle", "parse_size", "run_sync", "unsealer",
]  # fmt: skip
