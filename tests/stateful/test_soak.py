"""Random studies to their end, beside faults and without: none hangs, and the audit is content."""

from __future__ import annotations

import numpy as np
import pytest

from support.slow import SLOW
from support.soak import draw, live

N_STUDIES = 200 if SLOW else 16


@pytest.mark.parametrize("seed", range(N_STUDIES))
def test_a_study_comes_to_its_end_as_its_twin_without_faults(tmp_path, seed):
    study = draw(seed)
    twin = live(study, tmp_path / "twin", faults=False)
    faulty = live(study, tmp_path / "faulty", faults=True)
    for track in twin.tracks:
        states = [one.observe(track=track).state for one in (twin, faulty)]
        assert states[0].newest == states[1].newest
        assert set(states[0].plan.sites) == set(states[1].plan.sites)
        if study.is_determined:
            for version in states[0].models:
                before, after = (one.weights(version, track) for one in (twin, faulty))
                assert all(np.array_equal(before[name], after[name]) for name in before), study
