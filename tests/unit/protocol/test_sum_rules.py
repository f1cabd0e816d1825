"""Tensors and coefficients that a sum may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedfs.protocol.messages import SecureSums
from fedfs.protocol.sum_rules import capped, summed

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4000), min_size=3)


@given(COUNTS, st.floats(0.5, 0.99))
def test_no_site_has_more_than_its_share_of_a_sum(counts, share):
    out = capped(counts, share)
    assert out.keys() == counts.keys()
    assert all(1 <= out[site] <= counts[site] for site in counts)
    assert max(out.values()) <= share * sum(out.values())
    if max(counts.values()) <= share * sum(counts.values()):
        assert out == counts


def test_a_tensor_is_summed_that_enough_sites_have_of_which_none_hides_the_others():
    sharing = {"all": ("a", "b", "c", "d"), "two": ("a", "b"), "three": ("a", "b", "d")}
    rules = SecureSums(min_sites=3, max_share=0.8)
    counts = {"a": 10, "b": 10, "c": 10, "d": 10}
    assert summed(sharing, counts, rules) == {k: sharing[k] for k in ("all", "three")}
    assert summed(sharing, {"a": 10, "b": 10, "c": 10}, rules) == {"all": ("a", "b", "c")}
    assert summed(sharing, {**counts, "a": 500}, rules) == {}
    assert summed(sharing, {}, rules) == {}
