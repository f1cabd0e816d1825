"""The tutorial, followed literally: three terminals, real processes, nothing edited but a study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.code_blocks import ROOT, blocks_of, simple_commands, steps_of
from support.terminals import Terminals, follow

TUTORIAL = ROOT / "docs" / "tutorial.md"
PREPARE = ROOT / "examples" / "first-study" / "prepare.sh"


def test_the_tutorial_has_at_most_eight_commands():
    number = 0
    for block in blocks_of(TUTORIAL):
        if block.language == "console":
            steps = [step.command for step in steps_of(block)]
        else:
            steps = [block.text] if block.language == "sh" else []
        number += sum(len(list(simple_commands(step))) for step in steps)
    assert 0 < number <= 8


@pytest.mark.nnunet
@pytest.mark.xdist_group("documents")
def test_the_tutorial_ends_with_a_model_at_both_hospitals(tmp_path):
    ours = ("nnUNet_", "FEDFS_", "OMP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    study = tmp_path / "fedfs" / "first-study"
    study.parent.mkdir()
    subprocess.run(["bash", PREPARE, study], env=environment, check=True)
    with Terminals(tmp_path, tmp_path, lambda _: environment) as terminals:
        for wrong in follow(TUTORIAL, terminals):
            pytest.fail(wrong)
    for site in ("north", "south"):
        assert list((study / site / "nnUNet_results").rglob("checkpoint_final.pth"))
    report = (study / "coordinator" / "report.html").read_text()
    assert "north" in report
    assert "south" in report
