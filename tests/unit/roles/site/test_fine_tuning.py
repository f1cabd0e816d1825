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


def test_rounds_and_local_models_begin_with_the_rate_of_the_study_and_personal_ones_do_not(
    tmp_path,
):
    tunings = {"north": FineTuning(), "south": FineTuning(learning_rate=1e-4)}
    federation = Federation(
        tmp_path, personal=tunings, alone=("north",), learning_rate=0.03, rounds=2
    ).start()
    federation.run()
    (tuned,), (own,), (alone,) = (
        federation.personal["north"].tasks,
        federation.personal["south"].tasks,
        federation.alone["north"].tasks,
    )
    assert (tuned.learning_rate, own.learning_rate, alone.learning_rate) == (None, 1e-4, 0.03)
    rounds = [task for learner in federation.learners.values() for task in learner.tasks]
    assert len(rounds) == 2 * len(federation.learners)
    assert {task.learning_rate for task in rounds} == {0.03}


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"share": 101.0}, {"learning_rate": 0.0}])
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(UserError) as caught:
        FineTuning(**changes)
    assert "default" in caught.value.hint
