"""The laws of encodings: what is lost at most, that nothing is lost for good, that all agree."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfs.errors import TensorError
from fedfs.tensors import encodings
from fedfs.tensors.encodings import bits

ENCODINGS = [
    encodings.by_name("fp32"),
    encodings.by_name("fp16"),
    encodings.by_name("bf16"),
    encodings.by_name("int8"),
    encodings.by_name("topk"),
    encodings.by_name("topk", {"fraction": 0.3, "bits": 4}),
    encodings.by_name("topk", {"fraction": 0.9, "bits": 2}),
    encodings.by_name("fixed"),
    encodings.by_name("fixed", {"max_change": 2.0**-8}),
    encodings.by_name("randk", {"fraction": 0.001}),
    encodings.by_name("randk", {"fraction": 0.003, "max_change": 64.0}),
]
LOSSY = [encoding for encoding in ENCODINGS if not encoding.lossless]
TOPK = [encoding for encoding in LOSSY if encoding.name == "topk"]
IN_LEVELS = [encoding for encoding in TOPK if encoding.bits > 2]
SUMMABLE = [encoding for encoding in LOSSY if encoding.summable]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
any_value = st.floats(-(2.0**100), 2.0**100, width=32)
ordinary = st.floats(-100, 100, width=32)


def arrays(count, elements=any_value):
    return shapes.flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=elements)] * count)
    )


def decoded(encoding, trained, base, residual=None):
    payload = encoding.encode("w", trained, base, residual).payload
    return encoding.decode("w", payload, base)


@given(st.sampled_from(ENCODINGS), arrays(2))
def test_payloads_are_what_was_expected_and_decode_to_the_shape(encoding, pair):
    trained, base = pair
    encoded = encoding.encode("w", trained, base)
    expected = encoding.expected("w", base.shape)
    sizes = {"F32": 4, "BF16": 4, "F16": 2, "I32": 4, "I8": 1, "U8": 1}
    assert {n: (a.shape, a.dtype.itemsize) for n, a in encoded.payload.items()} == {
        n: (shape, sizes[dtype]) for n, (dtype, shape) in expected.items()
    }
    delta = encoding.decode("w", encoded.payload, base)
    assert (delta.shape, delta.dtype) == (base.shape, np.float64)


@given(arrays(2))
def test_fp32_reconstructs_every_bit(pair):
    trained, base = pair
    encoding = ENCODINGS[0]
    values = encoding.reconstruct("w", encoding.encode("w", trained, base).payload, base)
    assert values.tobytes() == trained.tobytes()


@given(arrays(1, st.floats(-60000, 60000, width=32)))
def test_half_precision_is_exact_to_half_a_unit_in_the_last_place(one):
    (delta,) = one
    error = np.abs(decoded(encodings.by_name("fp16"), delta, np.zeros_like(delta)) - delta)
    assert (error <= np.maximum(np.abs(delta.astype(np.float64)) * 2.0**-11, 2.0**-25)).all()


@given(arrays(1))
def test_bfloat16_is_exact_to_half_a_unit_in_the_last_place(one):
    (delta,) = one
    error = np.abs(decoded(encodings.by_name("bf16"), delta, np.zeros_like(delta)) - delta)
    assert (error <= np.maximum(np.abs(delta.astype(np.float64)) * 2.0**-8, 2.0**-134)).all()


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=any_value))
def test_bfloat16_agrees_with_torch(delta):
    torch = pytest.importorskip("torch")
    payload = encodings.by_name("bf16").encode("w", delta, np.zeros_like(delta)).payload["w#values"]
    expected = torch.from_numpy(delta).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(payload, expected)


@given(arrays(2))
def test_int8_is_exact_to_half_a_scale_and_keeps_the_largest(pair):
    trained, base = pair
    encoding = encodings.by_name("int8")
    payload = encoding.encode("w", trained, base).payload
    delta = trained.astype(np.float64) - base
    scale = float(payload["w#scale"])
    error = np.abs(encoding.decode("w", payload, base) - delta)
    assert (error <= scale * 0.5 * (1 + 2.0**-50)).all()
    largest = np.abs(delta).max(initial=0)
    assert scale * 127 >= largest
    assert scale * 127 <= largest * (1 + 2.0**-20) + 127 * 2.0**-149


@given(st.sampled_from(TOPK), arrays(2))
def test_topk_keeps_the_largest(encoding, pair):
    trained, base = pair
    delta = trained.astype(np.float64) - base
    payload = encoding.encode("w", trained, base).payload
    n, k = delta.size, encoding.n_kept(delta.size)
    kept = bits.unpack_indices(payload["w#indices"], n, k)
    magnitude = np.abs(delta.reshape(-1))
    others = np.delete(magnitude, kept)
    assert magnitude[kept].min(initial=np.inf) >= others.max(initial=0)
    found = encoding.decode("w", payload, base).reshape(-1)
    assert not np.delete(found, kept).any()
    assert (found[kept] * delta.reshape(-1)[kept] >= 0).all()
    if encoding not in IN_LEVELS:
        return
    error = np.abs(found[kept] - delta.reshape(-1)[kept])
    assert (error <= float(payload["w#scale"]) * 0.5 * (1 + 2.0**-50)).all()


@given(st.sampled_from(LOSSY), arrays(5, ordinary))
def test_what_is_not_sent_is_never_lost(encoding, rounds):
    """All that was decoded, and the last residual, make up all that was trained."""
    base, *trained = rounds
    total, sent, residual = np.zeros(base.shape), np.zeros(base.shape), None
    for tensor in trained:
        encoded = encoding.encode("w", tensor, base, residual)
        residual = encoded.residual
        total += tensor.astype(np.float64) - base
        sent += encoding.decode("w", encoded.payload, base)
        assert np.isfinite(residual).all()
    # The residual is rounded to float32 once per round; it is never larger than all deltas.
    bound = 4 * 800 * 2.0**-24
    np.testing.assert_allclose(sent + (0 if residual is None else residual), total, atol=bound)


@given(st.sampled_from(TOPK), hnp.arrays(np.float32, st.integers(1, 40), elements=ordinary))
def test_everything_is_sent_sooner_or_later(encoding, delta):
    base, residual = np.zeros_like(delta), None
    got = np.zeros(delta.shape)
    trained = delta
    for _ in range(400):
        encoded = encoding.encode("w", trained, base, residual)
        got += encoding.decode("w", encoded.payload, base)
        residual, trained = encoded.residual, base
    np.testing.assert_allclose(got, delta, atol=1e-3 * max(1e-3, np.abs(delta).max()))


@given(st.sampled_from(SUMMABLE), arrays(2, ordinary))
def test_levels_are_exact_to_half_a_step_up_to_the_largest_change(encoding, pair):
    trained, base = pair
    delta = trained.astype(np.float64) - base
    encoded = encoding.encode("w", trained, base)
    found = encoding.decode("w", encoded.payload, base)
    sent = np.ones(delta.shape, bool)
    if encoding.name == "randk":
        sent = np.zeros(delta.size, bool)
        sent[encoding.positions("w", base)] = True
        sent = sent.reshape(delta.shape)
    assert not found[~sent].any()
    bound = encoding.max_change - encoding.step
    assert (np.abs(found - np.clip(delta, -bound, bound))[sent] <= encoding.step / 2).all()


@given(st.floats(0, 0.01, exclude_min=True, exclude_max=True), st.integers(0, 400))
def test_randk_draws_so_many_different_positions_which_depend_on_the_base(fraction, n):
    encoding = encodings.by_name("randk", {"fraction": fraction})
    base = np.arange(n, dtype=np.float32)
    positions = encoding.positions("w", base)
    assert len(positions) == encoding.n_values((n,)) <= n
    assert (np.diff(positions) > 0).all()
    assert not n or 0 <= positions[0] <= positions[-1] < n
    np.testing.assert_array_equal(positions, encoding.positions("w", base.astype(np.float64)))
    if n > 100 and len(positions) < n / 2:
        for other in (encoding.positions("v", base), encoding.positions("w", base + 1)):
            assert (other != positions).any()


@given(st.sampled_from(ENCODINGS), arrays(3, ordinary))
def test_equal_inputs_encode_to_equal_bytes_whatever_their_layout(encoding, triple):
    trained, base, residual = triple
    one = encoding.encode("w", trained, base, residual)
    two = encoding.encode(
        "w", np.asfortranarray(trained), np.asfortranarray(base), np.asfortranarray(residual)
    )
    assert one.payload.keys() == two.payload.keys()
    for name in one.payload:
        assert one.payload[name].tobytes() == two.payload[name].tobytes()
    if one.residual is not None:
        assert one.residual.tobytes() == two.residual.tobytes()


@given(st.sampled_from(LOSSY), arrays(4, ordinary))
def test_reader_and_publisher_of_deltas_hold_the_same_bits(encoding, models):
    published, *targets = models
    read, residual = published, None
    for target in targets:
        encoded = encoding.encode("w", target, published, residual)
        residual = encoded.residual
        published = encoding.reconstruct("w", encoded.payload, published)
        read = encoding.reconstruct("w", encoded.payload, read)
        assert read.tobytes() == published.tobytes()
        assert read.dtype == np.float32


@given(
    st.sampled_from(ENCODINGS),
    arrays(2, ordinary),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_nan_and_infinity_are_never_accepted(encoding, pair, bad, data):
    trained, base = pair
    assume(base.size)
    payload = dict(encoding.encode("w", trained, base).payload)
    if floats := sorted(name for name, array in payload.items() if array.dtype.kind == "f"):
        name = data.draw(st.sampled_from(floats))
        forged = payload[name].copy().reshape(-1)
        forged[data.draw(st.integers(0, forged.size - 1))] = bad
        payload[name] = forged.reshape(payload[name].shape)
        for read in (encoding.decode, encoding.reconstruct):
            with pytest.raises(TensorError):
                read("w", payload, base)
    broken = trained.copy().reshape(-1)
    broken[data.draw(st.integers(0, broken.size - 1))] = bad
    with pytest.raises(TensorError):
        encoding.encode("w", broken.reshape(base.shape), base)


@given(st.sampled_from(LOSSY), shapes, st.data())
def test_any_bytes_are_refused_or_decode_to_something_finite(encoding, shape, data):
    base = np.zeros(shape, np.float32)
    numpy_types = {"F32": "f4", "BF16": "f4", "F16": "f2", "I32": "i4", "I8": "i1", "U8": "u1"}
    payload = {}
    for name, (dtype, entry_shape) in encoding.expected("w", shape).items():
        template = np.zeros(entry_shape, numpy_types[dtype])
        raw = data.draw(st.binary(min_size=template.nbytes, max_size=template.nbytes))
        payload[name] = np.frombuffer(raw, template.dtype).reshape(entry_shape)
    try:
        delta = encoding.decode("w", payload, base)
    except TensorError:
        return
    assert delta.shape == shape
    assert np.isfinite(delta).all()
    # What was accepted is the only way to write it: encoding it again gives the indices back.
    if encoding.name == "topk" and delta.size:
        n, k = delta.size, encoding.n_kept(delta.size)
        indices = bits.unpack_indices(payload["w#indices"], n, k)
        assert bits.pack_indices(indices, n).tobytes() == payload["w#indices"].tobytes()


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_any_set_of_indices_goes_both_ways(pair):
    n, chosen = pair
    indices = np.array(sorted(chosen), dtype=np.int64)
    raw = bits.pack_indices(indices, n)
    assert len(raw) == bits.indices_bytes(n, len(indices))
    np.testing.assert_array_equal(bits.unpack_indices(raw, n, len(indices)), indices)
