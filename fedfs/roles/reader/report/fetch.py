"""The newest pages that the aggregator has published in the store.

A page is not signed: whoever can write to the store can change it.
"""

from fedfs.errors import StudyError
from fedfs.protocol import layout
from fedfs.store.base import ReadableStore

_MAX_BYTES = 64 << 20


def newest_page(store: ReadableStore, folder: str = layout.REPORTS) -> str:
    """Return the newest page in a folder of the store.

    Raises:
        StudyError: there is none.
        StoreError: the store cannot be read, or the page is longer than any report.
    """
    keys = [entry.key for entry in store.list(folder) if entry.key.endswith(".html")]
    if not keys:
        raise StudyError(
            f"The aggregator has published no report in {folder} yet.",
            hint="it does after every version, unless it was started with --no-report",
        )
    return store.get(max(keys), max_bytes=_MAX_BYTES).decode(errors="replace")
