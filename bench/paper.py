"""Local, federated and central training on real images, and what the paper's claim needs.

    python bench/paper.py --data DIR --folder OUT --seeds 1,2,3,4,5

A quarter of each site's cases is kept away from all arms (:mod:`fedfs.simulation.arms`) and
predicted by each; every arm has nnU-Net's schedule over all of its iterations. The net is a small
2d one by default; ``-c 3d_fullres --net full`` is nnU-Net's own plan, for a GPU. Prints the tables,
then each criterion with what the numbers say: ``pass``, ``fail``, or ``not shown`` where the 95 %
interval (over cases, of the means over seeds) has both in it. May be stopped and given again.

Choosing among the federated models (``best``) is cross-fitted: of each half of a site's cases
counts the model that is best on the other half.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from fedfs.aggregation import intervals
from fedfs.protocol.messages.scores import PairedDifference
from fedfs.simulation.arms import ARMS, Run
from fedfs.simulation.demo_effort import PLANNER_OPTIONS, QUICK
from fedfs.simulation.experiment import Experiment, ExperimentOptions
from fedfs.simulation.table_text import markdown

MARGIN = 0.005
FEDERATED = ("ffe", "personal", "keep-local", "average")
EQUAL_LOCAL, EQUAL_CENTRAL = "local-equal", "central-equal"
SEED = 1
NETS = {
    "full": (),
    "small": ("--gpu-memory-target=0.02", *(f"--planner-option={o}" for o in PLANNER_OPTIONS)),
    "tiny": (
        f"--gpu-memory-target={QUICK.gpu_memory_gb}",
        *(f"--planner-option={o}" for o in QUICK.planner_options),
    ),
}

BySeed = Sequence[Mapping[str, float]]
"""For each seed, case -> Dice."""


def scores(options: ExperimentOptions) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return arm -> site, and ``all`` -> for each fold and seed, case -> Dice."""
    out: dict[str, dict[str, list[dict[str, float]]]] = {}
    for arm in options.arms:
        for fold in options.folds:
            for seed in options.seeds:
                run = Run(arm, options.configurations[0], fold, seed, options.folder)
                found = json.loads(run.scores.read_text())
                together: dict[str, float] = {}
                for site, cases in found.items():
                    dice = {c: v["dice"] for c, v in cases.items() if v["dice"] is not None}
                    out.setdefault(arm, {}).setdefault(site, []).append(dice)
                    together |= dice
                out[arm].setdefault("all", []).append(together)
    return out


def mean_of_seeds(by_seed: BySeed) -> dict[str, float]:
    return {case: fmean([one[case] for one in by_seed]) for case in by_seed[0]}


def cross_fitted(by_arm: Mapping[str, BySeed]) -> tuple[dict[str, float], dict[str, int]]:
    """Return case -> Dice of the arm that is best on the other half, and how often each counts."""
    means = {arm: mean_of_seeds(by_seed) for arm, by_seed in by_arm.items()}
    cases = sorted(next(iter(means.values())))
    drawn = [cases[i] for i in np.random.default_rng(SEED).permutation(len(cases))]
    halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    kept, counts = {}, dict.fromkeys(means, 0)
    for half, other in (halves, halves[::-1]):
        best = max(means, key=lambda arm: fmean([means[arm][case] for case in other]))
        kept |= {case: means[best][case] for case in half}
        counts[best] += len(half)
    return kept, counts


def verdict(found: PairedDifference, above: float) -> str:
    if found.low is None or found.high is None:
        return "not shown"
    return "pass" if found.low > above else "fail" if found.high < above else "not shown"


def text(found: PairedDifference) -> str:
    interval = f"({found.low:+.4f} to {found.high:+.4f})" if found.low is not None else ""
    return f"{found.mean:+.4f} {interval}, n={found.n}"


def needed(found: PairedDifference, above: float) -> str:
    """Return how many cases it takes until the interval ends at a bound, if the mean stays."""
    if found.low is None or found.mean <= above:
        return ""
    n = math.ceil(found.n * ((found.mean - found.low) / (found.mean - above)) ** 2)
    return f"; some {n} cases would show it" if n > found.n else ""


def over_seeds(one: BySeed, other: BySeed) -> str:
    """Return the mean difference of each seed as an interval of Student's t over seeds."""
    by_seed = [fmean([a[c] - b[c] for c in a if c in b]) for a, b in zip(one, other, strict=True)]
    if len(by_seed) < 2:
        return "one seed"
    half = float(stats.t.ppf(0.975, len(by_seed) - 1)) * stdev(by_seed) / len(by_seed) ** 0.5
    mean = fmean(by_seed)
    return f"over {len(by_seed)} seeds {mean - half:+.4f} to {mean + half:+.4f}"


