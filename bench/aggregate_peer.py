"""The mean of updates by Flower or NVFlare, run by ``bench/aggregate_peers.py``.

The frameworks' own functions, unchanged, on arrays that are in memory, as after a round. It needs
an environment that has the framework, and nothing of fedfs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]
Weighted = list[tuple[Arrays, float]]


def read(path: Path) -> Arrays:
    """Read the float32 tensors of a safetensors file."""
    raw = np.fromfile(path, np.uint8)
    start = 8 + int(raw[:8].view("<u8")[0])
    header = json.loads(raw[8:start].tobytes())
    return {
        name: raw[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view("<f4")
        .reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def write(path: Path, arrays: Iterable[np.ndarray[Any, Any]]) -> None:
    with path.open("wb") as file:
        for array in arrays:
            np.asarray(array, "<f4").tofile(file)
        file.flush()
        os.fsync(file.fileno())


def by_flower(updates: Weighted) -> Callable[[], Iterable[np.ndarray[Any, Any]]]:
    """Return the mean as ``flwr.serverapp.strategy.FedAvg`` makes it."""
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({n: Array(values) for n, values in arrays.items()}),
                "metrics": MetricRecord({"num-examples": weight}),
            }
        )
        for arrays, weight in updates
    ]
    return lambda: [
        value.numpy() for value in aggregate_arrayrecords(records, "num-examples").values()
    ]


def by_nvflare(updates: Weighted) -> Callable[[], Iterable[np.ndarray[Any, Any]]]:
    """Return the mean as NVFlare's in-time aggregators make it."""
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (
        WeightedAggregationHelper,
    )

    def mean() -> Iterable[np.ndarray[Any, Any]]:
        helper = WeightedAggregationHelper()
        for i, (arrays, weight) in enumerate(updates):
            helper.add(arrays, weight, f"site-{i}", 0)
        return list(helper.get_result().values())

    return mean


FRAMEWORKS = {"flwr": by_flower, "nvflare": by_nvflare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("output", type=Path)
    parser.add_argument("updates", type=Path, nargs="+")
    given = parser.parse_args()
    began = time.perf_counter()
    updates = [(read(path), 1.0 / len(given.updates)) for path in given.updates]
    read_s = time.perf_counter() - began
    mean = FRAMEWORKS[given.framework](updates)
    mean()  # what happens the first time only is left out
    began, cpu_began = time.perf_counter(), time.process_time()
    made = mean()
    mean_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    began = time.perf_counter()
    write(given.output, made)
    print(
        json.dumps(
            {
                "read_s": read_s,
                "mean_s": mean_s,
                "mean_cpu_s": cpu_s,
                "write_s": time.perf_counter() - began,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
