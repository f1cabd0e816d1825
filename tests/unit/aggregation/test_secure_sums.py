import resource
from itertools import pairwise

import numpy as np
import pytest

from fedfs.aggregation.secure_sums import (
    MaskPart,
    coefficients,
    level_shapes,
    mask_file,
    write_mask_sum,
    write_sum,
)
from fedfs.errors import StudyError, TensorError
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, write_safetensors
from fedfs.tensors.encodings import SummedLevels
from fedfs.trust.masks import MaskContext

SHAPES = {"conv.weight": (6, 5, 3, 3), "conv.bias": (6,), "empty": (0, 2), "gain": ()}
SITES = ("east", "north", "south")
COUNTS = {"east": 1000, "north": 2500, "south": 596}


def context(site, version=3):
    return MaskContext(study="organ", track="2d", version=version, site=site)


def seed(site):
    return site.encode().ljust(32, b".")


def part(site, coefficient=None):
    count = COUNTS[site] if coefficient is None else coefficient
    return MaskPart(site=site, seed=seed(site), context=context(site), coefficient=count)


class Round:
    """Updates of three sites, masked, and what their sum has to be."""

    def __init__(self, folder, encoding):
        self.folder, self.encoding = folder, encoding
        generator = np.random.default_rng(1)
        self.base = {
            n: generator.normal(size=shape).astype(np.float32) for n, shape in SHAPES.items()
        }
        self.deltas, self.masked = {}, {}
        for site in SITES:
            payload, self.deltas[site] = {}, {}
            for name, base in self.base.items():
                trained = base + generator.normal(scale=0.3, size=base.shape).astype(np.float32)
                encoded = encoding.encode(name, np.asarray(trained, np.float32), base)
                payload |= encoded.payload
                self.deltas[site][name] = encoding.decode(name, encoded.payload, base)
            plain, self.masked[site] = folder / f"{site}.plain", folder / site
            write_safetensors(plain, payload)
            mask_file(plain, self.masked[site], seed(site), context(site))
        self.shapes = level_shapes(encoding, SHAPES)
        self.masks, self.sum = folder / "masks", folder / "sum"

    def mean(self, name, sites=SITES):
        total = sum(COUNTS[site] for site in sites)
        return sum(COUNTS[site] * self.deltas[site][name] for site in sites) / total

    def summed(self, name):
        with TensorFile(self.sum) as file:
            return SummedLevels(self.encoding).decode(name, file, self.base[name])


@pytest.fixture(params=["fixed", "randk"])
def made(tmp_path, request):
    options = {"fraction": 0.001} if request.param == "randk" else {}
    return Round(tmp_path, encodings.by_name(request.param, options))


def test_the_sum_is_the_weighted_mean_of_the_updates(made):
    write_mask_sum(made.masks, made.shapes, [part(site) for site in SITES])
    write_sum(made.sum, made.masked, COUNTS, made.masks)
    for name in SHAPES:
        np.testing.assert_allclose(made.summed(name), made.mean(name), rtol=0, atol=1e-15)
    with TensorFile(made.sum) as file:
        file.check_layout(encodings.payload_layout(SummedLevels(made.encoding), SHAPES))


def test_a_masked_update_looks_like_an_update_and_tells_nothing(made):
    with TensorFile(made.folder / "north.plain") as plain, TensorFile(made.masked["north"]) as file:
        file.check_layout(encodings.payload_layout(made.encoding, SHAPES))
        key = "conv.weight#values"
        different = plain.read(key) != file.read(key)
        assert different.all()
        with pytest.raises(TensorError, match="beyond"):
            made.encoding.decode("conv.weight", file, made.base["conv.weight"])


def test_a_sum_is_the_same_bytes_in_any_order(made):
    write_mask_sum(made.masks, made.shapes, [part(site) for site in SITES])
    other = made.folder / "other"
    write_mask_sum(other, dict(reversed(made.shapes.items())), [part(s) for s in reversed(SITES)])
    assert made.masks.read_bytes() == other.read_bytes()
    write_sum(made.sum, made.masked, COUNTS, made.masks)
    write_sum(
        other,
        dict(reversed(made.masked.items())),
        dict(reversed(COUNTS.items())),
        made.masks,
    )
    assert made.sum.read_bytes() == other.read_bytes()


