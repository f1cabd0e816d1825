import numpy as np
import pytest

from fedfs.aggregate import encodings
from fedfs.errors import TensorError, UserError

BASE = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_every_registered_encoding_knows_its_own_name():
    for name, encoding in encodings.ENCODINGS.items():
        assert encoding.name == name
        assert encodings.by_name(name) is encoding


def test_an_unknown_encoding_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown encoding 'int4'") as error:
        encodings.by_name("int4")
    assert error.value.hint == "known are: fp32"


def test_fp32_keeps_shape_and_type_also_of_scalars_and_of_transposed_arrays():
    fp32 = encodings.by_name("fp32")
    for trained in (BASE, BASE.T, np.float32(3.5).reshape(()), np.empty((0, 3), np.float32)):
        payload = fp32.encode(trained, trained)
        assert payload.shape == trained.shape
        assert payload.dtype == np.float32
        assert payload.flags.c_contiguous
        delta = fp32.decode(payload, trained)
        assert delta.shape == trained.shape
        assert not delta.any()


def test_fp32_forms_the_difference_in_float64():
    fp32 = encodings.by_name("fp32")
    base, trained = np.float32([1.0]), np.float32([1.0 + 2**-23])
    tiny = np.float32([1e-6])
    assert fp32.decode(trained, base)[0] == 2**-23
    assert fp32.decode(tiny, base)[0] == float(tiny[0]) - 1.0


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (np.zeros(6, np.float32), "shape"),
        (np.zeros((3, 2), np.float32), "shape"),
        (np.zeros((1, 3), np.float32), "shape"),
        (np.zeros((2, 3), np.float64), "type float64"),
        (np.zeros((2, 3), np.int8), "type int8"),
    ],
)
def test_a_payload_of_another_shape_or_type_is_refused(payload, message):
    with pytest.raises(TensorError, match=message):
        encodings.by_name("fp32").decode(payload, BASE)


def test_a_trained_tensor_of_another_shape_is_refused():
    with pytest.raises(TensorError, match="shape"):
        encodings.by_name("fp32").encode(np.zeros(3, np.float32), BASE)
