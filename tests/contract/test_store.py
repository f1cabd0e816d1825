"""The stores of this version against the contract, and against a dictionary."""

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

pytest.register_assert_rewrite("store_contract")

from store_contract import StoreContract  # noqa: E402  rewritten only if imported afterwards

from fedfs.errors import ObjectExistsError, ObjectNotFoundError  # noqa: E402  as above
from fedfs.store import FolderStore, MemoryStore, RetryingStore  # noqa: E402  as above
from fedfs.store.memory import StoredObject  # noqa: E402  as above
from fedfs.store.remote.dialect import Dialect  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from fedfs.store.retry import Patience  # noqa: E402  as above

REPOSITORY = Path(__file__).parents[2]


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        ticks = itertools.count(1_800_000_000)
        return MemoryStore(clock=lambda: float(next(ticks)))

    def put_raw(self, store, name, data):
        store.objects[name] = StoredObject(data, 0.0)

    def raw_objects(self, store):
        return {name: item.data for name, item in store.objects.items()}

    def test_times_are_those_of_the_clock(self, store):
        store.create("a", b"")
        assert [entry.modified_s for entry in store.list("")] == [1_800_000_000.0]


class TestAnyFileSystemOfFsspec(StoreContract):
    """One that fsspec brings along; what it does for several writers is not promised."""

    test_of_many_threads_one_wins = None
    n_readers = 1  # all who open one of its files have one position in it

    @pytest.fixture
    def store(self, tmp_path):
        return FsspecStore(f"memory://{tmp_path}", must_exist=False, dialect=Dialect())

    def put_raw(self, store, name, data):
        _, fs, root = store._connection.open()
        fs.pipe_file(f"{root}/{name}", data)

    def raw_objects(self, store):
        _, fs, root = store._connection.open()
        found = fs.find(root) if fs.exists(root) else []
        return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in found}

    def test_a_folder_that_went_away_is_made_again(self, store):
        store.create("a/b/c", b"1")
        _, fs, root = store._connection.open()
        fs.rm(f"{root}/a", recursive=True)
        assert RetryingStore(store, Patience(3, pause=lambda _: None)).create("a/b/d", b"2")
        assert self.raw_objects(store) == {"a/b/d": b"2"}


class TestFolderStore(StoreContract):
    use_links = True

    @pytest.fixture
    def store(self, tmp_path):
        (tmp_path / "store").mkdir()
        return FolderStore(tmp_path / "store", use_links=self.use_links)

    def put_raw(self, store, name, data):
        path = store.watch_path() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_objects(self, store):
        root = store.watch_path()
        found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
        hidden = [name for name in found if "/." in f"/{name}"]
        assert hidden == []
        return {name: path.read_bytes() for name, path in found.items() if path.is_file()}

    def test_of_several_processes_one_wins(self, store):
        script = f"""
import sys
from pathlib import Path
from fedfs.errors import ObjectExistsError
from fedfs.store import FolderStore
store = FolderStore(Path(sys.argv[1]), use_links={self.use_links})
print("ready", flush=True)
for line in sys.stdin:
    try:
        won = store.create("race/" + line.strip(), sys.argv[2].encode())
    except ObjectExistsError:
        won = False
    print(int(won), flush=True)
"""
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(store.watch_path()), str(number)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(4)
        ]
        try:
            assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 4
            for race in range(20):
                for writer in writers:
                    writer.stdin.write(f"{race:02d}\n")
                for writer in writers:
                    writer.stdin.flush()
                won = [int(writer.stdout.readline()) for writer in writers]
                assert sum(won) == 1
                content = store.get(f"race/{race:02d}", max_bytes=9)
                assert content == str(won.index(1)).encode()
        finally:
            for writer in writers:
                writer.communicate(timeout=20)
        assert len(self.raw_objects(store)) == 20


class TestFolderStoreWithoutLinks(TestFolderStore):
    use_links = False

    @pytest.fixture(autouse=True)
    def no_link(self, monkeypatch):
        monkeypatch.setattr("os.link", None)


KEYS = st.sampled_from(["a/b/c", "a/b-c", "a/d", "b", "c-/d", "c.d", "c/e"])
PREFIXES = st.sampled_from(["", "a/", "a/b/", "c/", "c-/", "x/"])
DATA = st.sampled_from([b"", b"1", b"22"])


class FolderAgainstDictionary(RuleBasedStateMachine):
    """Any order of verbs, some of them through a store that was opened anew."""

    use_links = True

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fedfs-test-"))
        self.store = FolderStore(self.root, use_links=self.use_links)
        self.model = {}

    @rule(key=KEYS, data=DATA, as_file=st.booleans())
    def create(self, key, data, as_file):
        source = self.root / ".source"
        source.write_bytes(data)
        fresh = key not in self.model
        expected = self.model.setdefault(key, data)
        try:
            made = self.store.upload(key, source) if as_file else self.store.create(key, data)
        except ObjectExistsError:
            assert expected != data
        else:
            assert expected == data
            assert made is fresh
        source.unlink()

    @rule(key=KEYS, max_bytes=st.integers(2, 4))
    def read(self, key, max_bytes):
        try:
            assert self.store.get(key, max_bytes=max_bytes) == self.model[key]
        except ObjectNotFoundError:
            assert key not in self.model

    @rule(key=KEYS)
    def delete(self, key):
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(prefix=PREFIXES, after=st.just("") | KEYS | PREFIXES)
    def list_prefix(self, prefix, after):
        listed = [(entry.key, entry.size) for entry in self.store.list(prefix, after=after)]
        expected = [
            (key, len(data))
            for key, data in self.model.items()
            if key.startswith(prefix) and key > after
        ]
        assert listed == sorted(expected)

    @rule()
    def restart(self):
        self.store = FolderStore(self.root, use_links=self.use_links)

    @invariant()
    def disk_equals_model(self):
        assert self.created() == self.model

    def created(self):
        files = [path for path in self.root.rglob("*") if path.is_file() and path.name != ".source"]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    def teardown(self):
        shutil.rmtree(self.root)


class FallbackAgainstDictionary(FolderAgainstDictionary):
    use_links = False


SMALL = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestFolderAgainstDictionary = FolderAgainstDictionary.TestCase
TestFolderAgainstDictionary.settings = SMALL
TestFallbackAgainstDictionary = FallbackAgainstDictionary.TestCase
TestFallbackAgainstDictionary.settings = SMALL
