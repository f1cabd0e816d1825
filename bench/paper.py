"""Local, federated and central training on real images, and what the paper's claim needs.

    python bench/paper.py --data DIR --folder OUT --seeds 1,2,3,4,5

A quarter of each site's cases is kept away from all arms (:mod:`fedfs.simulation.arms`) and
predicted by each; every arm has nnU-Net's schedule over all of its iterations. The net is a small
2d one by default; ``-c 3d_fullres --net full`` is nnU-Net's own plan, for a GPU. Prints the tables,
then each criterion with what the numbers say: ``pass`` or ``fail`` where two 95 % intervals agree,
that over cases (of the means over seeds) and that over seeds (Student's t), else ``not shown``.
May be stopped and given again.

Choosing among the federated models (``best``) is cross-fitted: of each half of a site's cases
counts the model that is best on the other half.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def cross_fitted(by_arm: Mapping[str, BySeed]) -> tuple[BySeed, dict[str, int]]:
    """Return the Dice of the arm that is best on the other half, and how many cases it has."""
    means = {arm: mean_of_seeds(by_seed) for arm, by_seed in by_arm.items()}
    cases = sorted(next(iter(means.values())))
    drawn = [cases[i] for i in np.random.default_rng(SEED).permutation(len(cases))]
    halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    arm_of, counts = {}, dict.fromkeys(means, 0)
    for half, other in (halves, halves[::-1]):
        best = max(means, key=lambda arm: fmean([means[arm][case] for case in other]))
        arm_of |= dict.fromkeys(half, best)
        counts[best] += len(half)
    n_seeds = len(next(iter(by_arm.values())))
    kept = [{case: by_arm[arm][i][case] for case, arm in arm_of.items()} for i in range(n_seeds)]
    return kept, counts


@dataclass(frozen=True)
class Gain:
    """Difference of two arms: interval over cases of the means over seeds, and over seeds."""

    paired: PairedDifference
    over_seeds: tuple[float, float] | None

    def verdict(self, above: float) -> str:
        """Return what both intervals say about a bound."""
        if self.paired.low is None or self.paired.high is None or self.over_seeds is None:
            return "not shown"
        if min(self.paired.low, self.over_seeds[0]) > above:
            return "pass"
        return "fail" if max(self.paired.high, self.over_seeds[1]) < above else "not shown"

    def text(self, above: float) -> str:
        """Return the numbers, and how many cases would do where these do not."""
        found, text = self.paired, f"{self.paired.mean:+.4f}, n={self.paired.n}"
        if found.low is not None and found.high is not None:
            text += f", over cases {found.low:+.4f} to {found.high:+.4f}"
        if self.over_seeds is not None:
            text += ", over seeds {:+.4f} to {:+.4f}".format(*self.over_seeds)
        if found.low is not None and found.low <= above < found.mean:
            n = math.ceil(found.n * ((found.mean - found.low) / (found.mean - above)) ** 2)
            text += f"; some {n} cases would show it"
        return text


def gain(one: BySeed, other: BySeed) -> Gain | None:
    found = intervals.paired_difference(mean_of_seeds(one), mean_of_seeds(other), {}, SEED)
    means = [fmean([a[c] - b[c] for c in a if c in b]) for a, b in zip(one, other, strict=True)]
    half = math.nan
    if len(means) > 1:
        half = float(stats.t.ppf(0.975, len(means) - 1)) * stdev(means) / len(means) ** 0.5
    by_seed = (fmean(means) - half, fmean(means) + half) if len(means) > 1 else None
    return None if found is None else Gain(found, by_seed)


def criteria(by_arm: Mapping[str, Mapping[str, BySeed]]) -> list[str]:
    """Return a line for each criterion that the arms allow to judge."""
    lines = []
    sites = [site for site in next(iter(by_arm.values())) if site != "all"]
    federated = [arm for arm in FEDERATED if arm in by_arm]

    def line(criterion: str, found: Gain | None, above: float) -> None:
        if found is not None:
            lines.append(f"{found.verdict(above):<9} {criterion}: {found.text(above)}")

    if EQUAL_LOCAL in by_arm:
        for site in sites:
            kept, counts = cross_fitted({arm: by_arm[arm][site] for arm in federated})
            local = by_arm[EQUAL_LOCAL][site]
            chosen = ", ".join(f"{arm} for {n}" for arm, n in counts.items() if n)
            name = f"{site}: best ({chosen}) - {EQUAL_LOCAL} > -{MARGIN}"
            line(name, gain(kept, local), -MARGIN)
            for arm in federated:
                line(f"  {arm} - {EQUAL_LOCAL}", gain(by_arm[arm][site], local), -MARGIN)
    if EQUAL_CENTRAL in by_arm:
        found = gain(by_arm["ffe"]["all"], by_arm[EQUAL_CENTRAL]["all"])
        line(f"all: ffe - {EQUAL_CENTRAL} > -{MARGIN}", found, -MARGIN)
    if "local" in by_arm:
        for site in sites:
            line(f"{site}: ffe - local > 0", gain(by_arm["ffe"][site], by_arm["local"][site]), 0.0)
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
    parser.add_argument("--learning-rate", type=float, help="default: the trainer's")
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
        learning_rate=given.learning_rate,
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
