import hashlib
import json
import math
import os
import resource
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from fedfs.errors import MalformedError, TensorError
from fedfs.tensors import canonical as checkpoint
from fedfs.tensors import safetensors_writer
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_library import check_both_readers
from fedfs.tensors.safetensors_reader import dtype_of, file_bytes
from fedfs.tensors.safetensors_writer import TensorWriter

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 3), dtype=np.float32),
    "c.bias": np.linspace(-1, 1, 7, dtype=np.float32),
}


def stream(path, tensors, **options):
    shapes = {name: array.shape for name, array in tensors.items()}
    own = {name: dtype_of(array) for name, array in tensors.items()} | options.pop("dtypes", {})
    checkpoint.stream_safetensors(path, shapes, tensors.__getitem__, dtypes=own, **options)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def small_net(kind):
    nets = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    common = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": (4, 8, 8),
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": (1, 2, 2),
        "num_classes": 3,
        "n_conv_per_stage_decoder": (1, 1),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if kind == "plain":
        return nets.PlainConvUNet(n_conv_per_stage=(2, 2, 2), **common)
    return nets.ResidualEncoderUNet(n_blocks_per_stage=(1, 2, 2), **common)


class Wrapped(nn.Module):
    """What torch.compile (``_orig_mod``) and DistributedDataParallel (``module``) do to names."""

    def __init__(self, child, attribute):
        super().__init__()
        self.add_module(attribute, child)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.output = nn.Linear(4, 5)
        self.output.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(4)
        self.none_a = nn.Parameter(torch.empty(0))
        self.none_b = nn.Parameter(torch.empty(0))


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_every_parameter_of_a_real_unet_has_one_canonical_name(kind):
    net = small_net(kind)
    state = net.state_dict()
    names = checkpoint.canonical_names(state)
    assert len(names) == len(list(net.parameters()))  # torch lists a shared parameter once
    assert sorted(name for group in names.values() for name in group) == sorted(state)
    assert len(state) > 2 * len(names)
    assert not any("all_modules" in name or "decoder.encoder" in name for name in names)
    for canonical, group in names.items():
        assert canonical in group
        assert all(torch.equal(state[canonical], state[alias]) for alias in group)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("attributes", [["_orig_mod"], ["module"], ["_orig_mod", "module"]])
def test_wrappers_change_no_canonical_name(kind, attributes):
    net = small_net(kind)
    wrapped = net
    for attribute in attributes:
        wrapped = Wrapped(wrapped, attribute)
    assert_same(checkpoint.extract(wrapped), checkpoint.extract(net))


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_real_unet_computes_the_same_after_its_tensors_moved_to_another(kind, tmp_path):
    source, target = small_net(kind).eval(), small_net(kind).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    path = tmp_path / "model.safetensors"
    checkpoint.write_safetensors(path, checkpoint.extract(source))
    with TensorFile(path) as file:
        checkpoint.load_into(Wrapped(target, "_orig_mod"), file)
    with torch.no_grad():
        for mine, other in zip(source(image), target(image), strict=True):
            assert torch.equal(mine, other)


def test_tied_weights_are_one_tensor_and_integer_and_empty_ones_are_kept_apart():
    module = Tied()
    names = checkpoint.canonical_names(module.state_dict())
    assert names["output.weight"] == ("embedding.weight", "output.weight")
    assert {"none_a", "none_b"} <= names.keys()
    tensors = checkpoint.extract(module)
    assert "norm.running_mean" in tensors
    assert "norm.num_batches_tracked" not in tensors
    assert list(tensors) == sorted(tensors)


def test_ties_between_names_go_to_the_first():
    weight = torch.ones(2)
    assert checkpoint.canonical_names({"bb": weight, "aa": weight, "ccc": weight}) == {
        "aa": ("aa", "bb", "ccc")
    }


def test_views_of_one_storage_are_different_tensors():
    weight = torch.arange(6.0)
    state = {"all": weight, "head": weight[:3], "tail": weight[3:], "pairs": weight.view(2, 3)}
    assert set(checkpoint.canonical_names(state)) == set(state)


