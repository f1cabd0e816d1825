"""``fedfs demo``: what it tells while it runs, and what it refuses; it runs in ``tests/e2e``."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.demo import _Display
from fedfs.roles.reader.status import summarize
from support.federation import Federation


def test_each_round_is_a_line_with_a_number_for_each_hospital(tmp_path, capsys):
    federation = Federation(tmp_path).start()
    display = _Display(to_stderr=False)
    display.watch(summarize(federation.observe().state))
    federation.run()
    for _ in range(2):  # the same news again is none
        display.watch(summarize(federation.observe().state))
    first, last = capsys.readouterr().out.splitlines()
    assert "one plan for all" in first
    assert last.startswith("  round 3 of 3: the shared model covers 0.")
    assert all(f"of {site}'s" in last for site in federation.targets)


@pytest.mark.parametrize(
    ("more", "reason"), [(["--full", "--data", "."], "--full is for"), ([], "is not empty")]
)
def test_what_it_cannot_do_is_refused_before_anything_is_written(tmp_path, more, reason):
    (tmp_path / "mine").write_text("")
    folder = tmp_path / "new" if more else tmp_path
    done = CliRunner().invoke(cli, ["demo", "--folder", str(folder), *more])
    assert done.exit_code == 2
    assert reason in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
