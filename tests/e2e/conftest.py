from __future__ import annotations

from pathlib import Path

import pytest

from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.hosts import Host
from support.phantom_hosts import DATASET, N_CASES


@pytest.fixture(scope="session")
def phantom_images(tmp_path_factory) -> Path:
    """A raw dataset of made-up images of two sites, with ``cases.csv``."""
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write_dataset(folder, n_cases=N_CASES, seed=1)
    return folder


@pytest.fixture
def hosts(tmp_path: Path, phantom_images: Path) -> dict[str, Host]:
    """The coordinator's host and one per site, with nothing in common."""
    made = {"coordinator": Host("coordinator", tmp_path / "coordinator").make()}
    for site, cases in read_cases(phantom_images).items():
        made[site] = Host(site, tmp_path / site).make()
        place_dataset(phantom_images, made[site].raw / DATASET, cases[1:])
    return made
