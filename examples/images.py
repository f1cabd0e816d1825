"""Give a hospital of an example its images: an nnU-Net raw dataset, as a real one has it already.

python examples/images.py north FOLDER              # made-up ones, of north's scanner
python examples/images.py north FOLDER --data DIR   # those of site north in DIR/cases.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", choices=sorted(phantoms.SCANNERS))
    parser.add_argument("folder", type=Path, help="e.g. .../nnUNet_raw/Dataset042_Organ")
    parser.add_argument("--data", type=Path, help="raw dataset with cases.csv (case,site)")
    parser.add_argument("--cases", type=int, default=8, help="most images; default 8")
    options = parser.parse_args()
    if options.data is not None:
        cases = read_cases(options.data)[options.site]
        place_dataset(options.data, options.folder, cases[: options.cases])
    elif not (options.folder / "dataset.json").exists():
        seed = sorted(phantoms.SCANNERS).index(options.site)
        phantoms.write_dataset(options.folder, n_cases={options.site: options.cases}, seed=seed)


if __name__ == "__main__":
    main()
