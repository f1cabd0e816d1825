"""What every store must do, whatever is behind it.

A store's tests subclass :class:`StoreContract` and give it a fixture ``store``, and ``put_raw``
and ``raw_objects``, which go behind the store's back: they are the oracle.
"""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedfs.errors import (
    MalformedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    SetupError,
)
from fedfs.store import Store
from support.slow import SLOW

KEY = "sites/a/join-0001.json"
BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a//b",
    "a/",
    "../a",
    "a/../b",
    "a/.hidden",
    ".fedfs-x.tmp",
    "A",
    "a b",
    "a\\b",
    "a\nb",
    "a\0b",
    "é",
    "a" * 129,
    "/".join(["a" * 60] * 5),
]
FOREIGN_NAMES = ["Thumbs.db", ".DS_Store", "~$notes.json", "join 0001.json", "sites/a/.part", "é"]
N_WRITERS = 16


def outcome(store: Store, key: str, data: bytes) -> str:
    try:
        return "won" if store.create(key, data) else "same"
    except ObjectExistsError:
        return "lost"


def races(stores, n_races, *, start_s=10):
    """Yield a key, and the outcome of each of many writers who create it at the same time.

    The writers take the stores in turn; each waits so many seconds for the others to begin.
    """
    with ThreadPoolExecutor(N_WRITERS) as pool:
        for race in range(n_races):
            key, start = f"race/{race:02d}", threading.Barrier(N_WRITERS)

            def write(number, key=key, start=start):
                start.wait(start_s)
                return outcome(stores[number % len(stores)], key, b"%d" % number)

            yield key, list(pool.map(write, range(N_WRITERS)))


def files(root):
    """Return name -> bytes of every file beneath a folder, hidden ones included."""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