def criteria(by_arm: Mapping[str, Mapping[str, BySeed]]) -> list[str]:
    """Return a line for each criterion that the arms allow to judge."""
    lines = []
    sites = [site for site in next(iter(by_arm.values())) if site != "all"]
    federated = [arm for arm in FEDERATED if arm in by_arm]

    def line(criterion: str, found: PairedDifference | None, above: float, more: str = "") -> None:
        if found is not None:
            lines.append(
                f"{verdict(found, above):<9} {criterion}: {text(found)}{more}"
                + (needed(found, above) if verdict(found, above) == "not shown" else "")
            )

    def difference(one: BySeed, other: BySeed) -> PairedDifference | None:
        return intervals.paired_difference(mean_of_seeds(one), mean_of_seeds(other), {}, SEED)

    if EQUAL_LOCAL in by_arm:
        for site in sites:
            kept, counts = cross_fitted({arm: by_arm[arm][site] for arm in federated})
            local = by_arm[EQUAL_LOCAL][site]
            found = intervals.paired_difference(kept, mean_of_seeds(local), {}, SEED)
            chosen = ", ".join(f"{arm} for {n}" for arm, n in counts.items() if n)
            line(f"{site}: best ({chosen}) - {EQUAL_LOCAL} > -{MARGIN}", found, -MARGIN)
            for arm in federated:
                one = by_arm[arm][site]
                more = f"; {over_seeds(one, local)}"
                line(f"  {site}: {arm} - {EQUAL_LOCAL}", difference(one, local), -MARGIN, more)
    if EQUAL_CENTRAL in by_arm:
        one, other = by_arm["ffe"]["all"], by_arm[EQUAL_CENTRAL]["all"]
        more = f"; {over_seeds(one, other)}"
        line(f"all: ffe - {EQUAL_CENTRAL} > -{MARGIN}", difference(one, other), -MARGIN, more)
    if "local" in by_arm:
        for site in sites:
            one, other = by_arm["ffe"][site], by_arm["local"][site]
            more = f"; {over_seeds(one, other)}"
            line(f"{site}: ffe - local > 0", difference(one, other), 0.0, more)
        lines += [spread(by_arm, site) for site in (*sites, "all")]
    return lines


def spread(by_arm: Mapping[str, Mapping[str, BySeed]], site: str) -> str:
    """Return how the SD over seeds of FFE compares with that of local training."""
    sd = {
        arm: stdev([fmean(one.values()) for one in by_arm[arm][site]])
        if len(by_arm[arm][site]) > 1
        else math.nan
        for arm in ("ffe", "local")
    }
    n = len(by_arm["ffe"][site])
    if n < 2:
        return f"not shown {site}: SD over seeds of one seed"
    ratio = sd["ffe"] / sd["local"]
    f = float(stats.f.ppf(0.975, n - 1, n - 1)) ** 0.5
    return (
        f"{'pass' if ratio <= 1 else 'fail':<9} {site}: SD over {n} seeds of ffe {sd['ffe']:.4f}, "
        f"of local {sd['local']:.4f}: ratio {ratio:.2f} ({ratio / f:.2f} to {ratio * f:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="raw dataset with cases.csv")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-iterations", type=int, default=50)
    parser.add_argument(
        "--arms",
        default="local,local-equal,ffe,personal,central-equal",
        help=f"some of {','.join(ARMS)}",
    )
    parser.add_argument("-c", "--configuration", default="2d")
    parser.add_argument("--net", choices=NETS, default="small", help="full: nnU-Net's own plan")
    parser.add_argument("--init", action="append", default=[], help="OPTION=VALUE of fedfs init")
    parser.add_argument("--run", action="append", default=[], help="OPTION=VALUE of site run")
    parser.add_argument("--final-validation", action="store_true", help="at each site, too")
    parser.add_argument("--at-once", type=int, default=0)
    parser.add_argument("--device")
    given = parser.parse_args()
    init = [word for option in (*NETS[given.net], *given.init) for word in option.split("=", 1)]
    given.folder.mkdir(parents=True, exist_ok=True)
    options = ExperimentOptions(
        folder=given.folder.resolve(),
        data=given.data.resolve(),
        arms=given.arms.split(","),
        seeds=[int(seed) for seed in given.seeds.split(",")],
        rounds=given.rounds,
        local_iterations=given.local_iterations,
        val_iterations=2,
        configurations=[given.configuration],
        init=init,
        site_run=[word for option in given.run for word in option.split("=", 1)],
        final_validation=given.final_validation,
        at_once=given.at_once,
        device=given.device,
    )
    result = Experiment(
        options, log=lambda text: print(f"- {text}", file=sys.stderr, flush=True)
    ).run()
    print(markdown(result))
    for line in criteria(scores(options)):
        print(line)


if __name__ == "__main__":
    main()
