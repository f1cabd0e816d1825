"""How much unlike nnU-Net networks share: the paper's rule against fedfs's defaults.

For sites whose own plans gave nets of 6, 6 and 5 stages (nnU-Net's default 3d features, cubic
kernels), the share of tensors and of parameters that a site has in common with others, by policy.

    python bench/alignment.py            # a table
    python bench/alignment.py --json     # for a machine
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fedfs.aggregation import alignment
from fedfs.tensors.canonical import canonical_names

N_STAGES = {"deep-1": 6, "deep-2": 6, "shallow": 5}
POLICIES = (
    ("name", "intersection"),
    ("name", "per-tensor"),
    ("resolution", "intersection"),
    ("resolution", "per-tensor"),
)


def default_net(n_stages: int, *, residual: bool = False) -> dict[str, tuple[int, ...]]:
    """Canonical tensors and their shapes of a 3d_fullres net as nnU-Net's default planner makes."""
    from dynamic_network_architectures.architectures.unet import (
        PlainConvUNet,
        ResidualEncoderUNet,
    )
    from torch import nn

    common: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": n_stages,
        "features_per_stage": [min(32 * 2**i, 320) for i in range(n_stages)],
        "conv_op": nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * n_stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n_stages - 1),
        "num_classes": 3,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if residual:
        blocks = [1, 3, 4, 6, 6, 6][:n_stages]
        net = ResidualEncoderUNet(
            n_blocks_per_stage=blocks, n_conv_per_stage_decoder=[1] * (n_stages - 1), **common
        )
    else:
        net = PlainConvUNet(
            n_conv_per_stage=[2] * n_stages,
            n_conv_per_stage_decoder=[2] * (n_stages - 1),
            **common,
        )
    state = net.state_dict()
    return {name: tuple(state[name].shape) for name in canonical_names(state)}


def measure(*, residual: bool) -> list[dict[str, Any]]:
    nets = {n: default_net(n, residual=residual) for n in set(N_STAGES.values())}
    rows = []
    for sites in (("deep-1", "shallow"), ("deep-1", "deep-2", "shallow")):
        shapes = {site: nets[N_STAGES[site]] for site in sites}
        for aligned, sharing in POLICIES:
            shared = alignment.share(shapes, alignment=aligned, sharing=sharing)
            covered = alignment.coverage(shapes, shared, alignment=aligned)
            rows.extend(
                {
                    "net": "residual" if residual else "plain",
                    "stages": "+".join(str(N_STAGES[name]) for name in sites),
                    "alignment": aligned,
                    "sharing": sharing,
                    "site": site,
                    "tensors": round(covered[site].tensors, 4),
                    "parameters": round(covered[site].parameters, 4),
                }
                for site in sites
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(residual=False) + measure(residual=True)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{'net':9}{'stages':8}{'alignment':12}{'sharing':14}{'site':9}{'tensors':>8}{'params':>8}"
    )
    for row in rows:
        print(
            f"{row['net']:9}{row['stages']:8}{row['alignment']:12}{row['sharing']:14}"
            f"{row['site']:9}{row['tensors']:8.1%}{row['parameters']:8.1%}"
        )


if __name__ == "__main__":
    sys.exit(main())
