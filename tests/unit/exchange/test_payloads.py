import tracemalloc

import numpy as np
import pytest

from fedfs.errors import TensorError, TrainingError
from fedfs.exchange import payloads
from fedfs.exchange.payloads import check_values, write_update
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, write_safetensors

BASE = {"a": np.ones((3, 5), np.float32), "b": np.zeros((), np.float32)}
DELTA = {"a": np.full((3, 5), 0.5, np.float32), "b": np.float32(-0.5).reshape(())}
TRAINED = {name: BASE[name] + DELTA[name] for name in BASE}
NORM = 2.0  # 16 * 0.25


def sent(tmp_path, name, residual, clip_norm, trained=TRAINED):
    encoding, path = encodings.by_name(name), tmp_path / "update"
    left = {}
    write_update(
        path, encoding, trained, BASE, residual, clip_norm=clip_norm, keep=left.__setitem__
    )
    with TensorFile(path) as file:
        return {n: encoding.decode(n, file, BASE[n]) for n in BASE}, left


@pytest.mark.parametrize("name", ["fp32", "fixed"])
@pytest.mark.parametrize(("clip_norm", "share"), [(None, 1.0), (NORM, 1.0), (0.5, 0.25)])
def test_a_long_update_is_scaled_down(tmp_path, name, clip_norm, share):
    found, left = sent(tmp_path, name, {}, clip_norm)
    for tensor, delta in DELTA.items():
        np.testing.assert_array_equal(found[tensor], share * delta)
        assert not np.any(left.get(tensor, 0))


def test_what_was_not_carried_before_is_part_of_the_length(tmp_path):
    residual = {"a": DELTA["a"]}
    found, left = sent(tmp_path, "fixed", residual, 0.5)
    whole = {"a": 2 * DELTA["a"], "b": DELTA["b"]}
    length = np.sqrt(sum((delta**2).sum() for delta in whole.values()))
    for name, delta in whole.items():
        np.testing.assert_allclose(found[name] + left[name], delta * 0.5 / length, rtol=1e-6)
    assert residual["a"] is DELTA["a"]
    assert residual["a"].max() == 0.5


def test_values_that_are_not_finite_are_refused_at_any_length(tmp_path):
    broken = {**TRAINED, "b": np.float32(np.nan).reshape(())}
    with pytest.raises(TrainingError, match="'b' holds NaN"):
        sent(tmp_path, "fixed", {}, 0.5, broken)


@pytest.mark.parametrize("name", sorted(encodings.ENCODINGS))
def test_an_update_is_checked_as_well_in_slices(tmp_path, monkeypatch, name):
    sent(tmp_path, name, {}, None)
    write_safetensors(tmp_path / "base", BASE)
    encoding, names = encodings.by_name(name), {n: n for n in BASE}
    with TensorFile(tmp_path / "update") as update, TensorFile(tmp_path / "base") as base:
        whole = check_values(encoding, update, base, names)
        monkeypatch.setattr(payloads, "_SLICE", 4)
        assert check_values(encoding, update, base, names) == pytest.approx(whole, rel=1e-12)
        decoded = [encoding.decode(n, update, BASE[n]) for n in BASE]
    squares = sum(float((delta**2).sum()) for delta in decoded)
    assert whole == pytest.approx(np.sqrt(squares / 16), rel=1e-12)


@pytest.mark.parametrize("place", [0, 7, 14])
def test_a_value_that_is_not_finite_is_found_in_any_slice(tmp_path, monkeypatch, place):
    monkeypatch.setattr(payloads, "_SLICE", 4)
    broken = {**TRAINED, "a": TRAINED["a"].copy()}
    broken["a"].flat[place] = np.inf
    write_safetensors(tmp_path / "base", BASE)
    write_safetensors(tmp_path / "update", broken)
    with (
        TensorFile(tmp_path / "update") as update,
        TensorFile(tmp_path / "base") as base,
        pytest.raises(TensorError, match="'a' holds NaN"),
    ):
        check_values(encodings.by_name("fp32"), update, base, {n: n for n in BASE})


@pytest.mark.parametrize("name", sorted(encodings.ENCODINGS))
def test_an_update_has_the_bytes_that_the_library_writes_of_it(tmp_path, name):
    """Whatever is in memory at a time."""
    rng, encoding = np.random.default_rng(1), encodings.by_name(name)
    shapes = {"z.weight": (3, 4, 5), "a.bias": (7,), "scalar": (), "empty": (0, 3), 'ä"x': (2,)}
    base, trained, residual = (
        {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in shapes.items()}
        for _ in range(3)
    )
    encoded = {n: encoding.encode(n, trained[n], base[n], residual[n]) for n in shapes}
    layout = encodings.payload_layout(encoding, shapes)
    write_safetensors(
        tmp_path / "whole",
        {key: array for one in encoded.values() for key, array in one.payload.items()},
        dtypes={key: dtype for key, (dtype, _) in layout.items()},
    )
    left = {}
    write_update(tmp_path / "pieces", encoding, trained, base, residual, keep=left.__setitem__)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    assert set(left) == (set() if encoding.lossless else set(shapes))
    for tensor, values in left.items():
        np.testing.assert_array_equal(values, encoded[tensor].residual)


def test_an_update_that_cannot_be_sent_leaves_no_file(tmp_path):
    with pytest.raises(TrainingError, match="NaN"):
        sent(tmp_path, "fixed", {}, None, {**TRAINED, "b": np.float32(np.nan).reshape(())})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fp32", "fixed", "topk"])
def test_memory_is_that_of_one_tensor_not_of_all(tmp_path, name):
    n = 1 << 16
    tensors = {f"{i:02d}": np.full(n, 0.5, np.float32) for i in range(48)}  # 12 MiB
    encoding, zero = encodings.by_name(name), np.zeros(n, np.float32)
    tracemalloc.start()
    try:
        write_update(
            tmp_path / "update", encoding, tensors, dict.fromkeys(tensors, zero), {}, clip_norm=1.0
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 4 * n  # of the 48 that the payload and the residual have each
