"""The laws of secure sums: they are exact, whatever the order, and a wrong mask shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfs.aggregation.secure_sums import (
    MaskPart,
    coefficients,
    mask_file,
    write_mask_sum,
    write_sum,
)
from fedfs.errors import TensorError
from fedfs.protocol.sum_rules import MAX_TOTAL
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.tensors.encodings.fixed import LARGEST
from fedfs.trust.masks import MaskContext

few = settings(max_examples=25)  # each writes files, and waits until they are on the disk

level = st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, LARGEST])


@st.composite
def rounds(draw, min_values=0):
    """Levels of each site, with coefficients that may add up to the most that there is."""
    n_sites, n = draw(st.integers(1, 5)), draw(st.integers(min_values, 40))
    values = hnp.arrays(np.int32, n, elements=level)
    levels = {f"site{i}": draw(values) for i in range(n_sites)}
    counts = {site: draw(st.integers(1, MAX_TOTAL // n_sites)) for site in levels}
    if draw(st.booleans()):
        counts["site0"] += MAX_TOTAL - sum(counts.values())
    return levels, counts


def context(site):
    return MaskContext(study="laws", track="", version=0, site=site)


def seed(site):
    return site.encode().ljust(32, b"\0")


def masked(folder, levels):
    paths = {}
    for site, values in levels.items():
        write_safetensors(folder / "plain", {"w#values": values})
        paths[site] = folder / site
        mask_file(folder / "plain", paths[site], seed(site), context(site))
    return paths


def parts(counts):
    return [
        MaskPart(site=site, seed=seed(site), context=context(site), coefficient=count)
        for site, count in counts.items()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sums")


@few
@given(one=rounds(), order=st.randoms(use_true_random=False))
def test_the_sum_is_that_of_the_integers_in_any_order(folder, one, order):
    levels, counts = one
    n = len(next(iter(levels.values())))
    paths, shuffled = masked(folder, levels), parts(counts)
    order.shuffle(shuffled)
    write_mask_sum(folder / "masks", {"w": (n,)}, shuffled)
    write_sum(folder / "sum", paths, counts, folder / "masks")
    expected = sum(counts[site] * values.astype(np.int64) for site, values in levels.items())
    with TensorFile(folder / "sum") as file:
        np.testing.assert_array_equal(file.read("w#values"), expected)
        assert file.read("w#total") == sum(counts.values())


@few
@given(one=rounds(min_values=40), data=st.data())
def test_masks_of_another_set_or_other_coefficients_show(folder, one, data):
    """By chance 40 values pass once in 2**40 where coefficients are those of weights."""
    levels, counts = one
    total = sum(counts.values())
    weights = {site: count / total for site, count in counts.items()}
    counts = coefficients(weights)
    wrong = dict(counts)
    site = data.draw(st.sampled_from(sorted(counts)))
    if len(counts) > 1 and data.draw(st.booleans()):
        del wrong[site]
    else:
        wrong[site] += data.draw(st.sampled_from([-1, 1]).filter(lambda n: wrong[site] + n > 0))
    paths = masked(folder, levels)
    write_mask_sum(folder / "masks", {"w": (40,)}, parts(wrong))
    with pytest.raises(TensorError, match="mask sum"):
        write_sum(folder / "sum", paths, counts, folder / "masks")


weights = st.dictionaries(
    st.text(max_size=4), st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=50
)


@given(weights=weights.filter(lambda found: max(found.values()) > 1e-3), scale=st.integers(-9, 9))
def test_coefficients_do_not_depend_on_the_scale_of_weights(weights, scale):
    found = coefficients(weights)
    assert found == coefficients({site: value * 2.0**scale for site, value in weights.items()})
    total = sum(weights.values())
    assert set(found) == {site for site, value in weights.items() if value > 0}
    for site, count in found.items():
        assert abs(count - max(1, weights[site] / total * 4096)) <= 0.5 + 1e-6
