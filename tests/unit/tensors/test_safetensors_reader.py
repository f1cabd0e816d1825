"""Files of tensors, read piece by piece; forged ones are refused at once."""

import math
import os
import resource
import struct
import time

import numpy as np
import pytest

from fedfs.errors import MalformedError, TensorError
from fedfs.tensors import canonical as checkpoint
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_layout import file_bytes
from support.tensor_files import OTHERS, TENSORS, entry, forged, stream


def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path):
    for metadata in (None, {"a": "b"}):
        stream(tmp_path / "t", TENSORS, metadata=metadata)
        layout = {name: ("F32", array.shape) for name, array in TENSORS.items()}
        assert file_bytes(layout, metadata) == (tmp_path / "t").stat().st_size


def test_looking_for_a_name_does_not_read_the_tensor(tmp_path):
    checkpoint.write_safetensors(tmp_path / "t", {"bad": np.float32([math.nan])})
    with TensorFile(tmp_path / "t") as file:
        assert "bad" in file
        assert "other" not in file
        with pytest.raises(TensorError):
            file["bad"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, bad):
    path = tmp_path / "t"
    checkpoint.write_safetensors(path, {**TENSORS, "c.bias": np.float32([0, bad])})
    with TensorFile(path) as file:
        assert file["a"] == 2.5
        with pytest.raises(TensorError, match=r"'c\.bias' holds NaN or infinite"):
            file.read("c.bias")
        assert len(file.read("c.bias", finite=False)) == 2


def test_a_file_is_checked_against_what_is_expected(tmp_path):
    path = tmp_path / "t"
    checkpoint.write_safetensors(path, TENSORS)
    shapes = {name: array.shape for name, array in TENSORS.items()}
    with TensorFile(path) as file:
        file.check_against(shapes)
        with pytest.raises(TensorError, match=r"'a' is F32 \[\], not F32 \[1\]\.$"):
            file.check_against({**shapes, "a": (1,)})
        with pytest.raises(TensorError, match=r"'z' is missing\.$"):
            file.check_against({**shapes, "z": (1,)})
        with pytest.raises(TensorError, match=r"'a' is unexpected\.$"):
            file.check_against({n: s for n, s in shapes.items() if n != "a"})
        with pytest.raises(TensorError, match="not F16"):
            file.check_against(shapes, dtype="F16")


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "t"
    checkpoint.write_safetensors(path, TENSORS)
    with TensorFile(path) as file:
        os.truncate(path, path.stat().st_size - 40)
        with pytest.raises(TensorError, match="truncated"):
            file.read("c.bias")


def test_what_was_read_outlives_the_file_and_can_be_written_to(tmp_path):
    path = tmp_path / "t"
    checkpoint.write_safetensors(path, TENSORS)
    with TensorFile(path) as file:
        array = file["b.weight"]
    path.unlink()
    array += 1
    np.testing.assert_array_equal(array, TENSORS["b.weight"] + 1)


