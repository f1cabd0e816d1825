import json

import pytest
from synthetic import task

from fedfs.nnunet.train.checkpoints import CheckpointStore


def writer(content):
    return lambda path: path.write_bytes(content)


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "state", "plan-1")


def test_nothing_is_there_at_first(store):
    assert store.load() is None


def test_what_was_saved_is_loaded(store):
    saved = store.save(store.fresh(task(3, weights_sha256="w")), writer(b"one"))
    progress, path = store.load()
    assert progress == saved
    assert path.read_bytes() == b"one"
    assert progress.belongs_to(task(3, weights_sha256="w"))
    assert not progress.belongs_to(task(4, weights_sha256="w"))
    assert not progress.belongs_to(task(3, weights_sha256="x"))


def test_only_the_last_checkpoint_is_kept(store, tmp_path):
    for content in (b"one", b"two", b"three"):
        store.save(store.fresh(task()), writer(content))
    (path,) = (tmp_path / "state").glob("*.pth")
    assert store.load()[1] == path
    assert path.read_bytes() == b"three"


@pytest.mark.parametrize("step", ["write", "after"])
def test_a_kill_while_saving_leaves_the_one_before(store, tmp_path, step, monkeypatch):
    kept = store.save(store.fresh(task()), writer(b"one"))

    class Killed(BaseException):
        pass

    def half(path):
        path.write_bytes(b"tw")
        raise Killed

    if step == "after":
        monkeypatch.setattr("fedfs.nnunet.system.files.write_json", lambda *_: half(tmp_path / "x"))
    with pytest.raises(Killed):
        store.save(store.fresh(task(1)), half if step == "write" else writer(b"two"))
    assert store.load()[0] == kept


@pytest.mark.parametrize("damage", [b"", b"two", b"onex"])
def test_a_damaged_checkpoint_is_not_loaded(store, damage, caplog):
    store.save(store.fresh(task()), writer(b"one"))
    store.load()[1].write_bytes(damage)
    assert store.load() is None
    assert "damaged" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}'])
def test_an_unusable_record_is_not_believed(store, tmp_path, text, caplog):
    store.save(store.fresh(task()), writer(b"one"))
    (tmp_path / "state" / "progress.json").write_text(text)
    assert store.load() is None
    assert "unusable" in caplog.text


def test_a_record_cannot_point_elsewhere(store, tmp_path):
    store.save(store.fresh(task()), writer(b"one"))
    record = tmp_path / "state" / "progress.json"
    changed = {**json.loads(record.read_text()), "checkpoint": "../../etc/passwd"}
    record.write_text(json.dumps(changed))
    assert store.load() is None


def test_progress_of_another_plan_is_not_used(store, tmp_path, caplog):
    store.save(store.fresh(task()), writer(b"one"))
    assert CheckpointStore(tmp_path / "state", "plan-2").load() is None
    assert "another plan" in caplog.text
