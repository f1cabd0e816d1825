import numpy as np
import pytest

from fedfs.errors import TensorError, UserError
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile, weights_sha256, write_safetensors
from fedfs.tensors.encodings import bits
from fedfs.tensors.encodings.base import SEPARATOR, part_name
from fedfs.tensors.safetensors_layout import file_bytes

BASE = np.arange(6, dtype=np.float32).reshape(2, 3)
FP32 = encodings.by_name("fp32")
LOSSY = ("bf16", "fixed", "fp16", "int8", "randk", "topk")

# Not random, so that they are the same with every version of numpy.
SHAPES = {"a.weight": (5, 4, 3, 3), "a.bias": (5,), "b": (), "empty": (0, 2), "one": (1,)}
MODEL = {
    name: (np.arange(np.prod(shape, dtype=int), dtype=np.float32) % 7 - 3).reshape(shape) / 8
    for name, shape in SHAPES.items()
}


def step(tensors, number):
    """Another model, a little away from ``tensors``."""
    out = {}
    for name, array in tensors.items():
        count = np.arange(array.size, dtype=np.int64)
        away = ((count * 7919 + number * 104729) % 1009 - 504) / (3 * 2.0**18)
        out[name] = (array + away.reshape(array.shape)).astype(np.float32)
    return out


def test_every_registered_encoding_knows_its_own_name():
    for name in encodings.ENCODINGS:
        assert encodings.by_name(name).name == name
    assert list(encodings.ENCODINGS) == ["bf16", "fixed", "fp16", "fp32", "int8", "randk", "topk"]
    assert [n for n in encodings.ENCODINGS if encodings.by_name(n).lossless] == ["fp32"]
    assert [n for n in encodings.ENCODINGS if encodings.by_name(n).summable] == ["fixed", "randk"]