def test_what_few_share_is_left_out_and_the_rest_is_of_those_who_share_it(made):
    shared = {"conv.weight": SITES, "conv.bias": ("north", "south"), "empty": SITES}
    shapes = {name: shape for name, shape in made.shapes.items() if name != "gain"}
    write_mask_sum(made.masks, shapes, [part(site) for site in SITES], shared)
    write_sum(made.sum, made.masked, COUNTS, made.masks, shared)
    np.testing.assert_allclose(
        made.summed("conv.bias"), made.mean("conv.bias", ("north", "south")), rtol=0, atol=1e-15
    )
    np.testing.assert_allclose(
        made.summed("conv.weight"), made.mean("conv.weight"), rtol=0, atol=1e-15
    )
    with TensorFile(made.sum) as file:
        assert "gain#values" not in file
    with pytest.raises(TensorError, match="'gain'"):
        write_mask_sum(made.masks, made.shapes, [part(site) for site in SITES], shared)


def test_the_largest_levels_and_coefficients_do_not_overflow(tmp_path):
    encoding = encodings.by_name("fixed")
    counts = {"north": 8189, "south": 1, "west": 1}
    masked = {}
    for site in counts:
        plain, masked[site] = tmp_path / f"{site}.plain", tmp_path / site
        levels = np.int32([2**18 - 1, 1 - 2**18, 0])
        write_safetensors(plain, {"w#values": levels})
        mask_file(plain, masked[site], seed(site), context(site))
    parts = [
        MaskPart(site=site, seed=seed(site), context=context(site), coefficient=n)
        for site, n in counts.items()
    ]
    write_mask_sum(tmp_path / "masks", {"w": (3,)}, parts)
    write_sum(tmp_path / "sum", masked, counts, tmp_path / "masks")
    with TensorFile(tmp_path / "sum") as file:
        assert file.read("w#values").tolist() == [8191 * (2**18 - 1), -8191 * (2**18 - 1), 0]
        mean = SummedLevels(encoding).decode("w", file, np.zeros(3, np.float32))
    assert mean.tolist() == [1 - 2.0**-18, 2.0**-18 - 1, 0]
    counts["north"] += 1
    with pytest.raises(TensorError, match="add up to 8192"):
        write_sum(tmp_path / "sum", masked, counts, tmp_path / "masks")


WRONG = {
    "another seed": {"seed": bytes(32)},
    "another site": {"context": context("south")},
    "another version": {"context": context("north", version=4)},
    "another coefficient": {"coefficient": 2499},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_mask_sum_is_noticed(made, wrong):
    north = {"seed": seed("north"), "context": context("north"), "coefficient": 2500} | wrong
    parts = [part("east"), MaskPart(site="north", **north), part("south")]
    write_mask_sum(made.masks, made.shapes, parts)
    with pytest.raises(TensorError, match="mask sum does not hold the masks of these updates"):
        write_sum(made.sum, made.masked, COUNTS, made.masks)
    assert not made.sum.exists()


def test_a_mask_sum_of_another_set_is_noticed(made):
    write_mask_sum(made.masks, made.shapes, [part("east"), part("north")])
    with pytest.raises(TensorError, match="mask sum"):
        write_sum(made.sum, made.masked, COUNTS, made.masks)


def norm_of(deltas, names):
    return float(np.sqrt(sum((deltas[name] ** 2).sum() for name in names)))


def test_a_sum_shows_whether_some_site_sent_more_than_it_may(made):
    write_mask_sum(made.masks, made.shapes, [part(site) for site in SITES])
    longest = max(norm_of(made.deltas[site], SHAPES) for site in SITES) / made.encoding.step
    write_sum(made.sum, made.masked, COUNTS, made.masks, max_norm=longest)
    norm = norm_of({name: made.mean(name) for name in SHAPES}, SHAPES) / made.encoding.step
    with pytest.raises(TensorError, match="a site has not"):
        write_sum(made.sum, made.masked, COUNTS, made.masks, max_norm=0.99 * norm)


def test_where_sites_share_other_tensors_each_may_be_the_longest_in_some(tmp_path):
    made = Round(tmp_path, encodings.by_name("fixed"))
    shared = {"conv.weight": ("north", "south"), "conv.bias": ("east",)}
    shapes = {name: made.shapes[name] for name in shared}
    write_mask_sum(made.masks, shapes, [part(site) for site in SITES], shared)
    limit = max(
        norm_of(made.deltas[site], [name for name, sites in shared.items() if site in sites])
        for site in SITES
    )
    write_sum(
        made.sum, made.masked, COUNTS, made.masks, shared, max_norm=limit / made.encoding.step
    )
    with pytest.raises(TensorError, match="a site has not"):
        write_sum(made.sum, made.masked, COUNTS, made.masks, shared, max_norm=1.0)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"w#values": np.zeros(3, np.int32)}, "no tensor of levels"),
        ({"w#scale": np.zeros(3, np.uint32)}, "no tensor of levels"),
        ({"w": np.zeros(3, np.uint32)}, "no tensor of levels"),
        ({"w#values": np.zeros(3, np.uint32)}, "north has no tensor 'w#values'"),
        ({"conv.bias#values": np.zeros(7, np.uint32)}, "north has no tensor 'conv.bias#values'"),
    ],
)
def test_a_mask_sum_of_other_tensors_is_refused(tmp_path, payload, message):
    made = Round(tmp_path, encodings.by_name("fixed"))
    write_safetensors(made.masks, payload)
    with pytest.raises(TensorError, match=message):
        write_sum(made.sum, {"north": made.masked["north"]}, {"north": 1}, made.masks)


