"""Settings of a site, and studies that they do not fit."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.site.config import SiteConfig
from support.federation import Federation
from support.four_tracks import OPTIONS


@pytest.mark.parametrize(
    "options",
    [OPTIONS, {"mode": "asym", "cross_evaluation": True}, {"ensemble": True, "rounds": 1}],
)
def test_a_study_that_needs_the_final_validation_gets_it(tmp_path, options):
    charter = Federation(tmp_path / "a", **options).observe().state.charter
    SiteConfig("store", "north", tmp_path).check_against(charter)
    without = SiteConfig("store", "north", tmp_path, final_validation=False)
    with pytest.raises(UserError, match="needs the final validation") as caught:
        without.check_against(charter)
    assert "--no-final-validation" in caught.value.hint
    without.check_against(Federation(tmp_path / "b").observe().state.charter)
