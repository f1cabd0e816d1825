import numpy as np
import pytest

from fedfs.aggregation import fused_sums

N = 1000


@pytest.mark.parametrize("sizes", [(1,), (4,), (3, 2), (4, 4, 1)])
@pytest.mark.parametrize("older", [(), (1,)])
def test_groups_add_up_to_the_bits_of_one_by_one(sizes, older):
    pytest.importorskip("numba")
    rng = np.random.default_rng(1)
    newest, before = (rng.standard_normal(N, dtype=np.float32) for _ in range(2))
    shares = rng.random(sum(sizes))
    updates = [
        (share, rng.standard_normal(N, dtype=np.float32), before if i in older else newest)
        for i, share in enumerate(shares)
    ]
    expected = None
    for share, values, base in updates:
        product = np.subtract(values, base, dtype=np.float64) * share
        expected = product if expected is None else expected + product

    add = fused_sums.fused_add(fused_sums.WORTH_COMPILING)
    total, begin = np.full(N, np.nan), 0
    for size in sizes:
        add(total, updates[begin : begin + size], begin == 0)
        begin += size
    np.testing.assert_array_equal(total.view(np.uint64), expected.view(np.uint64))
