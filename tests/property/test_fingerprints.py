"""Merging fingerprints equals pooling the cases."""

import csv
import json
import math
import os
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfs.aggregation import fingerprints as fp
from fedfs.aggregation.disclosure import TAIL, coarsen
from fedfs.aggregation.fingerprint_checks import validate_fingerprint
from fedfs.errors import DatasetError, MalformedError, StudyError
from fedfs.learner import CaseGeometry, ChannelSketch, SiteFingerprint

DATA = (
    Path(
        os.environ.get(
            "FEDFS_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"
        )
    )
    / "hippocampus"
)
PERCENTILES = (0.005, 0.5, 0.995)
# The largest distance between knots: how far, in probability, a merged quantile may be off.
RESOLUTION = max(np.diff(fp.KNOTS)) + 1e-6

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
case = st.one_of(
    st.lists(numbers, max_size=20),
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),  # many ties
    st.builds(lambda value, n: [value] * n, numbers, st.integers(1, 30)),  # constant
    st.lists(numbers, min_size=1, max_size=1),  # one voxel
    st.builds(
        lambda seed, n: np.random.default_rng(seed).standard_cauchy(n).tolist(),  # heavy tails
        st.integers(0, 99),
        st.integers(1, 300),
    ),
).map(lambda values: np.asarray(values, dtype=np.float32))
sites_of_cases = st.lists(st.lists(case, max_size=5), min_size=1, max_size=5)


def sketch_channel(cases):
    return fp.mix_cases([fp.sketch_case(values) for values in cases])


def published(sketch):
    """The sketch without extremes, as sites publish it unless they want otherwise."""
    case = CaseGeometry((1.0, 1.0, 2.0), (30, 40, 20), 0.5)
    return coarsen(SiteFingerprint(1, (sketch,), (case,)), extremes=False).channels[0]


def exact_distribution(cases, value):
    """Left and right limit of the equal-weight mixture's distribution function."""
    cases = [values for values in cases if values.size]
    left = np.mean([np.mean(values < value) for values in cases])
    return left, np.mean([np.mean(values <= value) for values in cases])


def scale_of(sketch):
    return max(map(abs, sketch.quantiles), default=0.0)


def assert_exact_parts_equal(sketch, whole):
    assert sketch.n_cases == whole.n_cases
    ends = (whole.quantiles[0], whole.quantiles[-1]) if whole.n_cases else (0.0, 0.0)
    width, scale = ends[1] - ends[0], scale_of(whole)
    if sketch.n_cases and sketch.probabilities[0] == 0:
        assert (sketch.quantiles[0], sketch.quantiles[-1]) == ends
    assert sketch.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-12 * scale)
    assert sketch.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-12 * width * scale)


def assert_is_quantile(sketch, probability, cases, tolerance=RESOLUTION):
    """The sketch's quantile lies between the exact ones at probability -/+ tolerance."""
    value = np.interp(probability, sketch.probabilities, sketch.quantiles)
    slack = 1e-9 * scale_of(sketch)  # rounding of interpolation
    assert exact_distribution(cases, value - slack)[0] <= probability + tolerance
    assert exact_distribution(cases, value + slack)[1] >= probability - tolerance


def fingerprint_of(cases):
    geometry = tuple(
        CaseGeometry((1.0, 1.0, 2.0), (30 + i, 40, 20), 0.5) for i in range(len(cases))
    )
    return SiteFingerprint(len(cases), (sketch_channel(cases),), geometry)


def test_knots_are_dense_at_both_ends_and_hold_the_percentiles_of_nnunet():
    steps = np.diff(fp.KNOTS)
    assert fp.KNOTS[0] == 0
    assert fp.KNOTS[-1] == 1
    assert set(PERCENTILES) <= set(fp.KNOTS)
    assert 1000 < len(fp.KNOTS) < 1100
    assert (steps > 0).all()
    assert steps[0] < 1e-5
    assert steps[-1] < 1e-5
    assert steps.max() < 0.0015