def test_different_tensors_of_the_same_stripped_name_are_an_error():
    with pytest.raises(TensorError, match=r"two different tensors 'conv\.weight'"):
        checkpoint.canonical_names(
            {"conv.weight": torch.ones(1), "module.conv.weight": torch.ones(1)}
        )


def test_extracted_tensors_are_copies_in_float32():
    module = nn.Linear(3, 2).to(torch.bfloat16)
    tensors = checkpoint.extract(module)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    before = module.weight.detach().clone()
    tensors["weight"] += 1
    assert torch.equal(module.weight, before)


def test_loading_works_in_place_and_keeps_type_and_integer_buffers():
    module = Tied().half()
    pointer, counter = module.output.weight.data_ptr(), module.norm.num_batches_tracked
    counter.fill_(7)
    tensors = {name: array * 2 for name, array in checkpoint.extract(module).items()}
    for array in tensors.values():
        array.setflags(write=False)
    checkpoint.load_into(module, tensors)
    assert_same(checkpoint.extract(module), tensors)
    assert module.output.weight is module.embedding.weight
    assert module.output.weight.data_ptr() == pointer
    assert module.output.weight.dtype == torch.float16
    assert module.output.weight.requires_grad
    assert int(counter) == 7


def test_loading_names_the_first_differences_and_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = checkpoint.extract(module)
    tensors = {name: array + 1 for name, array in before.items()}
    tensors["0.bias"] = np.zeros(3, np.float32)
    del tensors["1.bias"]
    tensors["2.bias"] = np.zeros(2, np.float32)
    tensors["1.weight"] = tensors["1.weight"].astype(np.float64)
    with pytest.raises(TensorError) as error:
        checkpoint.load_into(module, tensors)
    assert str(error.value) == (
        "The payload has other tensors than expected: '1.bias' is missing; '2.bias' is unexpected; "
        "'0.bias' is F32 [3], not F32 [2]; and 1 more."
    )
    assert_same(checkpoint.extract(module), before)


def test_a_complex_parameter_is_not_lost_in_silence():
    module = nn.Module()
    module.register_parameter("phase", nn.Parameter(torch.ones(2, dtype=torch.complex64)))
    with pytest.raises(TensorError, match="'phase' is complex"):
        checkpoint.extract(module)


def test_the_hash_is_that_of_names_types_shapes_and_values():
    digest = hashlib.sha256()
    for header, array in [
        (b'["a","F32",[]]', TENSORS["a"]),
        (b'["b.weight","F32",[3,4]]', TENSORS["b.weight"]),
    ]:
        digest.update(header + b"\n" + array.tobytes())
    two = {"b.weight": TENSORS["b.weight"], "a": TENSORS["a"]}
    assert checkpoint.weights_sha256(two) == digest.hexdigest()


def test_the_hash_ignores_layout_and_sees_every_other_difference(tmp_path):
    reference = checkpoint.weights_sha256(TENSORS)
    same = [
        dict(reversed(TENSORS.items())),
        {n: np.asarray(a, order="F") for n, a in TENSORS.items()},
        {n: a.astype(">f4") for n, a in TENSORS.items()},
    ]
    assert {checkpoint.weights_sha256(tensors) for tensors in same} == {reference}
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file(TENSORS, path, metadata={"some": "text"})
    with TensorFile(path) as file:
        assert checkpoint.weights_sha256(file) == reference
    different = [
        {**TENSORS, "a": TENSORS["a"] + 1},
        {**TENSORS, "a": TENSORS["a"].reshape(1)},
        {**TENSORS, "a": TENSORS["a"].astype(np.float64)},
        {**TENSORS, "b.weight": TENSORS["b.weight"].reshape(4, 3)},
        {("z" if n == "a" else n): a for n, a in TENSORS.items()},
        {n: a for n, a in TENSORS.items() if n != "empty"},
    ]
    assert len({reference, *map(checkpoint.weights_sha256, different)}) == len(different) + 1