def test_an_unknown_encoding_lists_the_known_ones():
    with pytest.raises(UserError, match="Unknown encoding 'int4'") as error:
        encodings.by_name("int4")
    assert error.value.hint == "known are: bf16, fixed, fp16, fp32, int8, randk, topk"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fp32", {"fraction": 0.1}, "'fp32' has no option 'fraction'"),
        ("topk", {"share": 0.1}, "'topk' has no option 'share'"),
        ("topk", {"fraction": 0.0}, "'fraction'"),
        ("topk", {"fraction": 1.0}, "'fraction'"),
        ("topk", {"fraction": -0.1}, "'fraction'"),
        ("topk", {"fraction": float("nan")}, "'fraction'"),
        ("topk", {"bits": 1}, "'bits'"),
        ("topk", {"bits": 9}, "'bits'"),
        ("topk", {"bits": 4.5}, "'bits'"),
        ("topk", {"bits": True}, "'bits'"),
        ("topk", {"name": 1.0}, "no option 'name'"),
        ("topk", {"decay": 0.0}, "'decay'"),
        ("topk", {"decay": 1.5}, "'decay'"),
        ("fixed", {"fraction": 0.1}, "'fixed' has no option 'fraction'"),
        ("fixed", {"max_change": 0.0}, "'max_change'"),
        ("fixed", {"max_change": 3.0}, "'max_change' of Fixed is 3"),
        ("fixed", {"max_change": 2.0**21}, "'max_change'"),
        ("randk", {"max_change": 0.3}, "'max_change' of RandK is 0.3"),
        ("randk", {"fraction": 1.0}, "'fraction'"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        encodings.by_name(name, options)
    assert error.value.hint


def test_fp32_keeps_shape_and_type_also_of_scalars_and_of_transposed_arrays():
    for trained in (BASE, BASE.T, np.float32(3.5).reshape(()), np.empty((0, 3), np.float32)):
        encoded = FP32.encode("w", trained, trained)
        assert encoded.residual is None
        payload = encoded.payload["w"]
        assert payload.shape == trained.shape
        assert payload.dtype == np.float32
        assert payload.flags.c_contiguous
        delta = FP32.decode("w", encoded.payload, trained)
        assert delta.shape == trained.shape
        assert not delta.any()


def test_fp32_forms_the_difference_in_float64_and_reconstructs_the_bits():
    base, trained, tiny = np.float32([1.0]), np.float32([1.0 + 2**-23]), np.float32([1e-26])
    assert FP32.decode("w", {"w": trained}, base)[0] == 2**-23
    assert FP32.decode("w", {"w": tiny}, base)[0] == float(tiny[0]) - 1.0
    assert FP32.reconstruct("w", {"w": tiny}, base) == tiny  # base + (tiny - base) would be 0


def test_fp32_takes_over_what_another_encoding_left_behind():
    residual = np.full_like(BASE, 0.25)
    np.testing.assert_array_equal(FP32.encode("w", BASE, BASE, residual).payload["w"], BASE + 0.25)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (np.zeros(6, np.float32), "shape"),
        (np.zeros((3, 2), np.float32), "shape"),
        (np.zeros((1, 3), np.float32), "shape"),
        (np.zeros((2, 3), np.float64), "type float64"),
        (np.zeros((2, 3), np.int8), "type int8"),
        (np.full((2, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_a_payload_of_another_shape_or_type_is_refused(payload, message):
    with pytest.raises(TensorError, match=message):
        FP32.decode("w", {"w": payload}, BASE)
    with pytest.raises(TensorError, match=message):
        FP32.reconstruct("w", {"w": payload}, BASE)


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_trained_values_of_another_shape_or_not_finite_are_refused(name):
    encoding = encodings.by_name(name)
    with pytest.raises(TensorError, match="shape"):
        encoding.encode("w", np.zeros(3, np.float32), BASE)
    with pytest.raises(TensorError, match="shape"):
        encoding.encode("w", BASE, BASE, np.zeros(3, np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        broken = BASE.copy()
        broken[1, 1] = bad
        with pytest.raises(TensorError, match="'w' holds NaN or infinite"):
            encoding.encode("w", broken, BASE)
        with pytest.raises(TensorError, match="'w' holds NaN or infinite"):
            encoding.encode("w", BASE, BASE, broken)


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_a_payload_is_what_was_announced_and_survives_a_file(tmp_path, name):
    encoding, path = encodings.by_name(name), tmp_path / "update.safetensors"
    trained = step(MODEL, 1)
    layout = encodings.payload_layout(encoding, SHAPES)
    payload = {}
    for tensor in sorted(MODEL):
        payload |= encoding.encode(tensor, trained[tensor], MODEL[tensor]).payload
    write_safetensors(path, payload, dtypes={n: entry[0] for n, entry in layout.items()})
    # The library orders tensors by type: other offsets, with more or fewer digits.
    n_bytes = file_bytes(layout)
    assert n_bytes - 8 <= path.stat().st_size <= n_bytes + 8
    with TensorFile(path) as file:
        file.check_layout(layout)
        assert file.names == tuple(sorted(payload))
        for tensor, base in MODEL.items():
            np.testing.assert_array_equal(
                encoding.decode(tensor, file, base), encoding.decode(tensor, payload, base)
            )


@pytest.mark.parametrize("name", LOSSY)
def test_a_delta_cannot_be_taken_for_weights(name):
    names = encodings.payload_layout(encodings.by_name(name), SHAPES)
    assert not names.keys() & SHAPES.keys()
    assert all(SEPARATOR in payload_name for payload_name in names)


def test_a_name_that_could_be_taken_for_a_part_is_refused():
    with pytest.raises(TensorError, match="'#'"):
        part_name("a#values", "scale")
    with pytest.raises(TensorError, match="'#'"):
        encodings.by_name("topk").expected("a#values", (3,))


HASHES = {
    "bf16": "257a05954322b5e503fd54fc6921604f64565d4894faf176d70d49aa5de1c304",
    "fixed": "63d5cfdf32b2590647486a0f4ea582f01cc616074c5323e1ebb37f96e6dbc434",
    "fp16": "77074805445fd4c7d2f0e344522dab10ed141e983adab73b27cce149c8c4dce2",
    "fp32": "6e17fd4c9269a1b346486986df85b7cab447e11b10159c0d5736f7286281370a",
    "int8": "833fc7da16bc4fde93852761e6169a1c89e84cf9c5f7b045f3f85fcdc9ad77b6",
    "randk": "4d6f6cdc2dbde8eba6e1aac8f28c7f1a2bbf38141ad0764f2d5d08d357d2ab53",
    "topk": "30070abedde23abf3b6d81a6c4437586bfe200d54433f95da45e0b6f98718ba3",
}


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_a_version_that_travelled_as_deltas_is_the_same_bits_everywhere(name):
    """The hashes were computed once; another host or numpy must come to the same."""
    options = {"topk": {"fraction": 0.1}, "randk": {"fraction": 0.001}}
    encoding = encodings.by_name(name, options.get(name, {}))
    publisher, reader, residuals = dict(MODEL), dict(MODEL), {}
    for number in range(1, 5):
        target = step(publisher, number)
        for tensor, shape in SHAPES.items():
            encoded = encoding.encode(
                tensor, target[tensor], publisher[tensor], residuals.get(tensor)
            )
            residuals[tensor] = encoded.residual
            publisher[tensor] = encoding.reconstruct(tensor, encoded.payload, publisher[tensor])
            reader[tensor] = encoding.reconstruct(tensor, encoded.payload, reader[tensor])
            assert reader[tensor].dtype == np.float32
            assert reader[tensor].shape == shape
    assert weights_sha256(reader) == weights_sha256(publisher)
    assert weights_sha256(reader) == HASHES[name]


@pytest.mark.parametrize("name", LOSSY)
def test_what_reconstruct_adds_is_what_decode_returns(name):
    encoding, trained = encodings.by_name(name), step({"w": BASE}, 3)["w"]
    payload = encoding.encode("w", trained, BASE).payload
    expected = (BASE.astype(np.float64) + encoding.decode("w", payload, BASE)).astype(np.float32)
    np.testing.assert_array_equal(encoding.reconstruct("w", payload, BASE), expected)


@pytest.mark.parametrize("name", [n for n, cls in encodings.ENCODINGS.items() if cls.elementwise])
def test_elementwise_encodings_decode_slices(name):
    encoding = encodings.by_name(name)
    trained, base = step(MODEL, 2)["a.weight"].reshape(-1), MODEL["a.weight"].reshape(-1)
    payload = encoding.encode("w", trained, base).payload
    part = {n: array[20:90] if array.shape == base.shape else array for n, array in payload.items()}
    whole = encoding.decode("w", payload, base)
    np.testing.assert_array_equal(encoding.decode("w", part, base[20:90]), whole[20:90])


def test_int8_rounds_half_to_even():
    delta = np.float32([127, 0.5, 1.5, 2.5, -0.5, -1.5])
    payload = encodings.by_name("int8").encode("w", delta, np.zeros_like(delta)).payload
    assert payload["w#scale"] == 1
    assert payload["w#values"].tolist() == [127, 0, 2, 2, 0, -2]


def test_fp16_and_bf16_cut_what_is_too_large_and_send_the_rest_later():
    base = np.zeros(1, np.float32)
    encoded = encodings.by_name("fp16").encode("w", np.float32([70000]), base)
    assert encoded.payload["w#values"] == 65504
    assert encoded.residual == 70000 - 65504
    largest = np.float32([np.finfo(np.float32).max])
    encoded = encodings.by_name("bf16").encode("w", largest, base)
    assert np.isfinite(encoded.payload["w#values"]).all()
    assert encoded.residual > 0


def test_fixed_cuts_what_is_too_large_and_sends_the_rest_later():
    base = np.zeros(2, np.float32)
    encoded = encodings.by_name("fixed").encode("w", np.float32([3, -0.5]), base)
    assert encoded.payload["w#values"].tolist() == [2**18 - 1, -(2**17)]
    assert encoded.residual.tolist() == [2 + 2.0**-18, 0]


def test_randk_sends_every_value_sooner_or_later():
    encoding = encodings.by_name("randk", {"fraction": 0.001})
    assert encoding.n_values((40,)) == 9
    here, residual = np.zeros(40, np.float32), None
    for _ in range(60):
        encoded = encoding.encode("w", here + np.float32(2**-6), here, residual)
        here, residual = encoding.reconstruct("w", encoded.payload, here), encoded.residual
    np.testing.assert_array_equal(here + residual, 60 / 64)
    assert here.min() > 0.5


def test_of_small_tensors_randk_sends_a_larger_part():
    encoding = encodings.by_name("randk")
    shares = {n: encoding.n_values((n,)) / n for n in (320, 32 * 32 * 27, 256 * 256 * 27)}
    assert list(shares.values()) == pytest.approx([1, 0.4, 0.05], rel=1e-3)
    assert encoding.n_values((320, 320, 27)) == 110_592  # 4 %
    assert encoding.n_values(()) == 1
    assert encoding.n_values((0, 3)) == 0


def test_the_positions_of_randk_are_the_same_on_every_host():
    encoding = encodings.by_name("randk", {"fraction": 0.0005})
    base = np.arange(60, dtype=np.float32).reshape(3, 20)
    assert encoding.positions("conv.weight", base).tolist() == [4, 10, 24, 35, 40, 59]
    assert encoding.positions("conv.weight", np.asfortranarray(base)).tolist() == [
        4,
        10,
        24,
        35,
        40,
        59,
    ]
    assert encoding.positions("conv.weight", base.reshape(-1)).tolist() == [4, 10, 24, 35, 40, 59]


def test_topk_keeps_the_first_of_equal_values_on_every_host():
    delta = np.float32([1, -2, 2, 0, -1, 1, 2, 1, 1, 1])
    payload = encodings.by_name("topk", {"fraction": 0.4}).encode("w", delta, 0 * delta).payload
    found = encodings.by_name("topk", {"fraction": 0.4}).decode("w", payload, 0 * delta)
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 6]


def test_two_bits_are_a_sign_and_one_of_two_magnitudes():
    delta = np.float32([1, -1.5, 0.25, -8, 0, 10, 0.5, 1.5, 0, 0])
    topk = encodings.by_name("topk", {"fraction": 0.6, "bits": 2})
    encoded = topk.encode("w", delta, 0 * delta)
    assert encoded.payload["w#scale"].shape == (2,)
    assert encoded.payload["w#values"].nbytes == 2
    found = topk.decode("w", encoded.payload, 0 * delta)
    low, high = encoded.payload["w#scale"].astype(float)
    assert (low, high) == (pytest.approx(1.0), pytest.approx(6.5))
    expected = [low, -low, 0, -high, 0, high, low, low, 0, 0]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(encoded.residual, delta - found, rtol=1e-6)


@pytest.mark.parametrize("pair", [(-1.0, 1.0), (2.0, 1.0)])
def test_two_magnitudes_have_to_ascend_from_zero(pair):
    topk = encodings.by_name("topk", {"fraction": 0.5, "bits": 2})
    payload = {**topk.encode("w", BASE, 0 * BASE).payload, "w#scale": np.float32(pair)}
    with pytest.raises(TensorError, match="negative or do not ascend"):
        topk.decode("w", payload, BASE)


@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_what_is_left_decays(decay):
    delta = np.float32([1, 2, 4, 8])
    topk = encodings.by_name("topk", {"fraction": 0.25, "decay": decay})
    first = topk.encode("w", delta, 0 * delta)
    np.testing.assert_allclose(first.residual, [1, 2, 4, 0], atol=1e-5)  # a scale is rounded up
    second = topk.encode("w", 0 * delta, 0 * delta, first.residual)
    np.testing.assert_allclose(
        topk.decode("w", second.payload, 0 * delta), [0, 0, 4 * decay, 0], atol=1e-5
    )
    np.testing.assert_allclose(second.residual, [decay, 2 * decay, 0, 0], atol=1e-5)


def test_topk_is_small():
    topk = encodings.by_name("topk", {"fraction": 0.01})
    layout = topk.expected("w", (320, 320, 3, 3, 3))
    k = 27648
    assert layout["w#values"] == ("U8", (k,))
    assert layout["w#indices"][1][0] * 8 / k < 8.7  # bits per index; entropy needs 8.07
    assert layout["w#scale"] == ("F32", ())


def test_numbers_of_any_width_are_packed_and_unpacked():
    for width in (0, 1, 3, 8, 13, 22):
        numbers = (np.arange(37) * 2654435761) % 2**width
        raw = bits.pack(numbers, width)
        assert len(raw) == bits.packed_bytes(37, width)
        np.testing.assert_array_equal(bits.unpack(raw, 37, width), numbers)


TOPK = encodings.by_name("topk", {"fraction": 0.3, "bits": 4})
DELTA = np.float32([0, 5, 0, 0, -3, 0, 0, 7, 0, 0])
GOOD = dict(TOPK.encode("w", DELTA, 0 * DELTA).payload)


def with_bit(array, *positions):
    flipped = np.unpackbits(array, bitorder="little")
    flipped[list(positions)] ^= 1
    return np.packbits(flipped, bitorder="little")


def test_the_table_of_forgeries_starts_from_a_payload_that_is_accepted():
    assert {n: (a.dtype.str, a.shape) for n, a in GOOD.items()} == {
        "w#indices": ("|u1", (2,)),
        "w#values": ("|u1", (2,)),
        "w#scale": ("<f4", ()),
    }
    found = TOPK.decode("w", GOOD, 0 * DELTA)
    np.testing.assert_array_equal(found, DELTA)


# n = 10, k = 3: one lower bit each (1, 0, 1), padded to a byte; then the upper bits of 1, 4 and 7,
# which are 0, 2, 3, at positions 0, 3 and 5 of 3 + 4 bits.
INDICES = GOOD["w#indices"]
FORGERIES = {
    "no scale": {"w#scale": None},
    "no values": {"w#values": None},
    "no indices": {"w#indices": None},
    "scale NaN": {"w#scale": np.float32(np.nan).reshape(())},
    "scale infinite": {"w#scale": np.float32(np.inf).reshape(())},
    "scale negative": {"w#scale": np.float32(-1).reshape(())},
    "scale of float64": {"w#scale": np.float64(1).reshape(())},
    "scale per value": {"w#scale": np.ones(3, np.float32)},
    "scale beyond float32": {"w#scale": np.float32(3e38).reshape(())},
    "values of int8": {"w#values": GOOD["w#values"].view(np.int8)},
    "too many values": {"w#values": np.zeros(3, np.uint8)},
    "too few values": {"w#values": np.zeros(1, np.uint8)},
    "unused level": {"w#values": GOOD["w#values"] | 15},
    "bits after the last value": {"w#values": with_bit(GOOD["w#values"], 15)},
    "too many bytes of indices": {"w#indices": np.append(INDICES, np.uint8(0))},
    "too few bytes of indices": {"w#indices": INDICES[:1]},
    "no index": {"w#indices": np.zeros(2, np.uint8)},
    "one index too many": {"w#indices": with_bit(INDICES, 8 + 6)},
    "one index too few": {"w#indices": with_bit(INDICES, 8 + 5)},
    "bits after the last lower bit": {"w#indices": with_bit(INDICES, 3)},
    "bits after the last upper bit": {"w#indices": with_bit(INDICES, 8 + 7)},
    "an index twice": {"w#indices": with_bit(INDICES, 1, 8 + 3, 8 + 1)},
    "indices that descend": {"w#indices": with_bit(INDICES, 8 + 3, 8 + 1)},
    "all bits": {"w#indices": np.full(2, 255, np.uint8)},
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_topk_payload_is_refused(forgery):
    payload = {n: a for n, a in {**GOOD, **forgery}.items() if a is not None}
    with pytest.raises(TensorError) as error:
        TOPK.decode("w", payload, 0 * DELTA)
    assert "'w" in str(error.value)
    with pytest.raises(TensorError):
        TOPK.reconstruct("w", payload, 0 * DELTA)


def test_an_index_beyond_the_tensor_is_refused():
    topk = encodings.by_name("topk", {"fraction": 0.3})
    base = np.zeros(9, np.float32)  # k = 3, one lower bit, so that index 9 can be spelled
    good = topk.encode("w", np.float32([0, 0, 0, 0, 0, 0, 2, 2, 2]), base).payload
    with pytest.raises(TensorError, match="out of range"):
        topk.decode("w", {**good, "w#indices": bits.pack_indices(np.array([6, 7, 9]), 9)}, base)


@pytest.mark.parametrize(
    ("name", "part", "array", "message"),
    [
        ("int8", "w#values", np.full(2, -128, np.int8), "-128"),
        ("int8", "w#values", np.zeros(2, np.uint8), "type uint8"),
        ("int8", "w#values", np.zeros((2, 1), np.int8), "shape"),
        ("int8", "w#scale", np.float32(-1).reshape(()), "negative"),
        ("fixed", "w#values", np.full(2, 2**18, np.int32), "beyond 262143"),
        ("fixed", "w#values", np.full(2, -(2**31), np.int32), "beyond 262143"),
        ("fixed", "w#values", np.zeros(2, np.uint32), "type uint32"),
        ("fixed", "w#values", np.zeros(1, np.int32), "shape"),
        ("randk", "w#values", np.full(2, 2**18, np.int32), "beyond 262143"),
        ("randk", "w#values", np.zeros(1, np.int32), "shape"),
        ("int8", "w#scale", np.float32(np.nan).reshape(()), "NaN"),
        ("int8", "w#scale", np.float32(3e38).reshape(()), "not finite"),
        ("fp16", "w#values", np.float16([1, np.nan]), "NaN"),
        ("fp16", "w#values", np.zeros(2, np.float32), "type float32"),
        ("fp16", "w#values", np.zeros(3, np.float16), "shape"),
        ("bf16", "w#values", np.float32([1, np.inf]), "NaN or infinite"),
        ("bf16", "w#values", np.float32([1, 1 + 2**-20]), "bfloat16"),
        ("bf16", "w#values", np.zeros(2, np.float16), "type float16"),
    ],
)
def test_a_forged_dense_payload_is_refused(name, part, array, message):
    encoding, base = encodings.by_name(name), np.ones(2, np.float32)
    good = encoding.encode("w", np.float32([2, 3]), base).payload
    with pytest.raises(TensorError, match=message):
        encoding.decode("w", {**good, part: array}, base)


def test_a_delta_that_leads_out_of_float32_is_refused():
    base = np.full(2, 3e38, np.float32)
    payload = encodings.by_name("bf16").encode("w", base, 0 * base).payload
    with pytest.raises(TensorError, match="'w' leads to values that are not finite"):
        encodings.by_name("bf16").decode("w", payload, base)
