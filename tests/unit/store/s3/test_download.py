"""Downloads from S3, against a client that answers from memory."""

from __future__ import annotations

from typing import Any

import pytest

from fedfs.errors import ObjectTooLargeError
from fedfs.store.s3.download import Download


class Client:
    """Answers requests for ranges of one object, and counts the bytes that are taken."""

    def __init__(self, data: bytes) -> None:
        self.data, self.taken = data, 0

    def read(self, what: str, into: bytearray, *, n_bytes: int, check: Any, **wanted: Any) -> None:
        first, _, last = wanted["Range"].removeprefix("bytes=").partition("-")
        part = self.data[int(first) : int(last) + 1]
        check(
            {
                "ResponseMetadata": {"HTTPStatusCode": 206},
                "ContentRange": f"bytes {first}-{last}/{len(self.data)}",
            }
        )
        into.extend(part[:n_bytes])
        self.taken += len(part)


def test_an_object_that_is_too_large_is_refused_before_any_of_it_is_read():
    client = Client(b"x" * 1000)

    def check_size(total: int) -> None:
        if total > 999:
            raise ObjectTooLargeError(f"{total} bytes")

    with pytest.raises(ObjectTooLargeError, match="1000 bytes"):
        Download(client, "key", "it", None).begin(500, check_size=check_size)  # type: ignore[arg-type]
    assert client.taken == 0
    client.data = b"x" * 999
    download = Download(client, "key", "it", None)  # type: ignore[arg-type]
    assert download.begin(500, check_size=check_size) == b"x" * 500
    assert download.total == 999
