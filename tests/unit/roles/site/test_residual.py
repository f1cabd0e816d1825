"""What a site keeps between rounds: written and read tensor by tensor, and whole or absent."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fedfs.errors import TensorError
from fedfs.roles.site.residual import KeptTensorFiles

LEFT = {"conv.weight": np.full((2, 3), 0.5, np.float32), "conv.bias": np.ones(3, np.float32)}
OWN = {"head.weight": np.full(4, -1.0, np.float32)}


def write(files, version, published=(), left=LEFT, own=OWN):
    shapes = {name: values.shape for name, values in left.items()}
    with files.writing(version, published, residual=shapes, private=own) as keep:
        for name, values in left.items():
            keep(name, values)


def write_part(files):
    with files.writing(2, {0, 1}, residual={"a": (1,), "b": (1,)}, private={}) as keep:
        keep("a", np.zeros(1, np.float32))


def test_what_an_update_leaves_is_there_for_the_next_one(tmp_path):
    files = KeptTensorFiles(tmp_path)
    write(files, 3)
    kept = files.load(4, {3})
    assert set(kept.residual) == set(LEFT)
    for name, values in LEFT.items():
        np.testing.assert_array_equal(kept.residual[name], values)
    np.testing.assert_array_equal(kept.private["head.weight"], OWN["head.weight"])
    assert "head.weight" not in kept.residual
    assert kept.residual.get("head.weight") is None
    assert not files.load(4, ()).residual  # the update was not published
    assert set(files.load(4, {3}, without=["conv.bias"]).residual) == {"conv.weight"}


def test_of_older_ones_the_last_stays(tmp_path):
    files = KeptTensorFiles(tmp_path)
    for version in range(4):
        write(files, version, range(version))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kept-00002.safetensors",
        "kept-00003.safetensors",
    ]


def test_an_update_that_could_not_be_encoded_changes_nothing(tmp_path):
    files = KeptTensorFiles(tmp_path)
    write(files, 0)
    write(files, 1, {0})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TensorError, match="was not written"):
        write_part(files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_lossless_update_of_a_site_without_private_tensors_leaves_nothing(tmp_path):
    write(KeptTensorFiles(tmp_path), 0, left={}, own={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-4] + b"\xff" * 4])
def test_one_that_is_damaged_is_not_used_and_the_log_says_so(tmp_path, caplog, damage):
    files = KeptTensorFiles(tmp_path)
    write(files, 0)
    path = tmp_path / "kept-00000.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    kept = files.load(1, {0})
    assert not kept.residual
    assert not kept.private
    assert "is damaged and not used" in caplog.text


def test_a_residual_is_not_in_memory(tmp_path):
    files, n = KeptTensorFiles(tmp_path), 1 << 16
    write(files, 0, left={f"{i:02d}": np.ones(n, np.float32) for i in range(32)}, own={})
    tracemalloc.start()
    try:
        kept = files.load(1, {0})
        total = sum(float(values.sum()) for values in kept.residual.values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 32 * n
    assert peak < 6 * 4 * n  # of 32
