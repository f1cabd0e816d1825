"""The folder store on folders that are full, read-only, foreign, hostile or without links."""

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from fedfs.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreUnavailableError,
)
from fedfs.store import FolderStore, local_files, open_store, posix

KEY = "sites/a/join-0001.json"
NAME = "join-0001.json"


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture(params=[None, False], ids=["links", "locks"])
def store(request, root):
    return FolderStore(root, use_links=request.param, pause=lambda _: None)


def files(root):
    """Everything but folders that an object needs."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir() or path.name.startswith(".")
    )


def failing(monkeypatch, name, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"os.{name}", fail)


# What goes wrong on the share


def test_only_what_the_store_keeps_waits_for_the_disk(store, root, tmp_path, monkeypatch):
    store.create(KEY, b"data")
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real(fd)))
    store.download(KEY, tmp_path / "copy", max_bytes=9)
    assert not synced
    store.adopt("sites/a/adopted.bin", tmp_path / "copy")
    assert (root / "sites/a/adopted.bin").stat().st_ino in synced


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (errno.ENOSPC, StoreFullError, "no space is left"),
        (errno.EDQUOT, StoreFullError, "the quota is used up"),
        (errno.EROFS, StorePermissionError, "the store is read-only"),
        (errno.EACCES, StorePermissionError, "access is denied"),
        (errno.EPERM, StorePermissionError, "it is not permitted"),
        (errno.EIO, StoreUnavailableError, "Input/output error"),
        (errno.ESTALE, StoreUnavailableError, "Stale file handle"),
        (errno.ENAMETOOLONG, StoreError, "File name too long"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "mkdir"])
def test_a_failed_write_is_explained_and_leaves_nothing(
    store, root, monkeypatch, call, code, kind, reason
):
    if call == "fsync" and code in posix.NO_SYNC:
        (root / "sites/a").mkdir(parents=True)  # or the new folder's failure would be forgiven
    failing(monkeypatch, call, code)
    with pytest.raises(StoreError) as caught:
        store.create(KEY, b"data")
    assert type(caught.value) is kind
    assert str(caught.value) == f"{KEY} cannot be written: {reason}."
    assert caught.value.local_text == f"{store.url}: {KEY} cannot be written: {reason}."
    assert caught.value.hint
    assert files(root) == []


@pytest.mark.parametrize(
    "code",
    [
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.ENODEV,
    ],
)
@pytest.mark.parametrize(
    ("call", "verb"),
    [
        ("open", lambda store, path: store.get(KEY, max_bytes=9)),
        ("read", lambda store, path: store.download(KEY, path, max_bytes=9)),
        ("scandir", lambda store, path: list(store.list("sites/"))),
        ("open", lambda store, path: store.create("sites/a/other.json", b"1")),
        ("unlink", lambda store, path: store.delete(KEY)),
    ],
)
def test_a_share_that_went_away_is_a_store_that_may_come_back(
    store, tmp_path, monkeypatch, code, call, verb
):
    store.create(KEY, b"data")
    with monkeypatch.context() as patch:
        failing(patch, call, code)
        with pytest.raises(StoreUnavailableError):
            verb(store, tmp_path / "local")
    verb(store, tmp_path / "local")


def test_a_mount_point_that_is_not_mounted_is_no_empty_store(store, root):
    store.create(KEY, b"data")
    store.create("federation/charter-0001.json", b"charter")
    root.rename(root.with_name("mounted"))
    root.mkdir()
    for verb in (
        lambda: list(store.list("")),
        lambda: list(store.list("federation/")),
        lambda: store.get(KEY, max_bytes=9),
        lambda: store.create(KEY, b"data"),
        lambda: store.create("aggregator/status/1.json", b"1"),
        lambda: store.delete(KEY),
    ):
        with pytest.raises(StoreUnavailableError, match="has lost") as caught:
            verb()
        assert "mounted" in caught.value.hint
    assert list(root.iterdir()) == []
    root.rmdir()
    root.with_name("mounted").rename(root)
    assert store.get(KEY, max_bytes=9) == b"data"


def test_a_root_that_was_there_once_is_not_made_anew(root):
    store = FolderStore(root, must_exist=False)
    store.create(KEY, b"data")
    shutil.rmtree(root)
    with pytest.raises(StoreUnavailableError, match="is not there"):
        store.create(KEY, b"data")
    assert not root.exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_failed_read_is_explained(store, monkeypatch, code):
    store.create(KEY, b"data")
    failing(monkeypatch, "read", code)
    with pytest.raises(StoreError, match=f"{KEY} cannot be read") as caught:
        store.get(KEY, max_bytes=9)
    assert isinstance(caught.value, StorePermissionError) == (code == errno.EACCES)


def test_a_listing_is_complete_or_fails(store, monkeypatch):
    store.create(KEY, b"data")
    failing(monkeypatch, "scandir", errno.EACCES)
    with pytest.raises(StorePermissionError, match="sites/ cannot be listed: access is denied"):
        list(store.list("sites/"))


def test_whichever_call_fails_nothing_is_left_and_a_retry_works(store, root, monkeypatch):
    real = {
        name: getattr(os, name) for name in ("open", "write", "fsync", "link", "rename", "stat")
    }
    calls_left = n_failed = 0

    def wrap(name):
        def call(*args, **kwargs):
            nonlocal calls_left
            calls_left -= 1
            if calls_left == 0:
                raise OSError(errno.EIO, "injected")
            return real[name](*args, **kwargs)

        return call

    for number in range(1, 100):
        calls_left = number
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(f"os.{name}", wrap(name))
            try:
                store.create(KEY, b"data")
            except StoreError:
                n_failed += 1
            else:
                if calls_left > 0:
                    break
        assert files(root) in ([], [KEY])
        store.create(KEY, b"data")
        assert files(root) == [KEY]
        assert store.get(KEY, max_bytes=4) == b"data"
        store.delete(KEY)
    assert 12 <= n_failed < number <= 60


def test_a_retry_of_a_published_object_writes_nothing(store, monkeypatch):
    store.create(KEY, b"data")
    failing(monkeypatch, "write", errno.EROFS)
    assert store.create(KEY, b"data") is False


def test_a_file_that_grows_while_it_is_read_stays_bounded(store, monkeypatch):
    store.create(KEY, b"x" * 1000)
    real_fstat, real_read, n_read = os.fstat, os.read, []

    def small(fd):
        values = list(real_fstat(fd))
        values[stat.ST_SIZE] = 0
        return os.stat_result(values)

    def read(fd, size):
        n_read.append(size)
        return real_read(fd, size)

    monkeypatch.setattr("os.fstat", small)
    monkeypatch.setattr("os.read", read)
    with pytest.raises(ObjectTooLargeError):
        store.get(KEY, max_bytes=10)
    assert n_read == [11]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("use_links", [True, False])
def test_a_disk_that_is_really_full(small_disk, tmp_path, use_links):
    store = FolderStore(small_disk, use_links=use_links)
    big = tmp_path / "big"
    big.write_bytes(b"x" * 2**21)
    with pytest.raises(StoreFullError, match=r"big\.bin cannot be written: no space is left"):
        store.upload("a/big.bin", big)
    with pytest.raises(StoreFullError):
        store.create("a/big.bin", big.read_bytes())
    assert files(small_disk) == []
    assert store.create("a/small.bin", b"fits") is True


def test_a_file_system_that_is_really_read_only(small_disk):
    store = FolderStore(small_disk)
    store.create(KEY, b"data")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorePermissionError, match="read-only"):
        store.create("sites/a/other.json", b"data")
    with pytest.raises(StorePermissionError, match="read-only"):
        store.delete(KEY)
    assert store.create(KEY, b"data") is False
    assert store.get(KEY, max_bytes=4) == b"data"


# Links and locks


def test_links_that_fail_like_a_cut_line_are_told_from_one(root, monkeypatch):
    failing(monkeypatch, "link", errno.EIO)  # as on an rclone mount
    store = FolderStore(root)
    assert store.create(KEY, b"1") is True
    assert store.create("sites/a/other.json", b"2") is True
    with store.scratch() as folder:
        (folder / "file").write_bytes(b"3")
        assert store.adopt("sites/a/adopted.bin", folder / "file") is True
    assert files(root) == [f"sites/a/{name}" for name in ("adopted.bin", NAME, "other.json")]


def test_a_line_that_is_cut_while_links_are_tried_decides_nothing(root, monkeypatch):
    (root / "sites/a").mkdir(parents=True)
    store = FolderStore(root)
    with monkeypatch.context() as patch:
        failing(patch, "link", errno.EIO)
        failing(patch, "mkdir", errno.EIO)
        with pytest.raises(StoreUnavailableError):
            store.create(KEY, b"1")
    failing(monkeypatch, "rename", errno.EPERM)  # which locks need
    assert store.create(KEY, b"1") is True
    assert files(root) == [KEY]


def test_a_loser_opens_again_while_the_temporary_name_of_its_rival_goes(store, monkeypatch):
    store.create(KEY, b"1")
    real, left = os.open, [3]

    def busy(path, flags, *args, **kwargs):
        if path == NAME and left[0]:
            left[0] -= 1
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as on SMB
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr("os.open", busy)
    assert store.create(KEY, b"1") is False
    assert left == [0]
    left[0] = 100
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        store.get(KEY, max_bytes=1)


def test_a_file_that_is_adopted_already_is_not_opened_under_its_second_name(root, monkeypatch):
    store, real = FolderStore(root, pause=lambda _: None), os.open

    def busy(path, flags, *args, **kwargs):
        if path == NAME:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as on SMB
        return real(path, flags, *args, **kwargs)

    with store.scratch() as folder:
        (folder / "made").write_bytes(b"1")
        assert store.adopt(KEY, folder / "made") is True
        monkeypatch.setattr("os.open", busy)
        assert store.adopt(KEY, folder / "made") is False


@pytest.mark.parametrize("code", sorted(local_files.NO_LINKS))
def test_a_share_without_links_is_found_out_once(root, monkeypatch, code):
    tried = []

    def link(*args, **kwargs):
        tried.append(args)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", link)
    store = FolderStore(root)
    assert store.create(KEY, b"1") is True
    assert store.create("b", b"2") is True
    with pytest.raises(ObjectExistsError):
        store.create(KEY, b"3")
    assert len(tried) == 1
    assert files(root) == ["b", KEY]


def test_a_link_that_is_not_permitted_as_the_name_was_taken_is_lost(root, monkeypatch):
    """As sshfs says it, where another host was faster."""
    store = FolderStore(root, use_links=True)

    def link(source, name, *, dst_dir_fd, **_):
        rival = os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=dst_dir_fd)
        os.write(rival, b"theirs")
        os.close(rival)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ObjectExistsError):
        store.create(KEY, b"ours")
    assert files(root) == [KEY]
    assert (root / KEY).read_bytes() == b"theirs"


def test_other_failures_of_link_are_errors(root, monkeypatch):
    failing(monkeypatch, "link", errno.EACCES)
    with pytest.raises(StorePermissionError):
        FolderStore(root).create(KEY, b"1")
    assert files(root) == []


@pytest.fixture
def folder(root):
    """The folder of KEY on the share, where locks are made."""
    path = root / "sites/a"
    path.mkdir(parents=True)
    return path


def age(path, seconds):
    taken_s = path.stat().st_mtime - seconds
    os.utime(path, (taken_s, taken_s))


def test_a_lock_that_is_held_is_waited_for(root, folder):
    lock = folder / posix._lock(NAME, 0)
    lock.mkdir()
    pauses_s = []

    def pause(seconds):
        pauses_s.append(seconds)
        if len(pauses_s) == 3:
            lock.rmdir()

    assert FolderStore(root, use_links=False, pause=pause).create(KEY, b"1") is True
    assert pauses_s == [0.02, 0.04, 0.08]
    assert files(root) == [KEY]


def test_a_rival_that_wins_meanwhile_is_respected(root, folder):
    (folder / posix._lock(NAME, 0)).mkdir()

    def pause(seconds):
        (folder / NAME).write_bytes(b"rival")

    store = FolderStore(root, use_links=False, pause=pause)
    with pytest.raises(ObjectExistsError):
        store.create(KEY, b"mine!")
    assert (folder / NAME).read_bytes() == b"rival"


@pytest.mark.parametrize("n_killed", [1, 3])
def test_locks_of_killed_writers_are_passed_over_and_cleared(root, folder, n_killed):
    for number in range(n_killed):
        lock = folder / posix._lock(NAME, number)
        lock.mkdir()
        age(lock, posix.LOCK_STALE_S + 1)
    store = FolderStore(root, use_links=False, pause=lambda _: pytest.fail("need not wait"))
    assert store.create(KEY, b"1") is True
    assert files(root) == [KEY]


def test_a_lock_that_is_never_released_is_an_error(root, folder):
    lock = folder / posix._lock(NAME, 0)
    lock.mkdir()
    paused_s = []
    store = FolderStore(root, use_links=False, pause=paused_s.append)
    with pytest.raises(StoreError, match=f"{KEY} cannot be written: another writer keeps"):
        store.create(KEY, b"1")
    assert sum(paused_s) > 2 * posix.LOCK_STALE_S
    assert files(root) == [lock.relative_to(root).as_posix()]


def test_a_writer_that_was_taken_for_dead_does_not_rename(root, folder, monkeypatch):
    mine, rivals = folder / posix._lock(NAME, 0), folder / posix._lock(NAME, 1)
    real_mkdir, real_take = os.mkdir, posix._take_lock

    def take(name, fd):
        number = real_take(name, fd)
        if number == 0:
            age(mine, posix.LOCK_STALE_S + 1)  # this writer was stopped for long ...
            real_mkdir(rivals)  # ... and a rival went on
        return number

    def pause(seconds):
        assert not (folder / NAME).exists()
        assert mine.is_dir()
        rivals.rmdir()  # killed or given up

    monkeypatch.setattr(posix, "_take_lock", take)
    store = FolderStore(root, use_links=False, pause=pause)
    assert store.create(KEY, b"1") is True
    assert files(root) == [KEY]


# What killed writers leave


def test_old_temporary_files_are_swept_by_the_shares_clock(store, root, folder, monkeypatch):
    for where in (root, folder):
        for name in (f".fedfs-{'0' * 32}.tmp", ".DS_Store", f".fedfs-{'1' * 32}.tmp"):
            (where / name).write_bytes(b"")
            if "1" in name:
                age(where / name, -posix.SWEEP_AGE_S)
    real = os.fsync

    def later(fd):
        real(fd)
        later_s = os.fstat(fd).st_mtime + posix.SWEEP_AGE_S + 60
        os.utime(fd, (later_s, later_s))

    monkeypatch.setattr("os.fsync", later)
    store.create(KEY, b"1")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".DS_Store",
        f".fedfs-{'1' * 32}.tmp",
        NAME,
    ]
    assert (root / f".fedfs-{'0' * 32}.tmp").exists()  # only where something is written


def test_a_file_that_a_rival_is_just_creating_is_not_swept(store, folder):
    rivals = folder / f".fedfs-{'0' * 32}.tmp"
    rivals.write_bytes(b"")
    os.utime(rivals, (463, 463))  # as another host sees it on NFS
    store.create(KEY, b"1")
    assert rivals.exists()


def test_sweeping_is_rare_and_its_failure_harmless(store, root, monkeypatch):
    n_scans = []
    monkeypatch.setattr("os.scandir", lambda fd: n_scans.append(fd) or failing_scan())

    def failing_scan():
        raise PermissionError(errno.EACCES, "injected")

    for number in range(5):
        store.create(f"a/{number}", b"")
    assert len(n_scans) == 1


# What is in a folder besides objects


def test_symbolic_links_do_not_lead_out_of_the_store(store, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "absent")
    (root / "folder").symlink_to(outside)
    assert list(store.list("")) == []
    for key in ("file", "dangling", "folder/secret", "folder"):
        for verb in (
            lambda key=key: store.get(key, max_bytes=100),
            lambda key=key: store.download(key, tmp_path / "target", max_bytes=100),
            lambda key=key: store.create(key, b"secret"),
            lambda key=key: store.delete(key),
        ):
            with pytest.raises(StoreError, match="symbolic link"):
                verb()
    with pytest.raises(StoreError, match="symbolic link"):
        store.create("folder/new/object", b"")
    with pytest.raises(StoreError, match="symbolic link"):
        list(store.list("folder/"))
    assert files(outside) == ["secret"]
    assert files(root) == ["dangling", "file", "folder"]


def test_the_root_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    FolderStore(tmp_path / "link").create(KEY, b"1")
    assert files(root) == [KEY]


def test_a_pipe_in_place_of_an_object_blocks_nobody(store, root):
    os.mkfifo(root / "pipe")
    for verb in (lambda: store.get("pipe", max_bytes=1), lambda: store.create("pipe", b"")):
        with pytest.raises(StoreError, match="device"):
            verb()
    assert list(store.list("")) == []


def test_a_folder_is_not_an_object(store):
    store.create("a/b", b"")
    with pytest.raises(ObjectNotFoundError):
        store.get("a", max_bytes=1)
    with pytest.raises(StoreError, match="a cannot be written: Is a directory"):
        store.create("a", b"")
    with pytest.raises(ObjectNotFoundError):
        store.get("a/b/c", max_bytes=1)
    with pytest.raises(StoreError, match="a/b/c cannot be written: Not a directory"):
        store.create("a/b/c", b"")


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o007, 0o640, 0o770)]
)
def test_colleagues_may_read_as_far_as_the_umask_allows(store, root, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        store.create(KEY, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / KEY).stat().st_mode) == file_mode
    assert stat.S_IMODE((root / "sites/a").stat().st_mode) == folder_mode


def test_no_descriptor_is_left_open(store, tmp_path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("counting descriptors needs /proc")
    n_before = len(list(descriptors.iterdir()))
    store.create(KEY, b"1")
    next(iter(store.list("")))
    for verb in (
        lambda: store.create(KEY, b"2"),
        lambda: store.get(KEY, max_bytes=0),
        lambda: store.get("absent/key", max_bytes=0),
        lambda: store.get("sites", max_bytes=0),
        lambda: store.download(KEY, tmp_path / "target", max_bytes=0),
    ):
        with pytest.raises(StoreError):
            verb()
    assert len(list(descriptors.iterdir())) == n_before


# Opening


def test_a_missing_folder_may_be_a_share_that_is_not_mounted(tmp_path):
    with pytest.raises(StoreError, match="is not there") as caught:
        open_store(str(tmp_path / "share"))
    assert "mounted" in caught.value.hint


def test_a_share_that_goes_away_is_an_error_and_not_an_empty_store(store, root):
    store.create(KEY, b"1")
    root.rename(root.with_name("elsewhere"))
    for verb in (
        lambda: list(store.list("")),
        lambda: store.get(KEY, max_bytes=1),
        lambda: store.create(KEY, b"1"),
        lambda: store.delete(KEY),
    ):
        with pytest.raises(StoreError, match="is not there"):
            verb()
    assert not root.exists()


def test_a_new_store_is_created_by_its_first_object(tmp_path):
    root = tmp_path / "new" / "store"
    store = open_store(str(root), must_exist=False)
    assert list(store.list("")) == []
    store.delete(KEY)
    with pytest.raises(ObjectNotFoundError):
        store.get(KEY, max_bytes=1)
    assert not root.exists()
    store.create(KEY, b"1")
    assert files(root) == [KEY]


@pytest.mark.parametrize("must_exist", [True, False])
def test_a_file_is_not_a_store(tmp_path, must_exist):
    (tmp_path / "file").write_bytes(b"")
    for path in ("file", "file/store"):
        with pytest.raises(StoreError, match="is not a folder"):
            open_store(str(tmp_path / path), must_exist=must_exist).create("a", b"")


def test_scratch_of_a_process_that_was_killed_is_cleared_away(root):
    store = open_store(str(root))
    left, fresh = root / ".fedfs-scratch-old", root / ".fedfs-scratch-new"
    for folder in (left, fresh):
        folder.mkdir()
        (folder / "payload").write_bytes(b"much")
    os.utime(left, (0, 0))
    with store.scratch() as folder:
        assert folder.parent == root
        assert not left.exists()
        assert fresh.exists()
        assert not list(store.list(""))


def test_a_file_on_another_disk_or_without_links_is_copied(root, tmp_path, monkeypatch):
    store = open_store(str(root))
    (tmp_path / "made").write_bytes(b"content")

    def no_links(*_args, **_options):
        raise OSError(errno.EXDEV, "other disk")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError):  # nor can the copy get its name on this disk, here
        store.adopt("a", tmp_path / "made")
    monkeypatch.undo()
    no_link_store = FolderStore(root, use_links=False)
    assert no_link_store.adopt("a", tmp_path / "made") is True
    assert store.get("a", max_bytes=100) == b"content"
