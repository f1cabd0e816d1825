"""Facts about the plan for a report: patch, batch, network.

A plan is a file of nnU-Net inside a signed message: who reads it for a page takes nothing for
granted, and leaves out what is not as nnU-Net writes it.
"""

from collections.abc import Mapping
from typing import Any

from fedfs.protocol.messages import ASYM, PlanMessage, TrackCharter


def plan_facts(plan: PlanMessage | None, charter: TrackCharter) -> dict[str, str]:
    """Return name -> text on the plan of a track; empty before there is one.

    Args:
        plan: the accepted plan.
        charter: the study, as it reads for the track.
    """
    if plan is None:
        return {}
    if charter.mode == ASYM:
        shares = ", ".join(f"{s} {share:.0%}" for s, share in sorted(plan.coverage.items()))
        return {
            "Plan": "each site has its own",
            "Shared": f"{sum(len(p.tensors) for p in plan.shared)} tensors",
            "Each shares of its parameters": shares,
        }
    found = _map(_map(plan.plans.get("configurations")).get(charter.configuration))
    if not found:
        return {
            "Plan": "encrypted: this host cannot read it" if charter.encryption else "not known"
        }
    architecture = _map(found.get("architecture"))
    network = str(architecture.get("network_class_name", "?")).rpartition(".")[2]
    stages = _map(architecture.get("arch_kwargs")).get("n_stages")
    return {
        "Planned from": f"{plan.n_cases} cases of {', '.join(sorted(plan.sites))}",
        "Patch": " x ".join(map(str, _list(found.get("patch_size")))) + " voxels",
        "Batch": str(found.get("batch_size")),
        "Spacing": " x ".join(map(_in_mm, _list(found.get("spacing")))) + " mm",
        "Network": f"{network}, {stages} stages",
        "Normalization": ", ".join(map(str, _list(found.get("normalization_schemes")))),
    }


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _in_mm(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "?"
