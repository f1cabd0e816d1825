"""Parameters of SLURM's jobs."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.simulation.slurm_parameters import parse_parameters


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("partitoin=gpu", "there is no parameter 'partitoin'"),
        ("nodes=2", "there is no parameter 'nodes'"),  # a turn is one process
        ("mem_gb=lots", "'lots' is not a number"),
        ("timeout_min=1.5", "'1.5' is not a number"),
        ("partition", "is not NAME=VALUE"),
    ],
)
def test_parameters_that_cannot_be_are_refused(pair, says):
    with pytest.raises(UserError, match=says):
        parse_parameters([pair])
