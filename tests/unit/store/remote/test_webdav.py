"""Downloads over WebDAV, from servers that know ranges and from those that do not."""

import httpx
import pytest
from webdav4.client import Client
from webdav4.fsspec import WebdavFileSystem

from fedfs.store.remote.webdav import WebDAV

DATA = bytes(range(256)) * 1000


def file_system(answer):
    client = Client("http://host", http_client=httpx.Client(transport=httpx.MockTransport(answer)))
    return WebdavFileSystem("http://host", client=client, skip_instance_cache=True)


class Pieces(httpx.SyncByteStream):
    """The body of an answer, as it comes from a connection."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        for at in range(0, len(self.data), 10_000):
            yield self.data[at : at + 10_000]


def with_ranges(request):
    first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
    part = DATA[int(first) : int(last) + 1]
    return httpx.Response(206 if part else 416, stream=Pieces(part))


def without_ranges(_):
    return httpx.Response(200, stream=Pieces(DATA))


@pytest.mark.parametrize("answer", [with_ranges, without_ranges])
@pytest.mark.parametrize("start", [0, 1, 99_999, len(DATA) - 1, len(DATA)])
def test_a_download_goes_on_where_it_stopped(answer, start):
    chunks = WebDAV().read(file_system(answer), "/a", start, len(DATA) + 1)
    assert b"".join(chunks) == DATA[start:]


def test_an_empty_file_has_no_range():
    chunks = WebDAV().read(file_system(lambda _: httpx.Response(416)), "/a", 0, 10)
    assert list(chunks) == []


def test_what_a_server_could_compress_is_asked_for_as_it_is():
    asked = []

    def answer(request):
        asked.append(request.headers["Accept-Encoding"])
        return httpx.Response(206, stream=Pieces(b"1"))

    assert list(WebDAV().read(file_system(answer), "/a", 0, 10)) == [b"1"]
    assert asked == ["identity"]
