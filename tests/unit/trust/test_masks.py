import dataclasses
import hashlib
import hmac

import numpy as np
import pytest

from fedfs.trust.masks import SEED_BYTES, MaskContext, mask_stream

SEED = bytes(range(SEED_BYTES))
CONTEXT = MaskContext(study="organ-1", track="2d", version=7, site="north")

GOLDEN = [1626063013, 670196710, 2487255347, 3276160107]


def test_masks_are_the_same_on_every_host():
    """Computed once; others must be able to open what is sealed today."""
    assert mask_stream(SEED, CONTEXT, "conv.weight").read(4).tolist() == GOLDEN


def test_a_mask_is_hkdf_and_chacha20_as_their_standards_say():
    """Written down again with the primitives of Python alone: RFC 5869 and RFC 8439."""
    info = b'["fedfs mask 1","organ-1","2d",7,"north","conv.weight"]'
    extracted = hmac.digest(bytes(32), SEED, hashlib.sha256)
    key = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    words = [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    expected = chacha20_block(words, 0) + chacha20_block(words, 1)
    assert mask_stream(SEED, CONTEXT, "conv.weight").read(32).tolist() == expected


def chacha20_block(key, counter):
    state = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key, counter, 0, 0, 0]
    found = list(state)

    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            found[x] = (found[x] + found[y]) % 2**32
            found[z] ^= found[x]
            found[z] = (found[z] << n | found[z] >> (32 - n)) % 2**32

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) % 2**32 for a, b in zip(state, found, strict=True)]


def test_a_mask_does_not_depend_on_how_it_is_read():
    whole, parts = mask_stream(SEED, CONTEXT, "w"), mask_stream(SEED, CONTEXT, "w")
    read = [parts.read(n) for n in (0, 1, 15, 16, 17, 951)]
    np.testing.assert_array_equal(whole.read(1000), np.concatenate(read))


OTHERS = [
    (bytes(SEED_BYTES), CONTEXT, "w"),
    (SEED, CONTEXT, "v"),
    (SEED, dataclasses.replace(CONTEXT, study="organ-2"), "w"),
    (SEED, dataclasses.replace(CONTEXT, track=""), "w"),
    (SEED, dataclasses.replace(CONTEXT, version=8), "w"),
    (SEED, dataclasses.replace(CONTEXT, site="south"), "w"),
    # Borders between fields count.
    (SEED, dataclasses.replace(CONTEXT, study="organ-1,2d", track=""), "w"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_another_update_tensor_or_seed_has_another_mask(other):
    one, two = mask_stream(SEED, CONTEXT, "w").read(64), mask_stream(*other).read(64)
    assert (one != two).sum() >= 60


def test_a_mask_is_spread_over_all_numbers():
    counts = np.bincount(mask_stream(SEED, CONTEXT, "w").read(1 << 16) >> 28, minlength=16)
    assert (abs(counts - 4096) < 6 * 62).all()


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        mask_stream(SEED[1:], CONTEXT, "w")
