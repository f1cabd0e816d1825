"""Carry a study between stores: in files, or between two stores that one host sees.

``format`` says what a bundle is; ``export`` and ``load`` write and publish one; ``sync`` needs
none.
"""

from fedfs.bundles.export import Exported, export_bundle
from fedfs.bundles.format import Header, Index, Item
from fedfs.bundles.load import Imported, import_bundle, unsealer
from fedfs.bundles.parts import Parts, find_parts, parse_size
from fedfs.bundles.reader import BundleReader
from fedfs.bundles.sync import Sync, run_sync
from fedfs.bundles.writer import BundleWriter

__all__ = [
    "BundleReader", "BundleWriter", "Exported", "Header", "Imported", "Index", "Item", "Parts",
    "Sync", "export_bundle", "find_parts", "import_bundle", "parse_size", "run_sync", "unsealer",
]  # fmt: skip
