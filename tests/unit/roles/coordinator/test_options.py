"""Options of a study are checked before it begins."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.coordinator.options import StudyOptions
from support.federation import DATASET_JSON


def test_a_planner_option_that_nnunet_does_not_have_is_refused_at_once():
    with pytest.raises(UserError, match="'UNet_base_num_featurs' is not allowed") as caught:
        StudyOptions("x", DATASET_JSON, planner_options={"UNet_base_num_featurs": 8})
    assert "UNet_base_num_features" in caught.value.hint


@pytest.mark.parametrize(
    "numbers", [{"gpu_memory_target_gb": -8.0}, {"target_spacing": (0.0, 0.0, 0.0)}]
)
def test_numbers_with_which_the_planner_never_ends_are_refused_at_once(numbers):
    with pytest.raises(UserError, match=f"{next(iter(numbers))}.* is out of bounds") as caught:
        StudyOptions("x", DATASET_JSON, **numbers)
    assert "the memory in GB, and the spacing in mm" in caught.value.hint