class StoreContract:
    """The suite.

    Attributes:
        n_races: of many writers for one key.
        n_reads: at least so many while objects are written.
        n_readers: threads that read them.
        torn_bytes: length of those objects.
    """

    n_races = 20
    n_reads = 0
    torn_bytes = 2**19
    n_readers = 2

    def put_raw(self, store, name, data):
        raise NotImplementedError

    def raw_objects(self, store):
        """Return name -> bytes of everything there is, hidden and foreign things included."""
        raise NotImplementedError

    # Creating and reading

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
    def test_what_was_created_is_read(self, store, data):
        assert store.create(KEY, data) is True
        assert store.get(KEY, max_bytes=len(data)) == data
        assert self.raw_objects(store) == {KEY: data}

    def test_same_bytes_again_are_a_lost_acknowledgement(self, store):
        store.create(KEY, b"one")
        assert store.create(KEY, b"one") is False
        assert self.raw_objects(store) == {KEY: b"one"}

    @pytest.mark.parametrize("other", [b"", b"on", b"two", b"one more"])
    def test_an_object_is_never_overwritten(self, store, other):
        store.create(KEY, b"one")
        with pytest.raises(ObjectExistsError, match=KEY) as caught:
            store.create(KEY, other)
        assert store.url in caught.value.local_text
        assert store.url not in str(caught.value)  # which may be published
        assert caught.value.hint
        assert self.raw_objects(store) == {KEY: b"one"}

    def test_a_missing_object_is_named(self, store, tmp_path):
        with pytest.raises(ObjectNotFoundError, match=KEY):
            store.get(KEY, max_bytes=10)
        with pytest.raises(ObjectNotFoundError, match=KEY):
            store.download(KEY, tmp_path / "file", max_bytes=10)
        assert list(tmp_path.glob("file*")) == []

    def test_reading_is_bounded(self, store, tmp_path):
        store.create(KEY, b"12345")
        assert store.get(KEY, max_bytes=5) == b"12345"
        with pytest.raises(ObjectTooLargeError, match="4 bytes"):
            store.get(KEY, max_bytes=4)
        with pytest.raises(ObjectTooLargeError):
            store.get(KEY, max_bytes=0)
        target = tmp_path / "target"
        target.mkdir()
        with pytest.raises(ObjectTooLargeError):
            store.download(KEY, target / "file", max_bytes=4)
        assert list(target.iterdir()) == []

    # Files

    @pytest.mark.parametrize("size", [0, 1, 2**23, 2**23 + 17])  # readings have 8 MiB
    def test_a_file_travels_both_ways(self, store, tmp_path, size):
        data = hashlib.shake_128(b"seed").digest(size)
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(data)
        target.write_bytes(b"an older file is replaced")
        assert store.upload(KEY, source) is True
        assert store.upload(KEY, source) is False
        assert store.create(KEY, data) is False
        store.download(KEY, target, max_bytes=size)
        assert target.read_bytes() == data
        assert self.raw_objects(store) == {KEY: data}
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    def test_an_upload_does_not_overwrite(self, store, tmp_path):
        source = tmp_path / "source"
        source.write_bytes(b"1" * 2**20 + b"2")
        store.upload(KEY, source)
        source.write_bytes(b"1" * 2**20 + b"3")
        with pytest.raises(ObjectExistsError):
            store.upload(KEY, source)
        assert store.get(KEY, max_bytes=2**21)[-1:] == b"2"

    def test_trouble_with_the_local_file_is_not_the_stores(self, store, tmp_path):
        with pytest.raises(SetupError, match="absent"):
            store.upload(KEY, tmp_path / "absent")
        with pytest.raises(SetupError):
            store.upload(KEY, tmp_path)
        assert self.raw_objects(store) == {}
        store.create(KEY, b"1")
        with pytest.raises(SetupError, match="absent"):
            store.download(KEY, tmp_path / "absent" / "file", max_bytes=1)

    # Listing and deleting

    def test_listing_is_sorted_by_key_and_cut_by_prefix(self, store):
        keys = ["b", "a/x", "a-b/c", "a.b", "a/b/c", "a0", "a/b.c", "a/b-c/d", "ab/c"]
        for key in keys:
            store.create(key, key.encode())
        assert [entry.key for entry in store.list("")] == sorted(keys)
        assert [entry.key for entry in store.list("a/")] == ["a/b-c/d", "a/b.c", "a/b/c", "a/x"]
        assert [entry.key for entry in store.list("a/b/")] == ["a/b/c"]
        assert [entry.size for entry in store.list("ab/")] == [4]

    def test_entries_carry_a_plausible_time(self, store):
        for number in range(3):
            store.create(f"a/{number}", b"")
        times_s = [entry.modified_s for entry in store.list("a/")]
        assert times_s == sorted(times_s)
        assert times_s[0] > 1.7e9

    def test_a_listing_starts_behind_what_is_known(self, store):
        keys = ["a/b-c/d", "a/b.c", "a/b/c", "a/b/d", "a/c", "b"]
        for key in keys:
            store.create(key, b"x")
        cuts = ["", *keys, "a", "a/b", "a/b/", "a/b-", "a/b0", "a/b/c0", "a/b/~", "a/~", "~"]
        for after in cuts:
            for prefix in ("", "a/", "a/b/", "x/"):
                listed = [entry.key for entry in store.list(prefix, after=after)]
                assert listed == [k for k in keys if k.startswith(prefix) and k > after], after

    def test_a_missing_prefix_is_an_empty_listing(self, store):
        assert list(store.list("")) == []
        store.create("a/b", b"")
        assert list(store.list("a/b/")) == []
        assert list(store.list("c/")) == []
        assert list(store.list("c/d/")) == []

    def test_foreign_names_are_not_listed(self, store):
        store.create(KEY, b"1")
        for name in FOREIGN_NAMES:
            self.put_raw(store, name, b"foreign")
        assert [entry.key for entry in store.list("")] == [KEY]
        assert [entry.key for entry in store.list("sites/a/")] == [KEY]

    def test_deleting_is_idempotent(self, store):
        store.create(KEY, b"1")
        store.delete(KEY)
        store.delete(KEY)
        store.delete("never/was")
        store.delete(KEY + "/beneath")
        assert self.raw_objects(store) == {}
        assert store.create(KEY, b"2") is True

    def test_deleting_removes_only_its_key(self, store):
        for key in ("a/b", "a/c", "ab"):
            store.create(key, b"")
        store.delete("a/b")
        store.delete("a")
        assert sorted(self.raw_objects(store)) == ["a/c", "ab"]

    # Keys

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_no_verb_takes_a_bad_key(self, store, tmp_path, key):
        source = tmp_path / "source"
        source.write_bytes(b"")
        for verb in (
            lambda: store.get(key, max_bytes=1),
            lambda: store.create(key, b""),
            lambda: store.upload(key, source),
            lambda: store.download(key, tmp_path / "target", max_bytes=1),
            lambda: store.delete(key),
        ):
            with pytest.raises(MalformedError):
                verb()
        assert self.raw_objects(store) == {}

    @pytest.mark.parametrize("prefix", ["a", "/", "../", ".hidden/", "A/", "a//"])
    def test_no_listing_of_a_bad_prefix(self, store, prefix):
        with pytest.raises(MalformedError):
            list(store.list(prefix))

    def test_the_longest_key_fits(self, store):
        for key in ("a" * 128, "/".join(["b" * 127] * 2)):
            assert store.create(key, b"1")
            assert store.get(key, max_bytes=1) == b"1"
            assert [entry.key for entry in store.list("")][-1] == key

    # Races

    def test_of_many_threads_one_wins(self, store):
        for key, outcomes in races([store], self.n_races):
            assert outcomes.count("won") == 1
            assert outcomes.count("lost") == N_WRITERS - 1
            assert store.get(key, max_bytes=9) == b"%d" % outcomes.index("won")
        assert len(self.raw_objects(store)) == self.n_races

    def test_readers_see_all_or_nothing(self, store):
        n_keys, n_rounds = 12, max(1, self.n_reads // 250)
        rounds = [[f"torn-{r}/{number:02d}" for number in range(n_keys)] for r in range(n_rounds)]
        current, written = [0], threading.Event()
        seen, reads = set(), []

        def read():
            while True:
                last, keys = written.is_set(), rounds[current[0]]
                for entry in store.list(keys[0][:-2]):
                    assert entry.size == self.torn_bytes
                for key in keys:
                    try:
                        data = store.get(key, max_bytes=2 * self.torn_bytes)
                    except ObjectNotFoundError:
                        continue
                    assert data == key[-2:].encode() * (self.torn_bytes // 2)
                    seen.add(key)
                    reads.append(key)
                if last:
                    return

        with ThreadPoolExecutor(self.n_readers) as pool:
            readers = [pool.submit(read) for _ in range(self.n_readers)]
            try:
                for current[0], keys in enumerate(rounds):
                    for key in keys:
                        store.create(key, key[-2:].encode() * (self.torn_bytes // 2))
                    while len(reads) * n_rounds < self.n_reads * (current[0] + 1):
                        time.sleep(0.01)
                        assert not any(reader.done() for reader in readers)
            finally:
                written.set()
            for reader in readers:
                reader.result(60)
        assert seen >= set(rounds[-1])
        assert len(reads) >= self.n_reads

    # --- adopt -----------------------------------------------------------------------------------

    def test_adopt_creates_an_object_from_scratch_whole_and_once(self, store):
        with store.scratch() as folder:
            (folder / "made").write_bytes(b"content")
            assert not list(store.list(""))
            assert store.adopt(KEY, folder / "made") is True
            assert store.adopt(KEY, folder / "made") is False
            (folder / "other").write_bytes(b"another")
            with pytest.raises(ObjectExistsError):
                store.adopt(KEY, folder / "other")
        assert store.get(KEY, max_bytes=100) == b"content"
        assert not folder.exists()
        assert self.raw_objects(store) == {KEY: b"content"}
        with pytest.raises(MalformedError):
            store.adopt("../x", folder / "made")


class RemoteContract(StoreContract):
    """The suite on a server: few races, as each takes long, and many with ``FEDFS_SLOW_TESTS``."""

    n_races = 100 if SLOW else 3
    n_reads = 10_000 if SLOW else 0
    torn_bytes = 2**16


class FolderBehind(RemoteContract):
    """The suite where a folder is behind the store: ``root``, which a fixture sets."""

    def put_raw(self, store, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        return files(self.root)


class MountContract(FolderBehind):
    """The suite on a folder that is mounted, where names are given by hard links."""

    def raw_objects(self, store):
        assert list(self.root.rglob(".*")) == []
        return super().raw_objects(store)

    def test_links_are_used(self, store):
        store.create("a", b"1")
        assert store._links is True
