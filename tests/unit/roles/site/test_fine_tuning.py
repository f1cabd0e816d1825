"""Budget and schedule of a personal model."""

from __future__ import annotations

import pytest

from fedfs.errors import UserError
from fedfs.roles.site.fine_tuning import FineTuning
from support.federation import Federation


def test_by_default_the_schedule_begins_as_the_trainer_does(tmp_path):
    """With Adam that is another rate than with SGD, so that no number suits both."""
    federation = Federation(tmp_path, personal={"north": FineTuning()}, rounds=4).start()
    federation.run()
    (task,) = federation.personal["north"].tasks
    assert task.learning_rate is None
    assert FineTuning().schedule == "the trainer's own learning rate"
    assert FineTuning(learning_rate=1e-3).schedule == "a learning rate of 0.001"


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"share": 101.0}, {"learning_rate": 0.0}])
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(UserError) as caught:
        FineTuning(**changes)
    assert "default" in caught.value.hint