FORGERIES = {
    "empty file": b"",
    "shorter than the length": b"\x02\0\0\0",
    "length only": struct.pack("<Q", 2),
    "length zero": struct.pack("<Q", 0) + b"{}",
    "header of 100 GB": forged({}, length=100 * 10**9),
    "header of 2**64 - 1 bytes": forged({}, length=2**64 - 1),
    "header longer than the file": forged({"t": entry()}, length=1000),
    "header is a list": forged(b"[]", b""),
    "header is a number": forged(b"12", b""),
    "header starts with a space": forged(b" {}", b""),
    "header is not JSON": forged(b"{'t': 1}"),
    "header is not UTF-8": forged(b'{"\xff": 1}'),
    "header is nested deeply": forged(b'{"t":' * 5000),
    "header holds NaN": forged(b'{"t": NaN}'),
    "duplicate name": forged(
        b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "duplicate field": forged(
        b'{"t":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,8]}}'
    ),
    "truncated data": forged({"t": entry()}, bytes(7)),
    "trailing data": forged({"t": entry()}, bytes(9)),
    "data without tensors": forged({}, bytes(8)),
    "overlapping tensors": forged({"a": entry(), "b": entry()}),
    "half-overlapping tensors": forged({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "gap between tensors": forged({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    "gap before the first": forged({"a": entry(offsets=(8, 16))}, bytes(16)),
    "beyond the end": forged({"t": entry(shape=(2**40,), offsets=(0, 2**42))}),
    "end before begin": forged({"t": entry(offsets=(8, 0))}),
    "negative offset": forged({"t": entry(offsets=(-8, 0))}),
    "negative size": forged({"t": entry(shape=(-2,))}),
    "two negative sizes": forged({"t": entry(shape=(-2, -1))}),
    "sizes that overflow 64 bits to 2": forged({"t": entry(shape=(2**63 + 1, 2))}),
    "sizes of 20 digits": forged({"t": entry(shape=(10**20,))}),
    "sizes of 5000 digits": forged(
        b'{"t":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000)
    ),
    "many dimensions": forged({"t": entry(shape=[1] * 1000 + [2])}),
    "size is a float": forged({"t": entry(shape=(2.0,))}),
    "size is a truth value": forged({"t": entry(shape=(True, 2))}),
    "shape is a number": forged(b'{"t":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}'),
    "three offsets": forged({"t": entry(offsets=(0, 8, 8))}),
    "shape does not match the bytes": forged({"t": entry(shape=(3,))}),
    "type does not match the bytes": forged({"t": entry(dtype="F16")}),
    "unknown type": forged({"t": entry(dtype="F4")}),
    "type is a list": forged({"t": entry(dtype=["F32"])}),
    "field missing": forged({"t": {"dtype": "F32", "shape": [2]}}),
    "unknown field": forged({"t": {**entry(), "scale": 1}}),
    "entry is null": forged({"t": None}),
    "empty name": forged({"": entry()}),
    "name of 10,000 characters": forged({"t" * 10_000: entry()}),
    "metadata is a list": forged({"__metadata__": [], "t": entry()}),
    "metadata holds a number": forged({"__metadata__": {"a": 1}, "t": entry()}),
}


@pytest.mark.parametrize("content", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_file_is_refused_at_once_and_in_little_memory(tmp_path, content):
    path = tmp_path / "forged"
    path.write_bytes(content)
    memory_kb, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises((TensorError, MalformedError)) as error:
        TensorFile(path)
    assert time.perf_counter() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb < 32 << 10
    assert len(str(error.value)) < 400


def test_the_table_of_forgeries_starts_from_a_file_that_is_accepted(tmp_path):
    path = tmp_path / "good"
    path.write_bytes(forged({"__metadata__": {"a": "b"}, "t": entry()}))
    with TensorFile(path) as file:
        assert file["t"].tolist() == [0, 0]


def test_header_and_number_of_tensors_are_bounded(tmp_path):
    path = tmp_path / "t"
    checkpoint.write_safetensors(path, TENSORS)
    with pytest.raises(TensorError, match="at most 3 are accepted"):
        TensorFile(path, max_tensors=3)
    with pytest.raises(TensorError, match="at most 64 are accepted"):
        TensorFile(path, max_header_bytes=64)


def test_a_refused_file_is_closed(tmp_path):
    path = tmp_path / "forged"
    path.write_bytes(b"")
    free = os.dup(0)  # the lowest number that the next open() will get
    os.close(free)
    with pytest.raises(TensorError):
        TensorFile(path)
    again = os.dup(0)
    os.close(again)
    assert again == free


def test_a_folder_is_not_a_tensor_file(tmp_path):
    with pytest.raises(TensorError, match="not a regular file"):
        TensorFile(tmp_path)


def test_slices_are_read_into_the_array_that_is_given(tmp_path):
    checkpoint.write_safetensors(tmp_path / "t", {**TENSORS, **OTHERS}, dtypes={"half": "BF16"})
    buffer = np.empty(3, np.float32)
    with TensorFile(tmp_path / "t") as file:
        assert file.read_slice("b.weight", 4, 7, out=buffer) is buffer
        assert buffer.tolist() == [4, 5, 6]
        for other in (np.empty(2, np.float32), np.empty(3, np.int32)):
            assert file.read_slice("b.weight", 4, 7, out=other).tolist() == [4, 5, 6]
        assert file.read_slice("half", 1, 4).tolist() == [-2.5, 0, 2**-130]
        assert file.read_slice("empty", 0, 0).shape == (0,)
