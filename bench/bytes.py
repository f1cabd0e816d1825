"""Bytes per site and round for nnU-Net's default 3d_fullres net, per encoding.

Up is a site's update, down the next global version for a site that has the one before it, which
travels as a delta in the same encoding (``fedfs init --encoding X --model-encoding X``). Both are
exact sizes of files; they follow from the tensors' shapes, which is checked against files written
for a made-up update. ``down full`` is both ways together with global versions in fp32, the default.
``aggregator`` is what the aggregator writes with a version, on average over those from one keyframe
to the next: the version, and a tenth of a keyframe and of what it remembers, as FedAvg does.
Beside them are the 604 MB that the reference implementation of Skorupko et al. (2025) moves for the
same net (measured).

Not in a round: version 0, which every site reads once in full, keyframes, which only late joiners
read, and messages, which are signed JSON of a few kB.

    python bench/bytes.py            # a table
    python bench/bytes.py --json     # for a machine
    python bench/bytes.py --train-only norm,heads    # where only these tensors travel
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from alignment import default_net

from fedfs.aggregation.combine import state_layout
from fedfs.aggregation.strategies.fedavg import FedAvg
from fedfs.aggregation.trained_tensors import is_trained
from fedfs.tensors import encodings
from fedfs.tensors.canonical import write_safetensors
from fedfs.tensors.safetensors_layout import file_bytes

REFERENCE_BYTES = 604_000_000
KEYFRAME_EVERY = 10
_HEADER_BYTES = 1 << 10
N_STAGES = 6
CHOICES: tuple[tuple[str, dict[str, float]], ...] = (
    ("fp32", {}),
    ("fp16", {}),
    ("bf16", {}),
    ("int8", {}),
    ("fixed", {}),
    ("randk", {"fraction": 0.05}),
    ("topk", {"fraction": 0.05}),
    ("topk", {"fraction": 0.05, "bits": 4}),
    ("topk", {"fraction": 0.02, "bits": 4}),
    ("topk", {"fraction": 0.01}),
    ("topk", {"fraction": 0.01, "bits": 4}),
    ("topk", {"fraction": 0.03, "bits": 2, "decay": 0.95}),
    ("topk", {"fraction": 0.01, "bits": 2, "decay": 0.95}),
)


def measure(train_only: str = "*") -> dict[str, Any]:
    patterns = train_only.split(",")
    shapes = {n: s for n, s in default_net(N_STAGES).items() if is_trained(n, patterns)}
    once = file_bytes(encodings.payload_layout(encodings.by_name("fp32"), shapes))
    rows = []
    for name, choice in CHOICES:
        encoding = encodings.by_name(name, choice)
        size = file_bytes(encodings.payload_layout(encoding, shapes))
        rows.append(
            {
                "encoding": name,
                "options": choice,
                "up_bytes": size,
                "down_bytes": size,
                "both_bytes": 2 * size,
                "both_if_down_full_bytes": size + once,
                "aggregator_bytes": size + _now_and_then(encoding, shapes) // KEYFRAME_EVERY,
                "reference_over_both": round(REFERENCE_BYTES / (2 * size), 2),
                **encoded(encoding, shapes),
            }
        )
        # The library that writes sites' files orders tensors by type: offsets of other digits.
        if abs(rows[-1].pop("file_bytes") - size) > _HEADER_BYTES:
            raise SystemExit(f"{name}: the file written has another size than foretold")
    return {
        "n_tensors": len(shapes),
        "n_parameters": sum(math.prod(shape) for shape in shapes.values()),
        "reference_bytes": REFERENCE_BYTES,
        "once_bytes": once,
        "rows": rows,
    }


def _now_and_then(encoding: encodings.Encoding, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the bytes of a keyframe and of the memory beside it, of versions that are deltas."""
    if encoding.lossless:
        return 0
    memory = state_layout(shapes, FedAvg(), encoding)
    return file_bytes(encodings.payload_layout(encodings.by_name("fp32"), shapes)) + file_bytes(
        memory
    )


def encoded(encoding: encodings.Encoding, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Encode a made-up update, write it, decode it."""
    rng = np.random.default_rng(0)
    payload: dict[str, Any] = {}
    encode_s = decode_s = 0.0
    for name, shape in shapes.items():
        base = rng.normal(0, 0.02, shape).astype(np.float32)
        trained = base + rng.laplace(0, 1e-4, shape).astype(np.float32)
        began_s = time.perf_counter()
        part = encoding.encode(name, trained, base).payload
        encoded_s = time.perf_counter()
        encoding.decode(name, part, base)
        decode_s += time.perf_counter() - encoded_s
        encode_s += encoded_s - began_s
        payload |= part
    layout = encodings.payload_layout(encoding, shapes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.safetensors"
        write_safetensors(path, payload, dtypes={n: entry[0] for n, entry in layout.items()})
        size = path.stat().st_size
    return {
        "encode_s": round(encode_s, 2),
        "decode_s": round(decode_s, 2),
        "file_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--train-only", default="*")
    options = parser.parse_args()
    result = measure(options.train_only)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{result['n_tensors']} tensors, {result['n_parameters']:,} parameters; "
        f"reference: {REFERENCE_BYTES / 1e6:.0f} MB per site and round; "
        f"once, at the start: {result['once_bytes'] / 1e6:.1f} MB"
    )
    print(
        f"{'encoding':10}{'options':26}{'up MB':>8}{'down MB':>9}{'both MB':>9}{'times less':>12}"
        f"{'down full MB':>14}{'aggregator MB':>15}"
        f"{'encode s':>10}{'decode s':>10}"
    )
    for row in result["rows"]:
        text = ", ".join(f"{key} {value:g}" for key, value in row["options"].items())
        print(
            f"{row['encoding']:10}{text:26}{row['up_bytes'] / 1e6:>8.2f}"
            f"{row['down_bytes'] / 1e6:>9.2f}{row['both_bytes'] / 1e6:>9.2f}"
            f"{row['reference_over_both']:>12.1f}"
            f"{row['both_if_down_full_bytes'] / 1e6:>14.2f}"
            f"{row['aggregator_bytes'] / 1e6:>15.2f}"
            f"{row['encode_s']:>10.2f}{row['decode_s']:>10.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
