"""The report of a large study: its size, and how long headless Chromium takes to open and draw it.

python bench/report.py --sites 40 --versions 1000
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from fedfs.roles.reader.report.comparison import Comparison, LocalRow, MatrixRow
from fedfs.roles.reader.report.data import Exclusion, Report, SiteRow
from fedfs.roles.reader.report.html import render


def made_up(n_sites: int, n_versions: int) -> Report:
    rng, steps = np.random.default_rng(0), np.arange(n_versions)
    sites = [f"hospital-{i:02d}" for i in range(n_sites)]

    def curve(first: float, last: float, noise: float) -> tuple[float, ...]:
        values = first + (last - first) * (1 - np.exp(-steps / 150))
        return tuple(float(f"{v:.5g}") for v in values + rng.normal(0, noise, n_versions))

    def column(share: float) -> tuple[float | None, ...]:
        gone = rng.random(n_versions) < share
        return tuple(
            None if g else float(f"{w:.5g}")
            for g, w in zip(gone, rng.random(n_versions), strict=True)
        )

    dice = {site: curve(0.1, rng.uniform(0.7, 0.92), 0.01) for site in sites}
    weights = {site: column(0.1) for site in sites}
    rows = tuple(
        SiteRow(
            site=site, state="active", key="ab12 " * 8, n_cases=100, coverage=1.0, n_updates=950,
            n_bytes=9_500_000_000, first_dice=dice[site][0], last_dice=dice[site][-1],
            final_mean=0.85, final={"organ": 0.9, "lesion": 0.8},
            final_hd95_mm={"organ": 2.5, "lesion": 4.0}, n_validation_cases=40, left_out="",
            activity="trains",
        )
        for site in sites
    )  # fmt: skip
    reason = "no update from the version before in time"
    return Report(
        mode="ffe",
        facts={"Study": "large-" + "0" * 32, "Phase": "training"},
        versions=tuple(range(n_versions)),
        published=("2027-01-15T08:00:00Z",) * n_versions,
        sites=rows,
        dice=dice,
        mean_dice=curve(0.1, 0.85, 0.004),
        train_loss={site: curve(-0.1, -0.9, 0.02) for site in sites},
        weights=weights,
        lags={
            s: tuple(None if w is None else int(w < 0.05) for w in c) for s, c in weights.items()
        },
        exclusions=tuple(
            Exclusion(v, site, reason) for v in range(n_versions) for site in sites[: n_sites // 10]
        ),
        n_bytes=tuple(int(n) for n in rng.integers(4e9, 5e9, n_versions)),
        seconds={"averaging": curve(8, 8, 1), "training": curve(3600, 3000, 100)},
        classes=("lesion", "organ"),
        plan={"Patch": "128 x 128 x 128 voxels"},
        disclosures=(),
        readers=(),
        audit={},
        rejected={},
        comparison=Comparison(),
        local=tuple(
            LocalRow(site, 40, 0.84, 0.86, 3.5, 3.1, {"organ": (0.88, 0.9), "lesion": (0.8, 0.82)})
            for site in sites
        ),
        matrix=tuple(
            MatrixRow(
                model,
                {s: float(f"{d:.5g}") for s, d in zip(sites, rng.random(n_sites), strict=True)},
            )
            for model in sites
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=40)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    began_s = time.perf_counter()
    page = render(made_up(options.sites, options.versions), made_at="2027-01-15T08:00:00Z")
    made_s = time.perf_counter() - began_s
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page)
        drawn_ms = []
        for _ in range(3):
            done = subprocess.run(
                [options.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", "--disable-sync", "--window-size=1280,1600",
                 f"--user-data-dir={folder}/profile", "--dump-dom", path.as_uri()],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            drawn_ms.append(int(re.search(r'data-drawn="(\d+)"', done.stdout)[1]))
    print(
        json.dumps(
            {
                "sites": options.sites,
                "versions": options.versions,
                "megabytes": round(len(page.encode()) / 1e6, 2),
                "render_s": round(made_s, 2),
                "opened_and_drawn_ms": drawn_ms,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