def test_equal_tensors_make_equal_files_in_any_order_by_either_writer(tmp_path):
    shuffled, metadata = dict(reversed(TENSORS.items())), {"made for": "x" * 20}
    for name, tensors in zip("12", (TENSORS, shuffled), strict=True):
        checkpoint.write_safetensors(tmp_path / name, tensors, metadata=metadata)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    many = {str(i): "x" * i for i in range(20)}
    for name, texts in zip("34", (many, dict(reversed(many.items()))), strict=True):
        stream(tmp_path / name, TENSORS, metadata=texts)
    assert (tmp_path / "3").read_bytes() == (tmp_path / "4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4"]


def test_metadata_that_the_library_would_shuffle_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="no fixed order"):
        checkpoint.write_safetensors(tmp_path / "t", TENSORS, metadata={"a": "1", "b": "2"})
    assert not list(tmp_path.iterdir())


def test_private_files_are_for_their_owner_alone(tmp_path):
    checkpoint.write_safetensors(tmp_path / "1", TENSORS)
    stream(tmp_path / "2", TENSORS)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_library_agrees_with_our_reader_on_files_of_either_writer(tmp_path):
    tensors = {**TENSORS, **OTHERS, "flags": np.array([True, False])}
    checkpoint.write_safetensors(tmp_path / "whole", tensors, dtypes={"half": "BF16"})
    stream(tmp_path / "streamed", tensors, dtypes={"half": "BF16"})
    stream(tmp_path / "plain", TENSORS, metadata={"a": "1", "b": "2"})
    for path in tmp_path.iterdir():
        check_both_readers(path)