@pytest.mark.parametrize("name", ["fp16", "int8", "topk", "fp32"])
def test_only_levels_are_masked(tmp_path, name):
    payload = encodings.by_name(name).encode("w", np.ones(9, np.float32), np.zeros(9, np.float32))
    write_safetensors(tmp_path / "plain", dict(payload.payload))
    with pytest.raises(TensorError, match="no tensor of levels"):
        mask_file(tmp_path / "plain", tmp_path / "masked", seed("north"), context("north"))
    assert not (tmp_path / "masked").exists()


@pytest.mark.parametrize(
    ("levels", "total", "message"),
    [
        ([0, 1], 0, "add up to 0"),
        ([0, 1], 8192, "add up to 8192"),
        ([0, 1], -1, "add up to -1"),
        ([0, 3 * (2**18 - 1) + 1], 3, "beyond"),
        ([0, -(2**31)], 8191, "beyond"),
    ],
)
def test_a_forged_sum_is_refused(levels, total, message):
    payload = {"w#values": np.int32(levels), "w#total": np.int32(total).reshape(())}
    summed = SummedLevels(encodings.by_name("fixed"))
    with pytest.raises(TensorError, match=message):
        summed.decode("w", payload, np.zeros(2, np.float32))


def test_coefficients_are_whole_numbers_in_proportion():
    assert coefficients({"b": 0.25, "a": 0.75}) == {"a": 3072, "b": 1024}
    assert list(coefficients({"b": 0.25, "a": 0.75})) == ["a", "b"]
    assert coefficients({"a": 3.0, "b": 1.0, "c": 0.0}) == {"a": 3072, "b": 1024}
    assert coefficients({"a": 1.0, "b": 1e-9}) == {"a": 4096, "b": 1}


def test_a_thousand_sites_can_be_summed():
    for weights in (
        {f"s{i}": 1.0 for i in range(1000)},
        {f"s{i}": float(i) ** 6 + 1 for i in range(1000)},
        {f"s{i}": 1.0 + 1e6 * (i == 0) for i in range(4000)},
    ):
        found = coefficients(weights)
        assert min(found.values()) >= 1
        assert sum(found.values()) < 2**13
        ordered = sorted(weights, key=weights.get)
        assert all(found[a] <= found[b] for a, b in pairwise(ordered))


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {f"s{i}": 1.0 for i in range(8192)}])
def test_sets_that_cannot_be_summed_are_refused(weights):
    with pytest.raises(StudyError, match="cannot be summed"):
        coefficients(weights)


def test_memory_does_not_grow_with_tensors(tmp_path):
    n = 8 << 20
    write_safetensors(tmp_path / "plain", {"w#values": np.zeros(n, np.int32)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mask_file(tmp_path / "plain", tmp_path / "north", seed("north"), context("north"))
    write_mask_sum(tmp_path / "masks", {"w": (n,)}, [part("north", 3)])
    write_sum(tmp_path / "sum", {"north": tmp_path / "north"}, {"north": 3}, tmp_path / "masks")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 12 << 10  # KiB; a tensor has 32 MiB
