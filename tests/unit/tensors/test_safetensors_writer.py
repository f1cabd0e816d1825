"""Files of tensors, written tensor by tensor or in slices."""

import os

import numpy as np
import pytest
import safetensors.numpy

from fedfs.errors import TensorError
from fedfs.tensors import safetensors_writer
from fedfs.tensors.safetensors_writer import TensorWriter
from support.tensor_files import OTHERS, TENSORS, assert_same, stream

LAYOUT = {
    "b.weight": ("F32", (3, 4)),
    "a": ("F32", ()),
    "empty": ("F32", (0, 3)),
    "c.bias": ("F32", (7,)),
    "half": ("BF16", (2, 2)),
    "levels": ("I8", (2, 3)),
}


def test_tensors_and_slices_are_written_in_any_order(tmp_path):
    tensors, path = {**TENSORS, **OTHERS}, tmp_path / "any"
    stream(tmp_path / "whole", tensors, dtypes={"half": "BF16"})
    with TensorWriter(path, LAYOUT) as file:
        file.write_slice("levels", 4, np.int8([-2, -127]))
        file.write_slice("b.weight", 5, TENSORS["b.weight"].reshape(-1)[5:])
        file.write("half", OTHERS["half"])
        file.write("c.bias", TENSORS["c.bias"])
        file.write_slice("levels", 0, OTHERS["levels"].reshape(-1)[:4])
        file.write_slice("b.weight", 0, TENSORS["b.weight"].reshape(-1)[:5])
        file.write("a", TENSORS["a"])
        assert not path.exists()
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["any", "whole"]


BROKEN = {
    "not all": ([(0, 11)], "not written to its end"),
    "a gap": ([(0, 5), (6, 12)], "not all of it"),
    "not the beginning": ([(1, 12)], "not all of it"),
    "twice": ([(0, 12), (0, 12)], "twice"),
    "an overlap": ([(0, 6), (5, 12)], "twice"),
    "too far": ([(0, 13)], "has 12 values, not 0 to 13"),
    "before the beginning": ([(-1, 11)], "has 12 values, not -1 to 11"),
}


@pytest.mark.parametrize(("slices", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_every_value_has_to_be_written_once(tmp_path, slices, reason):
    path = tmp_path / "t"
    path.write_bytes(b"old")

    def write():
        with TensorWriter(path, {"b.weight": ("F32", (3, 4))}) as file:
            for start, stop in slices:
                file.write_slice("b.weight", start, np.zeros(stop - start, np.float32))

    with pytest.raises(TensorError, match=reason):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_slices_of_another_type_are_not_written(tmp_path):
    for dtype, array in [
        ("F32", np.zeros(2)),
        ("BF16", np.float32([1.001, 1])),
        ("I8", np.ones(2)),
    ]:
        with (
            pytest.raises(TensorError, match="announced as|bfloat16"),
            TensorWriter(tmp_path / "t", {"t": (dtype, (2,))}) as file,
        ):
            file.write_slice("t", 0, array)
    assert not list(tmp_path.iterdir())


def test_a_large_file_goes_to_the_disk_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "_SYNC_BYTES", 4)
    synced, real = [], os.fsync
    monkeypatch.setattr(safetensors_writer.os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    stream(tmp_path / "t", TENSORS)
    assert len(synced) > 4
    assert_same(safetensors.numpy.load_file(tmp_path / "t"), TENSORS)


def test_what_the_disk_did_not_take_in_between_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "_SYNC_BYTES", 4)
    answers = iter([OSError(5, "Input/output error")])

    def fsync(fd):
        for error in answers:  # the system says it once
            raise error

    monkeypatch.setattr(safetensors_writer.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        stream(tmp_path / "t", TENSORS)
    assert not list(tmp_path.iterdir())