@given(sites_of_cases)
def test_merging_the_sites_equals_pooling_the_cases(sites):
    pooled = [values for site in sites for values in site]
    whole = sketch_channel(pooled)
    merged = fp.merge_channels([sketch_channel(site) for site in sites])
    assert_exact_parts_equal(merged, whole)
    if merged.n_cases:
        for probability in PERCENTILES:  # these are knots: nothing is lost in one sketch
            assert_is_quantile(whole, probability, pooled, tolerance=1e-6)
            assert_is_quantile(merged, probability, pooled)
        for probability in (0.1, 0.25, 0.9):  # these are not, so that it happens once more
            assert_is_quantile(merged, probability, pooled, tolerance=2 * RESOLUTION)


@given(sites_of_cases)
def test_merging_without_extremes_equals_pooling_too(sites):
    pooled = [values for site in sites for values in site]
    whole = sketch_channel(pooled)
    merged = fp.merge_channels([published(sketch_channel(site)) for site in sites])
    assert_exact_parts_equal(merged, whole)
    if merged.n_cases:
        assert merged.probabilities[0] <= PERCENTILES[0]
        assert merged.probabilities[-1] >= PERCENTILES[-1]
        for probability in PERCENTILES:  # a site's first knot may be the percentile itself
            tolerance = RESOLUTION if probability == 0.5 else PERCENTILES[0] + RESOLUTION
            assert_is_quantile(merged, probability, pooled, tolerance=tolerance)


@given(sites_of_cases)
def test_the_smallest_and_largest_voxel_are_not_published(sites):
    for site in sites:
        whole = sketch_channel(site)
        sketch = published(whole)
        if not sketch.n_cases:
            continue
        smallest, largest = whole.quantiles[0], whole.quantiles[-1]
        given = dict(zip(sketch.probabilities, sketch.quantiles, strict=True))
        assert all(0.005 <= p <= 0.995 for p, v in given.items() if v in {smallest, largest})
        assert min(given) >= TAIL
        assert max(given) <= 1 - TAIL


def test_a_single_bright_voxel_is_not_published():
    rng = np.random.default_rng(3)
    cases = [rng.normal(100, 10, 4000).astype(np.float32) for _ in range(5)]
    cases[2][17] = 3071.0  # an implant in one of them
    sketch = published(sketch_channel(cases))
    assert max(sketch.quantiles) < 200
    properties = fp.to_nnunet(replace(fingerprint_of(cases), channels=(sketch,)))
    assert "max" not in properties["foreground_intensity_properties_per_channel"]["0"]


@given(sites_of_cases)
def test_every_sketch_that_is_made_is_also_accepted(sites):
    whole = {f"s{i}": fingerprint_of(site) for i, site in enumerate(sites)}
    coarse = {name: coarsen(site, extremes=False) for name, site in whole.items() if site.geometry}
    for made in (whole, coarse, {**whole, "x": next(iter(coarse.values()), whole["s0"])}):
        if any(site.n_cases for site in made.values()):
            validate_fingerprint(fp.merge_fingerprints(made))


