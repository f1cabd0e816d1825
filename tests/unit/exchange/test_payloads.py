import numpy as np
import pytest

from fedfs.errors import TrainingError
from fedfs.exchange.payloads import write_update
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile

BASE = {"a": np.ones((3, 5), np.float32), "b": np.zeros((), np.float32)}
DELTA = {"a": np.full((3, 5), 0.5, np.float32), "b": np.float32(-0.5).reshape(())}
TRAINED = {name: BASE[name] + DELTA[name] for name in BASE}
NORM = 2.0  # 16 * 0.25


def sent(tmp_path, name, residual, clip_norm, trained=TRAINED):
    encoding, path = encodings.by_name(name), tmp_path / "update"
    left = write_update(path, encoding, trained, BASE, residual, clip_norm=clip_norm)
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
