import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from fedfs.errors import TensorError
from fedfs.tensors import canonical as checkpoint
from fedfs.tensors.canonical import TensorFile
from support.tensor_files import TENSORS, assert_same, stream


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