@given(sites_of_cases, st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(sites, random):
    sketches = [sketch_channel(site) for site in sites]
    merged = fp.merge_channels(sketches)
    random.shuffle(sketches)
    again = fp.merge_channels(sketches)
    assert (again.mean, again.m2) == (merged.mean, merged.m2)  # bit for bit
    scale = scale_of(merged)
    np.testing.assert_allclose(again.quantiles, merged.quantiles, rtol=1e-6, atol=1e-6 * scale)


@given(sites_of_cases)
def test_merging_is_associative_up_to_the_distance_between_knots(sites):
    pooled = [values for site in sites for values in site]
    merged = fp.NO_FOREGROUND
    for site in sites:
        merged = fp.merge_channels([merged, sketch_channel(site)])
    assert_exact_parts_equal(merged, sketch_channel(pooled))
    if merged.n_cases:
        for probability in PERCENTILES:
            assert_is_quantile(merged, probability, pooled, tolerance=len(sites) * RESOLUTION)


@given(sites_of_cases)
def test_sites_without_foreground_are_neutral_and_one_site_is_the_identity(sites):
    sketch = sketch_channel(sites[0])
    nothing = sketch_channel([np.empty(0, np.float32)])
    assert nothing == fp.NO_FOREGROUND
    assert fp.merge_channels([sketch]) == sketch
    assert fp.merge_channels([nothing, sketch, nothing]) == sketch
    assert fp.merge_channels([nothing, nothing]) == fp.merge_channels([]) == nothing


@given(st.lists(case, min_size=1, max_size=4))
def test_a_site_merged_with_itself_keeps_its_distribution(cases):
    sketch = sketch_channel(cases)
    twice = fp.merge_channels([sketch, sketch])
    if sketch.n_cases:
        assert twice.n_cases == 2 * sketch.n_cases
        assert twice.m2 == pytest.approx(2 * sketch.m2, rel=1e-9, abs=1e-30)
        for probability in PERCENTILES:
            assert_is_quantile(twice, probability, cases)


@pytest.mark.parametrize("shape", ["normal", "lognormal", "student", "integers"])
@pytest.mark.parametrize("seed", range(5))
def test_percentiles_of_unlike_sites_are_within_half_a_percent(shape, seed):
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda: rng.normal(rng.uniform(-500, 500), 100, 5000),
        "lognormal": lambda: rng.lognormal(rng.uniform(3, 6), 0.6, 5000),
        "student": lambda: rng.standard_t(2, 5000) * rng.uniform(1, 50),
        "integers": lambda: rng.integers(0, rng.integers(200, 2000), 5000),
    }[shape]
    sites = [[draw().astype(np.float32) for _ in range(n)] for n in (1, 4, 15)]
    whole = sketch_channel([values for site in sites for values in site])
    merged = fp.merge_channels([sketch_channel(site) for site in sites])
    truth = np.interp(PERCENTILES, whole.probabilities, whole.quantiles)
    found = np.interp(PERCENTILES, merged.probabilities, merged.quantiles)
    assert np.abs(found - truth).max() < 0.005 * (truth[2] - truth[0])


def test_every_case_counts_the_same_however_many_voxels_it_has():
    sketch = sketch_channel([np.zeros(90_000, np.int16), np.full(10, 100, np.int16)])
    assert sketch.mean == 50
    assert math.sqrt(sketch.m2 / sketch.n_cases) == 50
    assert np.interp(PERCENTILES, sketch.probabilities, sketch.quantiles).tolist() == [0, 50, 100]


