"""The tutorial, followed literally: three terminals, real processes, nothing edited but a study.

It is the package that is followed with: the wheel, where the checkout is not on the path.
"""

from __future__ import annotations

import subprocess

import pytest

from support.code_blocks import ROOT, blocks_of, simple_commands, steps_of
from support.installed import InstalledPackage
from support.slow import slow
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


@slow
@pytest.mark.nnunet
@pytest.mark.xdist_group("documents")
def test_the_tutorial_ends_with_a_model_at_both_hospitals(tmp_path):
    ours = ("nnUNet_", "FEDFS_", "OMP_")
    package = InstalledPackage(tmp_path / "package")
    environment = {k: v for k, v in package.environment().items() if not k.startswith(ours)}
    study = tmp_path / "fedfs" / "first-study"
    study.parent.mkdir()
    subprocess.run(["bash", PREPARE, study], env=environment, check=True)
    assert str(package.programs) in (study / "on").read_text()
    with Terminals(tmp_path, tmp_path, lambda _: environment) as terminals:
        for wrong in follow(TUTORIAL, terminals):
            pytest.fail(wrong)
    for site in ("north", "south"):
        assert list((study / site / "nnUNet_results").rglob("checkpoint_final.pth"))
    report = (study / "coordinator" / "report.html").read_text()
    assert "north" in report
    assert "south" in report
