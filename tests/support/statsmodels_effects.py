"""Sets of estimates, and what statsmodels makes of them.

Run as a script where statsmodels is installed, which needs nothing of fedfs, it writes
``tests/golden/random_effects.json``::

    python -m venv statsmodels
    statsmodels/bin/pip install statsmodels
    statsmodels/bin/python tests/support/statsmodels_effects.py

``tests/unit/aggregation/test_random_effects.py`` compares :func:`fedfs.aggregation.random_effects`
with that file. BCG are the thirteen trials of a vaccine against tuberculosis (Colditz et al., JAMA
271:698-702, 1994), which metafor and most textbooks use: log of the relative risk.
"""

import json
import math
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden" / "random_effects.json"

_BCG = [
    (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
    (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892),
    (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338),
    (27, 16886, 29, 17825),
]  # fmt: skip
"""Ill and well with the vaccine, ill and well without."""


def log_relative_risk(trial: tuple[int, int, int, int]) -> tuple[float, float]:
    """Return the estimate of a trial and its standard error."""
    ill, well, ill_without, well_without = trial
    n, n_without = ill + well, ill_without + well_without
    value = math.log((ill / n) / (ill_without / n_without))
    return value, math.sqrt(1 / ill - 1 / n + 1 / ill_without - 1 / n_without)


ESTIMATES = {
    "BCG": [log_relative_risk(trial) for trial in _BCG],
    "two sites": [(0.81, 0.02), (0.86, 0.03)],
    "two sites that agree": [(0.02, 0.010), (0.0201, 0.012)],
    "sites that agree": [(0.80, 0.03), (0.81, 0.02), (0.79, 0.04), (0.80, 0.02)],
    "one large site": [(0.90, 0.001), (0.70, 0.05), (0.75, 0.04), (0.72, 0.05), (0.71, 0.03)],
    "differences": [(0.04, 0.006), (0.061, 0.008), (-0.025, 0.002), (0.003, 0.009)],
}
"""Name -> value and standard error of each site."""

DIFFERENCES = [(0.01, 0.05), (0.01, 0.02), (0.004, 0.06), (-0.02, 0.03), (0.05, 0.04)]
"""Difference and standard deviation of pairs, for which cases are planned."""


def by_statsmodels() -> dict[str, Any]:
    """Return tau squared, mean, heterogeneity and standard errors of each set, and cases needed."""
    meta, power = (
        import_module("statsmodels.stats.meta_analysis"),
        import_module("statsmodels.stats.power"),
    )
    numpy, pooled = import_module("numpy"), {}
    for name, estimates in ESTIMATES.items():
        values, errors = numpy.array(estimates).T
        found = meta.combine_effects(
            values, errors**2, method_re="iterated", atol=1e-9, maxiter=500
        )
        pooled[name] = {
            "tau2": float(found.tau2), "mean": float(found.mean_effect_re), "q": float(found.q),
            "q_p": float(found.test_homogeneity().pvalue), "i2": float(found.i2),
            "error": float(found.sd_eff_w_re), "error_hksj": float(found.sd_eff_w_re_hksj),
        }  # fmt: skip
    solve = power.TTestPower().solve_power
    needed = [
        solve(effect_size=abs(difference) / sd, alpha=0.05, power=0.8)
        for difference, sd in DIFFERENCES
    ]
    return {"pooled": pooled, "needed": [float(n) for n in needed]}


if __name__ == "__main__":
    made = {"statsmodels": metadata.version("statsmodels"), **by_statsmodels()}
    GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
