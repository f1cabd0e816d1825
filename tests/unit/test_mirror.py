"""The unit tests of a module are found from its name: their folders are those of ``fedfs/``."""

from __future__ import annotations

from pathlib import Path

import pytest

UNIT = Path(__file__).parent
FEDFS = Path(__file__).parents[2] / "fedfs"
FILES = [path for path in sorted(UNIT.rglob("test_*.py")) if path.parent != UNIT]


def test_unit_tests_lie_in_the_folders_of_fedfs():
    folders = {path.parent.relative_to(UNIT) for path in FILES}
    assert not [str(folder) for folder in folders if not (FEDFS / folder).is_dir()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(UNIT)))
def test_a_file_of_unit_tests_is_named_after_a_module(path):
    """``test_step_attendance.py`` tests ``step.py``: what follows the module's name is free."""
    room = FEDFS / path.parent.relative_to(UNIT)
    words = path.stem.removeprefix("test_").split("_")
    names = {"_".join(words[: i + 1]) for i in range(len(words))}
    assert names & {other.stem for other in room.iterdir()}, f"no such module in {room}"
