"""``fedfs simulate``: a real study, stopped in the middle, ended by jobs, and numbers.

It is begun, and given again in the end, by the example with the paper's comparison.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedfs.exchange.read import open_study
from fedfs.simulation import phantoms
from fedfs.store import open_store

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("simulate")]

EXAMPLE = Path(__file__).parents[2] / "examples" / "paper-comparison" / "run.sh"
OPTIONS = (
    "--external", "south", "--arms", "ffe,personal", "--rounds", "1", "--local-iterations", "3",
    "--val-iterations", "2", "--no-final-validation", "--at-once", "1", "--device", "cpu", "--json",
    "--init", "--gpu-memory-target=0.02", "--init", "--planner-option=UNet_base_num_features=8",
    "--init", "--planner-option=UNet_max_features_2d=16",
)  # fmt: skip


SETTINGS = {
    "EXTERNAL": "south",
    "ARMS": "ffe,personal",
    "ROUNDS": "1",
    "ITERATIONS": "3",
    "AT_ONCE": "1",
    "DEVICE": "cpu",
    "NET": " ".join(word for word in OPTIONS if "=" in word),
}


def example(tmp_path: Path) -> subprocess.Popen[str]:
    """Run the example with what ``start`` gives to fedfs itself."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(EXAMPLE), str(tmp_path / "images"), str(tmp_path / "out")],
        env={**os.environ, "PATH": path, **SETTINGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedfs", "simulate", str(tmp_path / "out"),
         "--data", str(tmp_path / "images"), *OPTIONS, *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_it_goes_on_where_it_was_stopped(tmp_path):
    phantoms.write_dataset(tmp_path / "images", n_cases={"east": 7, "north": 7, "south": 2}, seed=4)
    process = example(tmp_path)
    study = tmp_path / "out" / "ffe-2d-fold0-seed1" / "study"
    record = study / "store" / "tracks" / "2d-0" / "aggregator" / "rounds"
    deadline_s = time.monotonic() + 400
    while not record.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    versions = sorted(path.name for path in record.iterdir())
    out, err = start(tmp_path, "--cluster", "local").communicate(timeout=400)
    assert out, err
    for site in ("east", "north"):  # what was left of version 0 or 1, and the final validation
        jobs = study / "hosts" / site / "jobs"
        assert 1 <= len(list(jobs.glob("*_log.out"))) <= 3
        assert not list(jobs.glob("*.pkl"))
    predicted = tmp_path / "out" / "ffe-2d-fold0-seed1" / "scores"
    assert len(list(predicted.glob("*/jobs/*_log.out"))) == 1  # three models, one process
    assert sorted(path.name for path in record.iterdir())[: len(versions)] == versions
    result = json.loads(out)
    assert set(result["cells"]) == {"ffe", "personal"}
    assert not (tmp_path / "out" / "personal-2d-fold0-seed1" / "study").exists()
    evaluations = open_study(open_store(str(study / "store"))).state.evaluations
    final = [one for (_, _, variant), one in evaluations.items() if variant == "full"]
    assert [(one.n_cases, one.mean_dice, one.classes) for one in final] == [(0, None, {})] * 2
    personal = result["differences"]["personal"]
    assert personal["south"]["dice"]["n_cases"] == 2
    assert (tmp_path / "out" / "table.tex").exists()
    assert result["n_training_cases"] == {"east": 6, "north": 6}
    for row in result["cells"].values():
        assert set(row) == {"east", "north", "south", "mean"}
        assert row["mean"]["n_cases"] == row["east"]["n_cases"] + row["north"]["n_cases"]
        assert row["south"]["n_cases"] == 2
        assert all(0 <= cell["dice"] <= 1 and cell["dice_sd"] is None for cell in row.values())
        assert row["mean"]["hd95_mm"] > 0
    began_s = time.monotonic()
    again, err = example(tmp_path).communicate(timeout=120)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result, err
    assert [line.split()[0] for line in again.splitlines()[1:]] == [
        "site",
        "east",
        "north",
        "mean",
        "south",
    ]
    assert "training" not in err
    assert time.monotonic() - began_s < 60