def test_a_large_case_is_thinned_but_its_moments_and_extremes_are_exact():
    values = np.random.default_rng(0).lognormal(5, 1, 300_000).astype(np.float32)
    sketch = fp.sketch_case(values)
    assert sketch.values.size <= fp.MAX_ORDER_STATISTICS
    assert sketch.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert sketch.variance == pytest.approx(values.var(dtype=np.float64), rel=1e-12)
    assert (sketch.values[0], sketch.values[-1]) == (values.min(), values.max())
    channel = fp.mix_cases([sketch])
    truth = np.quantile(values, PERCENTILES)
    found = np.interp(PERCENTILES, channel.probabilities, channel.quantiles)
    np.testing.assert_allclose(found, truth, atol=1e-3 * (truth[2] - truth[0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_with_values_that_are_not_finite_is_refused(bad):
    with pytest.raises(DatasetError, match="NaN or infinite"):
        fp.sketch_case(np.array([1.0, bad, 2.0]))


def test_merged_geometry_does_not_tell_sites_and_numbers_of_channels_must_agree():
    one = np.ones(3, np.float32)
    north, south = fingerprint_of([one, one]), fingerprint_of([one])
    merged = fp.merge_fingerprints({"south": south, "north": north})
    assert merged.n_cases == 3
    everything = (*north.geometry, *south.geometry)
    assert merged.geometry == tuple(sorted(everything, key=astuple))
    assert fp.merge_fingerprints({"north": north, "south": south}) == merged
    with pytest.raises(MalformedError, match="'south' has 2 channels"):
        fp.merge_fingerprints(
            {"north": north, "south": replace(south, channels=south.channels * 2)}
        )
    flat = replace(south, geometry=(CaseGeometry((1.0, 1.0), (9, 9), 1.0),))
    with pytest.raises(MalformedError, match="'south' is 2-dimensional"):
        fp.merge_fingerprints({"north": north, "south": flat})
    with pytest.raises(StudyError):
        fp.merge_fingerprints({})


def test_the_content_of_nnunets_file_is_plain_json_with_nnunets_keys():
    content = fp.to_nnunet(fingerprint_of([np.arange(1001.0), np.arange(1001.0)]))
    assert json.loads(json.dumps(content)) == content
    assert content["spacings"] == [[1.0, 1.0, 2.0]] * 2
    assert content["shapes_after_crop"] == [[30, 40, 20], [31, 40, 20]]
    assert content["median_relative_size_after_cropping"] == 0.5
    properties = content["foreground_intensity_properties_per_channel"]["0"]
    assert set(properties) == {
        "mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"
    }  # fmt: skip
    assert properties["std"] == pytest.approx(np.arange(1001.0).std())
    assert properties["median"] == 500


def test_a_channel_without_any_foreground_cannot_be_planned_for():
    with pytest.raises(MalformedError, match="Channel 0 has no foreground"):
        fp.to_nnunet(fingerprint_of([np.empty(0)]))


CHANNEL = ChannelSketch(2, 5.0, 10.0, (0.0, 0.5, 1.0), (0.0, 4.0, 10.0))
CASE = CaseGeometry((1.0, 1.0, 2.0), (30, 40, 20), 0.5)
GOOD = SiteFingerprint(2, (CHANNEL,), (CASE, CASE))


def with_channel(**changes):
    return replace(GOOD, channels=(replace(CHANNEL, **changes),))


def with_case(**changes):
    return replace(GOOD, geometry=(CASE, replace(CASE, **changes)))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("n_cases", replace(GOOD, n_cases=0, geometry=())),
        ("n_cases", replace(GOOD, n_cases=-1)),
        ("channels", replace(GOOD, channels=())),
        ("channels", replace(GOOD, channels=(CHANNEL,) * 65)),
        (r"channels\[0\].n_cases", with_channel(n_cases=3)),
        (r"channels\[0\].n_cases", with_channel(n_cases=-1)),
        (r"channels\[0\]", with_channel(n_cases=0)),
        (r"channels\[0\].quantiles", with_channel(quantiles=(math.nan, 4.0, 10.0))),
        (r"channels\[0\].quantiles", with_channel(quantiles=(0.0, 4.0, math.inf))),
        (r"channels\[0\].quantiles", with_channel(quantiles=(0.0, 4.0, 1e300))),
        (r"channels\[0\].quantiles", with_channel(quantiles=(-1e300, 4.0, 10.0))),
        (r"channels\[0\].mean", with_channel(mean=11.0)),
        (r"channels\[0\].mean", with_channel(mean=math.nan)),
        (r"channels\[0\].m2", with_channel(m2=-1.0)),
        (r"channels\[0\].m2", with_channel(m2=math.nan)),
        (r"channels\[0\].m2", with_channel(m2=51.0)),
        (r"channels\[0\].quantiles", with_channel(quantiles=())),
        (r"channels\[0\].quantiles", with_channel(quantiles=(0.0, 10.0))),
        (r"channels\[0\].quantiles", with_channel(quantiles=(0.0, 11.0, 10.0))),
        (r"channels\[0\].quantiles", with_channel(quantiles=(0.0, math.nan, 10.0))),
        (
            r"channels\[0\].quantiles",
            with_channel(
                probabilities=tuple(np.linspace(0, 1, 4097).tolist()),
                quantiles=tuple(np.linspace(0, 10, 4097).tolist()),
            ),
        ),
        (r"channels\[0\].probabilities", with_channel(probabilities=(0.0, 0.0, 1.0))),
        (r"channels\[0\].probabilities", with_channel(probabilities=(0.1, 0.5, 1.0))),
        (r"channels\[0\].probabilities", with_channel(probabilities=(0.0, 0.5, 0.9))),
        (r"channels\[0\].probabilities", with_channel(probabilities=(0.0, math.nan, 1.0))),
        (r"channels\[0\].probabilities", with_channel(probabilities=(-0.1, 0.5, 1.0))),
        (r"channels\[0\].probabilities", with_channel(probabilities=(0.0, 0.5, 1.1))),
        ("geometry", replace(GOOD, geometry=(CASE,))),
        (r"geometry\[0\]", replace(GOOD, geometry=(replace(CASE, spacing_mm=()), CASE))),
        (r"geometry\[1\]", with_case(spacing_mm=(1.0, 1.0))),
        (r"geometry\[1\]", with_case(spacing_mm=(1.0, 1.0), shape_after_crop=(3, 3))),
        (r"geometry\[1\].spacing_mm", with_case(spacing_mm=(1.0, 0.0, 1.0))),
        (r"geometry\[1\].spacing_mm", with_case(spacing_mm=(1.0, math.nan, 1.0))),
        (r"geometry\[1\].spacing_mm", with_case(spacing_mm=(1.0, math.inf, 1.0))),
        (r"geometry\[1\].shape_after_crop", with_case(shape_after_crop=(1, 0, 1))),
        (r"geometry\[1\].shape_after_crop", with_case(shape_after_crop=(1, 100_001, 1))),
        (r"geometry\[1\].relative_size", with_case(relative_size_after_cropping=0.0)),
        (r"geometry\[1\].relative_size", with_case(relative_size_after_cropping=1.1)),
        (r"geometry\[1\].relative_size", with_case(relative_size_after_cropping=math.nan)),
    ],
)
def test_what_no_dataset_could_have_is_refused_and_named(field, bad):
    validate_fingerprint(GOOD)
    with pytest.raises(MalformedError, match=f"^The fingerprint's {field}"):
        validate_fingerprint(bad)


def nnunet_properties(cases, n_samples=100_000):
    """What nnU-Net reports: every case sampled with replacement, as often as every other.

    As DatasetFingerprintExtractor.collect_foreground_intensities and run do, for one channel.
    """
    sample = np.concatenate(
        [np.random.RandomState(1234).choice(case, n_samples, replace=True) for case in cases]
    )
    low, median, high = np.percentile(sample, (0.5, 50.0, 99.5))
    return {
        "mean": sample.mean(dtype=np.float64),
        "std": sample.std(dtype=np.float64),
        "min": sample.min(),
        "max": sample.max(),
        "percentile_00_5": low,
        "median": median,
        "percentile_99_5": high,
    }


@pytest.fixture(scope="module")
def hippocampus():
    """(site, foreground intensities) of every case."""
    if not DATA.is_dir():
        pytest.skip("the hippocampus images are absent; FEDFS_TEST_DATA names their parent folder")
    sitk = pytest.importorskip("SimpleITK")

    def foreground(name):
        image = sitk.ReadImage(str(DATA / "imagesTr" / f"{name}_0000.nii.gz"), sitk.sitkFloat32)
        label = sitk.ReadImage(str(DATA / "labelsTr" / f"{name}.nii.gz"))
        return sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(label) > 0]

    with (DATA / "cases.csv").open() as file:
        return [(row["site"], foreground(row["case"])) for row in csv.DictReader(file)]