def test_readers_that_disagree_are_a_finding(tmp_path, monkeypatch):
    path, read, shape = tmp_path / "t", TensorFile.read, TensorFile.shape
    checkpoint.write_safetensors(path, TENSORS)
    for name, change, reason in [
        ("read", lambda self, name: read(self, name) + np.float32(1), "'a' has other values"),
        ("dtype", lambda self, name: "F16", "is F32"),
        ("shape", lambda self, name: (1, *shape(self, name)), r"is F32 \[\], not F32 \[1\]"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(TensorFile, name, change)
            with pytest.raises(TensorError, match=reason):
                check_both_readers(path)
    path.write_bytes(forged(b'{"t":%b,"t":%b}' % ((json.dumps(entry()).encode(),) * 2)))
    with pytest.raises(TensorError):  # the library takes the second of two equal names
        check_both_readers(path)


def test_files_go_both_ways_between_us_and_the_safetensors_library(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    metadata = {"format": "pt", "study": "caf\u00e9"}
    stream(ours, TENSORS, metadata=metadata)
    assert_same(safetensors.numpy.load_file(ours), TENSORS)
    with safetensors.safe_open(ours, framework="np") as file:
        assert file.metadata() == metadata
    safetensors.numpy.save_file(TENSORS, theirs, metadata=metadata)
    with TensorFile(theirs) as file:
        assert_same(dict(file), TENSORS)
        assert file.metadata == metadata
        assert file.names == ("a", "b.weight", "c.bias", "empty")
        assert (file.shape("b.weight"), file.dtype("b.weight")) == ((3, 4), "F32")


def test_other_types_go_both_ways_between_us_and_the_library(tmp_path):
    arrays = {t: np.ones((2, 3), t) for t in ("f2", "f8", "i1", "u1", "i2", "i4", "i8", "?")}
    stream(tmp_path / "ours", arrays)
    assert_same(safetensors.numpy.load_file(tmp_path / "ours"), arrays)
    with TensorFile(tmp_path / "ours") as file:
        assert_same(dict(file), arrays)
    with pytest.raises(TensorError, match="complex64"):
        checkpoint.write_safetensors(tmp_path / "c", {"c": np.ones(2, np.complex64)})


def test_bfloat16_is_float32_here_and_goes_both_ways(tmp_path):
    torch_files = pytest.importorskip("safetensors.torch")
    values = torch.tensor([[1, -2.5, 1e38], [3e-39, 0, -0.0]], dtype=torch.bfloat16)
    arrays = {"bf": values.float().numpy(), "f": np.ones(2, np.float32)}
    torch_files.save_file({"bf": values, "f": torch.ones(2)}, tmp_path / "theirs")
    with TensorFile(tmp_path / "theirs") as file:
        assert file.dtype("bf") == "BF16"
        assert_same(dict(file), arrays)
        file.check_layout({"bf": ("BF16", (2, 3)), "f": ("F32", (2,))})
        with pytest.raises(TensorError, match=r"'bf' is BF16 \[2, 3\], not F32 \[2, 3\]\.$"):
            file.check_layout({"bf": ("F32", (2, 3)), "f": ("F32", (2,))})
        with pytest.raises(TensorError, match=r"'bf' is BF16"):
            file.check_against({"bf": (2, 3), "f": (2,)})
    checkpoint.write_safetensors(tmp_path / "ours", arrays, dtypes={"bf": "BF16", "other": "I8"})
    assert torch.equal(torch_files.load_file(tmp_path / "ours")["bf"], values)
    stream(tmp_path / "streamed", arrays, dtypes={"bf": "BF16"})
    assert torch.equal(torch_files.load_file(tmp_path / "streamed")["bf"], values)


def test_what_bfloat16_cannot_hold_is_not_written_as_such(tmp_path):
    for array in (np.float32([1 + 2**-9]), np.ones(2, np.float64), np.ones(2, np.int16)):
        with pytest.raises(TensorError, match="bfloat16|BF16"):
            checkpoint.write_safetensors(tmp_path / "t", {"t": array}, dtypes={"t": "BF16"})
    with pytest.raises(TensorError, match="announced as BF16"):
        checkpoint.write_safetensors(tmp_path / "t", {"t": np.ones(2)}, dtypes={"t": "BF16"})
    assert not list(tmp_path.iterdir())


def test_infinity_and_nan_in_bfloat16_and_half_precision_are_refused(tmp_path):
    for dtype in (torch.bfloat16, torch.float16):
        for bad in (math.nan, math.inf, -math.inf):
            pytest.importorskip("safetensors.torch").save_file(
                {"bad": torch.tensor([0, bad], dtype=dtype)}, tmp_path / "t"
            )
            with TensorFile(tmp_path / "t") as file, pytest.raises(TensorError, match="'bad'"):
                file.read("bad")


def test_streamed_files_may_hold_small_integers(tmp_path):
    arrays = {"i": np.int8([[-1, 2]]), "u": np.uint8([250]), "w": np.int32([-(2**31)])}
    checkpoint.stream_safetensors(
        tmp_path / "t",
        {name: array.shape for name, array in arrays.items()},
        arrays.__getitem__,
        dtypes={"i": "I8", "u": "U8", "w": "I32"},
    )
    assert_same(safetensors.numpy.load_file(tmp_path / "t"), arrays)


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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    checkpoint.write_safetensors(path, TENSORS)
    before = path.read_bytes()

    def fails(name):
        if name == "c.bias":
            raise OSError(28, "No space left on device")
        return TENSORS[name]

    shapes = {name: array.shape for name, array in TENSORS.items()}
    with pytest.raises(OSError, match="No space"):
        checkpoint.stream_safetensors(path, shapes, fails)
    with pytest.raises(TensorError, match="announced as F32"):
        checkpoint.stream_safetensors(path, {"b.weight": (4, 3)}, TENSORS.__getitem__)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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
        with pytest.raises(TensorError, match=r"'z' is missing$"):
            file.check_against({**shapes, "z": (1,)})
        with pytest.raises(TensorError, match=r"'a' is unexpected$"):
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


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def forged(header, data=bytes(8), length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


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


def test_files_are_read_and_written_without_torch(tmp_path):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from fedfs.tensors import canonical as checkpoint\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "checkpoint.write_safetensors(path, {'a': np.ones(3, 'f4')})\n"
        "checkpoint.weights_sha256(checkpoint.TensorFile(path))\n"
        "assert not {'torch', 'nnunetv2'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "t")], check=True, timeout=60)


LAYOUT = {
    "b.weight": ("F32", (3, 4)),
    "a": ("F32", ()),
    "empty": ("F32", (0, 3)),
    "c.bias": ("F32", (7,)),
    "half": ("BF16", (2, 2)),
    "levels": ("I8", (2, 3)),
}
OTHERS = {
    "half": np.float32([[1, -2.5], [0, 2**-130]]),
    "levels": np.int8([[1, 2, 3], [-1, -2, -127]]),
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
