"""``fedfs demo``: what it tells while it runs, and what it refuses; it runs in ``tests/e2e``."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.demo import _Display
from fedfs.errors import UserError
from fedfs.roles.reader.status import summarize
from fedfs.simulation.demo import Demo
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
    ("more", "reason"), [(["--full", "--data", "."], "--full is for"), ([], "holds no demo")]
)
def test_what_it_cannot_do_is_refused_before_anything_is_written(tmp_path, more, reason):
    (tmp_path / "mine").write_text("")
    folder = tmp_path / "new" if more else tmp_path
    done = CliRunner().invoke(cli, ["demo", "--folder", str(folder), *more])
    assert done.exit_code == 2
    assert reason in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_demo_that_goes_on_has_the_options_that_it_was_begun_with(tmp_path):
    def run(seed):
        return Demo(tmp_path, log=lambda _: None, watch=lambda _: None, seed=seed, data=tmp_path)

    for _ in range(2):
        with pytest.raises(UserError, match="cases.csv"):
            run(1).run()
    with pytest.raises(UserError, match="has seed 1, not 2"):
        run(2).run()
