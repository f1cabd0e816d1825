"""Read what `fedfs simulate --json` printed: Dice by site and arm, and what federation gains.

python gains.py result.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    result = json.loads(Path(sys.argv[1]).read_text())
    arms = result["cells"]
    sites = [*result["n_training_cases"], "mean", *filter(None, [result["external"]])]
    has_gain = {"local", "ffe"} <= set(arms)
    print("Dice of cases that no arm trained on")
    print(f"{'site':<12}", *(f"{arm:>9}" for arm in arms), "  ffe-local" if has_gain else "")
    for site in sites:
        dice = {arm: cells[site]["dice"] for arm, cells in arms.items()}
        gain = f"{dice['ffe'] - dice['local']:>+11.3f}" if has_gain else ""
        print(f"{site:<12}", *(f"{value:>9.3f}" for value in dice.values()), gain)


if __name__ == "__main__":
    main()