def sites_of_cases_csv(cases):
    return {site: [c for s, c in cases if s == site] for site in sorted({s for s, _ in cases})}


def sites_of_unlike_intensity(cases):
    """The same images as if every site had its own scanner: split by the cases' mean intensity."""
    ordered = sorted((values for _, values in cases), key=lambda values: float(values.mean()))
    return {"a": ordered[:80], "b": ordered[80:165], "c": ordered[165:]}


@pytest.mark.parametrize("split", [sites_of_cases_csv, sites_of_unlike_intensity])
def test_real_images_federated_equals_pooled(split, hippocampus, capsys):
    sites = split(hippocampus)
    n_cases = sum(len(cases) for cases in sites.values())
    pooled = nnunet_properties([case for cases in sites.values() for case in cases])
    per_site = {site: nnunet_properties(cases) for site, cases in sites.items()}
    averaged = {
        key: sum(len(sites[site]) * per_site[site][key] for site in sites) / n_cases
        for key in pooled
    }
    merged = fp.merge_fingerprints(
        {site: coarsen(fingerprint_of(cases), extremes=False) for site, cases in sites.items()}
    )
    validate_fingerprint(merged)
    federated = fp.to_nnunet(merged)["foreground_intensity_properties_per_channel"]["0"]

    lines = [f"{split.__name__:28}{'pooled':>14}{'federated':>14}{'averaged':>14}"]
    lines += [f"{k:28}{pooled[k]:14.2f}{federated[k]:14.2f}{averaged[k]:14.2f}" for k in federated]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

    between_percentiles = pooled["percentile_99_5"] - pooled["percentile_00_5"]
    assert federated.keys() == pooled.keys() - {"min", "max"}
    for key in ("mean", "std"):
        assert federated[key] == pytest.approx(pooled[key], rel=1e-3), key
    for key in ("percentile_00_5", "median", "percentile_99_5"):
        assert abs(federated[key] - pooled[key]) < 0.005 * between_percentiles, key
    # Why the sites' statistics are not averaged, as the published reference does: the std misses
    # the spread between the sites, all the more the less alike they are.
    error = {"federated": federated["std"], "averaged": averaged["std"]}
    error = {scheme: abs(std / pooled["std"] - 1) for scheme, std in error.items()}
    assert error["averaged"] > 10 * error["federated"]
    if split is sites_of_unlike_intensity:
        assert error["averaged"] > 0.1
        assert abs(averaged["percentile_99_5"] - pooled["percentile_99_5"]) > (
            0.1 * between_percentiles
        )


