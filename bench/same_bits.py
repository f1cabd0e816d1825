"""Hashes of the arithmetic that makes a version, to be compared between two hosts.

    python bench/same_bits.py > here.json      # on both, with the same numpy
    diff here.json there.json                  # what differs is not the same bits on both

Each strategy makes three versions of 100,003 values from the updates of five sites, each encoding
encodes one of them and is decoded, staleness and the exponential average follow. Inputs are drawn
as integers and scaled by powers of two, so that they are the same everywhere. It imports nothing
but fedfs's arithmetic and numpy, and runs under an emulator: docs/auditor.md has the result of one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping

import numpy as np

from fedfs.aggregation import strategies
from fedfs.aggregation.moving_average import moved
from fedfs.aggregation.weighting import staleness
from fedfs.learner import Array
from fedfs.tensors import encodings
from fedfs.tensors.encodings.base import Delta

N_VALUES, VERSIONS = 100_003, 3
SITES = {"east": 0.31, "milan": 0.07, "north": 0.22, "south": 0.17, "west": 0.23}
OPTIONS = {
    "fedavgm": {"server_momentum": 0.9},
    "krum": {"num_malicious_nodes": 1.0},
    "multikrum": {"num_malicious_nodes": 1.0, "num_nodes_to_select": 3.0},
}


def draw(seed: int) -> Array:
    """Return values between -2 and 2, the same on every host."""
    integers = np.random.default_rng(seed).integers(-(2**24), 2**24, N_VALUES)
    return (integers.astype(np.float64) * 2.0**-23).astype(np.float32)


def digest(*arrays: Array) -> str:
    """Return the beginning of a hash of bytes."""
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16]


def of_a_strategy(name: str, **options: float) -> str:
    """Return the hash of the versions that a strategy makes, and of its memory."""
    strategy = strategies.by_name(name, options)
    base, state = draw(0), {}
    made: list[Array] = []
    for version in range(1, VERSIONS + 1):
        trained = {site: draw(100 * version + i) for i, site in enumerate(sorted(SITES))}
        this_round = strategy.begin(SITES, version=version)
        while this_round.scanning:
            this_round.scan(sorted(SITES), _deltas(trained, base))
            this_round.end_scan()
        done = this_round.combine("w", base, sorted(SITES), _deltas(trained, base), state)
        base, state = done.value, dict(done.state)
        made += [base, *(state[slot] for slot in sorted(state))]
    return digest(*made)


def of_an_encoding(name: str) -> str:
    """Return the hash of a payload, of what it carries, and of what it leaves."""
    encoding, base, trained = encodings.by_name(name), draw(1), draw(2)
    encoded = encoding.encode("w", trained, base)
    payload = encoded.payload
    again = encoding.reconstruct("w", payload, base)
    left = [] if encoded.residual is None else [encoded.residual]
    return digest(*(payload[part] for part in sorted(payload)), again, *left)


def main() -> None:
    """Print the hashes as JSON."""
    found = {
        f"strategy {name}": of_a_strategy(name, **OPTIONS.get(name, {}))
        for name in sorted(strategies.STRATEGIES)
    }
    found["strategy fedavg, clipped"] = of_a_strategy("fedavg", clip_norm=100.0)
    found |= {f"encoding {name}": of_an_encoding(name) for name in sorted(encodings.ENCODINGS)}
    lags = [staleness(lag, exponent) for lag in range(40) for exponent in (0.5, 1.0, 0.3)]
    found["staleness"] = digest(np.array(lags))
    found["exponential average"] = digest(moved(draw(3), draw(4), 0.1))
    found["norms of updates"] = digest(np.array([_norm(draw(seed)) for seed in range(50)]))
    print(f"{platform.machine()}, numpy {np.__version__}", file=sys.stderr)
    print(json.dumps(found, indent=1))


def _deltas(trained: Mapping[str, Array], base: Array) -> Iterable[Delta]:
    return (np.subtract(trained[site], base, dtype=np.float64) for site in sorted(trained))


def _norm(values: Array) -> float:
    wide = values.astype(np.float64)
    return float(wide @ wide)


if __name__ == "__main__":
    main()
