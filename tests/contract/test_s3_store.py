"""S3 against the contract, on Ceph's gateway; and what is S3's own."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("store_contract")

from store_contract import KEY, StoreContract, outcome  # noqa: E402  rewritten only if imported afterwards

from fedfs.errors import (  # noqa: E402  as above
    FedfsError,
    ObjectExistsError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store import RetryingStore, S3Options  # noqa: E402  as above
from fedfs.store.retry import Patience  # noqa: E402  as above
from fedfs.store.s3 import store as s3  # noqa: E402  as above
from fedfs.store.s3.client import S3Client  # noqa: E402  as above
from fedfs.store.s3.store import S3Store  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above

pytestmark = pytest.mark.xdist_group("ceph")

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20
PART = 5 * MIB  # the least that servers take
NO_PAUSE = Patience(8, pause=lambda _: None)


def noise(n_bytes):
    return random.Random(n_bytes).randbytes(n_bytes)


@pytest.fixture
def place(ceph, monkeypatch):
    """Where the server is, for everything that looks at the variables."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    return ceph


@pytest.fixture
def url(place):
    return f"s3://{place.make_bucket()}/studies"


class S3Contract(StoreContract):
    """All tests in one bucket, each beneath a prefix of its own; connecting takes a while."""

    @pytest.fixture
    def store(self, monkeypatch):
        self.prefix = f"studies/{uuid.uuid4().hex}/"
        if not self.clients:
            self.clients.append(s3.S3Client(self.bucket, self.options))
        monkeypatch.setattr(s3, "S3Client", lambda *_, **__: self.clients[0])
        return S3Store(f"s3://{self.bucket}/{self.prefix}", self.options)

    def put_raw(self, store, name, data):
        self.raw.call_s3("put_object", Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def raw_objects(self, store):
        here = {"Bucket": self.bucket, "Prefix": self.prefix}
        listed = self.raw.call_s3("list_objects_v2", **here)
        assert not listed["IsTruncated"]
        assert not self.raw.call_s3("list_multipart_uploads", **here).get("Uploads")
        keys = [item["Key"] for item in listed.get("Contents", [])]
        return {k.removeprefix(self.prefix): self.raw.cat_file(f"{self.bucket}/{k}") for k in keys}


class TestOnCeph(S3Contract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, ceph):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ceph.environment().items():
                patch.setenv(name, value)
            cls.clients, cls.options = [], S3Options()
            cls.raw, cls.bucket = ceph.client(), ceph.make_bucket()
            yield


def put_count(store):
    return store.request_counts["PUT"]


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of six parts, the last of them short."""
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    path = tmp_path / "large"
    path.write_bytes(noise(5 * PART + 17))
    return path


def test_a_listing_of_more_than_one_page(url):
    store = S3Store(url)
    keys = [f"many/{number:05d}" for number in range(1020)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda key: store.create(key, b""), keys))
    before = store.request_counts["LIST"]
    assert [entry.key for entry in store.list("")] == keys
    assert store.request_counts["LIST"] == before + 2
    assert [entry.key for entry in store.list("many/", after=keys[1000])] == keys[1001:]
    assert store.request_counts["LIST"] == before + 3


def test_requests_are_counted(url, tmp_path):
    store = S3Store(url)
    (tmp_path / "small").write_bytes(b"1")
    store.upload(KEY, tmp_path / "small")
    store.download(KEY, tmp_path / "back", max_bytes=1)
    list(store.list(""))
    store.delete(KEY)
    assert store.request_counts == {"PUT": 1, "GET": 1, "LIST": 1, "DELETE": 1}
    assert RetryingStore(store).request_counts == store.request_counts


def test_a_large_file_goes_up_in_parts_and_is_not_sent_twice(url, large, tmp_path):
    store = S3Store(url)
    assert store.upload(KEY, large) is True
    assert put_count(store) == 1 + 6 + 1
    assert store.upload(KEY, large) is False
    assert (put_count(store), store.request_counts["GET"]) == (8, 0)
    store.download(KEY, tmp_path / "back", max_bytes=10 * PART)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    with large.open("r+b") as file:
        file.seek(3 * PART)
        file.write(b"other")
    with pytest.raises(ObjectExistsError):
        store.upload(KEY, large)
    large.write_bytes(large.read_bytes() + b"longer")
    with pytest.raises(ObjectExistsError):
        store.upload(KEY, large)


def test_a_large_file_that_was_created_otherwise_is_compared(url, large):
    store = S3Store(url)
    store.create(KEY, large.read_bytes())
    assert store.upload(KEY, large) is False
    assert store.request_counts["GET"] == 4


def break_off_after(monkeypatch, n_parts):
    """The line dies for good after so many parts."""
    call, sent = S3Client.call, []

    def dying(self, method, what, **arguments):
        if method == "upload_part":
            if len(sent) >= n_parts:
                raise StoreUnavailableError("the line is dead")
            sent.append(arguments["PartNumber"])
        return call(self, method, what, **arguments)

    monkeypatch.setattr(S3Client, "call", dying)
    return sent


def test_an_upload_goes_on_where_it_broke_off(url, large, monkeypatch):
    store = S3Store(url, patience=NO_PAUSE)
    with monkeypatch.context() as patch:
        sent = break_off_after(patch, 4)
        with pytest.raises(StoreUnavailableError):
            store.upload(KEY, large)
    assert list(store.list("")) == []
    other = S3Store(url)
    assert other.upload(KEY, large) is True
    assert put_count(other) == 6 - len(sent) + 1
    assert other.get(KEY, max_bytes=6 * PART) == large.read_bytes()


def test_parts_of_another_content_are_sent_again(url, large, monkeypatch):
    store = S3Store(url, patience=NO_PAUSE)
    with monkeypatch.context() as patch:
        break_off_after(patch, 4)
        with pytest.raises(StoreUnavailableError):
            store.upload(KEY, large)
    large.write_bytes(large.read_bytes()[::-1])
    assert store.upload(KEY, large) is True
    assert store.get(KEY, max_bytes=6 * PART) == large.read_bytes()


def test_an_upload_that_fails_for_good_leaves_nothing(place, url, large, monkeypatch):
    call = S3Client.call

    def refusing(self, method, what, **arguments):
        if method == "upload_part" and arguments["PartNumber"] == 3:
            raise StoreFullError("full")
        return call(self, method, what, **arguments)

    monkeypatch.setattr(S3Client, "call", refusing)
    with pytest.raises(StoreFullError):
        S3Store(url).upload(KEY, large)
    bucket = url.split("/")[2]
    assert "Contents" not in place.client().call_s3("list_objects_v2", Bucket=bucket)
    assert not place.client().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")


UPLOADER = """
import sys
from pathlib import Path
from fedfs.store import S3Options
from fedfs.store.s3 import store as s3
s3.PART_BYTES = int(sys.argv[4])
s3.S3Store(sys.argv[1], S3Options(endpoint_url=sys.argv[2])).upload(sys.argv[5], Path(sys.argv[3]))
"""


def test_an_upload_goes_on_after_its_process_was_killed(place, url, large):
    bucket = url.split("/")[2]
    raw = place.client()

    def parts():
        found = raw.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads") or []
        for upload in found:
            where = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            return len(raw.call_s3("list_parts", **where).get("Parts", []))
        return 0

    with FaultyProxy(place.port, Faults(rate_bytes_s=12 * MIB)) as line:
        arguments = [url, line.endpoint, str(large), str(PART), KEY]
        process = subprocess.Popen([sys.executable, "-c", UPLOADER, *arguments], cwd=REPOSITORY)
        deadline_s = time.monotonic() + 60
        while parts() < 1 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    held = parts()
    assert held >= 1
    store = S3Store(url)
    assert store.upload(KEY, large) is True
    assert put_count(store) == 6 - held + 1
    assert store.get(KEY, max_bytes=6 * PART) == large.read_bytes()


def test_a_forked_process_connects_by_itself(url):
    store = S3Store(url)
    store.create(KEY, b"parent")
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if store.get(KEY, max_bytes=6) == b"parent" else 1
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get(KEY, max_bytes=6) == b"parent"


# Policies


def test_a_site_that_may_little_needs_no_more(place, monkeypatch, large):
    bucket, site = place.make_bucket(), place.add_user("little")
    who, where = {"AWS": ["arn:aws:iam:::user/little"]}, f"arn:aws:s3:::{bucket}"
    mine = ["s3:GetObject", "s3:PutObject"]
    statements = [
        {"Action": mine, "Resource": f"{where}/s/sites/north/*"},
        {
            "Action": "s3:ListBucket",
            "Resource": where,
            "Condition": {"StringLike": {"s3:prefix": "s/sites/north/*"}},
        },
    ]
    common = {"Effect": "Allow", "Principal": who}
    policy = {"Version": "2012-10-17", "Statement": [{**common, **s} for s in statements]}
    owner = place.client()
    owner.call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", site.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", site.secret_key)
    store = S3Store(f"s3://{bucket}/s")
    assert outcome(store, "sites/north/a", b"1") == "won"
    assert outcome(store, "sites/north/a", b"1") == "same"
    assert outcome(store, "sites/north/a", b"2") == "lost"
    assert store.upload("sites/north/b", large) is True
    assert store.upload("sites/north/b", large) is False
    assert [entry.key for entry in store.list("sites/north/")] == ["sites/north/a", "sites/north/b"]
    for verb in (
        lambda: store.get("sites/south/a", max_bytes=1),
        lambda: store.create("sites/south/a", b"1"),
        lambda: store.upload("sites/south/a", large),
        lambda: store.delete("sites/south/a"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StorePermissionError) as caught:
            verb()
        assert "policy" in caught.value.hint


# Bad lines


def on(line, url, **more):
    return S3Store(url, S3Options(endpoint_url=line.endpoint), **{"silence_s": 2.0, **more})


@pytest.mark.parametrize("seed", [1, 2])
def test_the_contract_holds_over_a_bad_line(place, url, seed):
    faults = Faults(seed=seed, refused=0.15, life_bytes=6000, delay_s=0.002)
    with FaultyProxy(place.port, faults) as line:
        store = RetryingStore(on(line, url, patience=NO_PAUSE), replace(NO_PAUSE, attempts=30))
        keys = [f"a/{number:02d}" for number in range(16)]
        for key in keys:
            assert outcome(store, key, key.encode() * 20) in ("won", "same")
            assert outcome(store, key, key.encode() * 20) == "same"
            assert outcome(store, key, b"other") == "lost"
        assert [entry.key for entry in store.list("a/")] == keys
        assert [store.get(key, max_bytes=99) for key in keys] == [k.encode() * 20 for k in keys]
        store.delete(keys[0])
        store.delete(keys[0])
        with pytest.raises(FedfsError, match="no object"):
            store.get(keys[0], max_bytes=99)
        assert line.dropped > 5


def test_large_files_over_a_bad_line(place, url, tmp_path):
    (tmp_path / "up").write_bytes(noise(64 * MIB))
    with FaultyProxy(place.port, Faults(seed=3, refused=0.1, life_bytes=24 * MIB)) as line:
        store = RetryingStore(on(line, url, patience=NO_PAUSE), replace(NO_PAUSE, attempts=9))
        assert store.upload(KEY, tmp_path / "up") is True
        store.download(KEY, tmp_path / "down", max_bytes=64 * MIB)
        assert line.dropped > 2
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_a_line_that_drops_all_connections_again_and_again(place, url, large, tmp_path):
    """Between two drops there is time for one part, not for two."""
    faults = Faults(drop_every_s=0.4, rate_bytes_s=20 * MIB)
    with FaultyProxy(place.port, faults) as line:
        store = RetryingStore(on(line, url, patience=NO_PAUSE), replace(NO_PAUSE, attempts=9))
        assert store.upload(KEY, large) is True
        store.download(KEY, tmp_path / "down", max_bytes=10 * PART)
        assert line.dropped > 3
    assert (tmp_path / "down").read_bytes() == large.read_bytes()


def test_a_server_that_hangs_is_given_up(place, url, large):
    with FaultyProxy(place.port, Faults(hangs=True)) as line:
        store = on(line, url, silence_s=0.5, patience=Patience(1))
        for verb in (
            lambda: store.get(KEY, max_bytes=1),
            lambda: store.create(KEY, b""),
            lambda: list(store.list("")),
        ):
            begun_s = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                verb()
            assert time.monotonic() - begun_s < 30


def test_a_server_that_is_not_there_is_said_at_once(url, tmp_path):
    store = S3Store(url, S3Options(endpoint_url="http://127.0.0.1:9"))
    begun_s = time.monotonic()
    for verb in (
        lambda: store.get(KEY, max_bytes=1),
        lambda: store.create(KEY, b"1"),
        lambda: list(store.list("")),
        lambda: store.delete(KEY),
    ):
        with pytest.raises(StoreUnavailableError, match="127.0.0.1:9"):
            verb()
    assert time.monotonic() - begun_s < 3