# --- saying less ---------------------------------------------------------------------------------


def _site(seed: int, n_cases: int) -> SiteFingerprint:
    rng = np.random.default_rng(seed)
    geometry = tuple(
        CaseGeometry(
            tuple(float(mm) for mm in rng.uniform(0.5, 3, 3)),
            tuple(int(n) for n in rng.integers(30, 300, 3)),
            float(rng.uniform(0.4, 1)),
        )
        for _ in range(n_cases)
    )
    cases = [fp.sketch_case(rng.normal(100, 30, 400)) for _ in range(n_cases)]
    return SiteFingerprint(n_cases, (fp.mix_cases(cases),), geometry)


@given(
    st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9), st.sampled_from([None, 1, 3, 6])
)
def test_a_coarse_fingerprint_is_a_fingerprint(seed, n_cases, quantiles, digits):
    site = _site(seed, n_cases)
    coarse = coarsen(site, extremes=n_cases % 2 == 0, digits=digits, quantiles=quantiles)
    validate_fingerprint(coarse)
    assert coarse.n_cases == n_cases
    lines = set(coarse.geometry)
    assert len(lines) <= max(1, min(quantiles, n_cases // 2))
    fp.merge_fingerprints({"a": coarse, "b": site})


@given(
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1), st.integers(1, 3),
    st.integers(1, 3),
)  # fmt: skip
def test_values_at_two_extremes_stay_a_fingerprint_however_they_are_rounded(
    low, width, share, n_cases, digits
):
    """Nothing spreads farther; where rounding draws the extremes together, it must spread less."""
    values = np.array([low] * round(1 + 20 * share) + [low + width] * round(21 - 20 * share))
    sketch = fp.mix_cases([fp.sketch_case(values)] * n_cases)
    geometry = (CaseGeometry((1.0, 1.0, 1.0), (99_999, 9, 9), 1.0),) * n_cases
    for extremes in (True, False):
        site = SiteFingerprint(n_cases, (sketch,), geometry)
        validate_fingerprint(coarsen(site, extremes=extremes, digits=digits))


@given(st.integers(0, 1000))
def test_extents_keep_their_median(seed):
    site = _site(seed, 25)
    coarse = coarsen(site, extremes=False, quantiles=5)

    def extents(fingerprint):
        return np.median(
            [np.multiply(c.spacing_mm, c.shape_after_crop) for c in fingerprint.geometry], axis=0
        )

    np.testing.assert_allclose(extents(coarse), extents(site), atol=2.0)


def test_rounded_numbers_have_so_many_digits():
    coarse = coarsen(_site(1, 9), extremes=False, digits=2)
    numbers = [coarse.channels[0].mean, *coarse.channels[0].quantiles]
    numbers += [mm for case in coarse.geometry for mm in case.spacing_mm]
    assert all(float(f"{value:.1e}") == value for value in numbers)
    assert coarsen(_site(1, 9), extremes=True) == _site(1, 9)
