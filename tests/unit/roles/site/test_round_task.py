"""Updates in ``randk``: sites train what travels, and nothing else."""

import numpy as np
import pytest

from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.tensors.encodings.randk import is_sent
from support.federation import Federation
from support.unlike_networks import NETWORKS

FRACTION = 0.0007
TARGETS = {"east": 0.1, "north": 0.2, "south": -0.3, "west": 0.4}
RANDK = {"encoding": "randk", "encoding_options": {"fraction": FRACTION}, "rounds": 3}


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("mode", ["ffe", "asym"])
def test_versions_move_where_updates_carry_values(tmp_path, mode, secure):
    options = {"secure_sums": True, "encryption": "age"} if secure else {}
    if mode == "asym":
        options |= {"mode": mode, "networks": NETWORKS, "min_coverage": 0.1}
    federation = Federation(tmp_path, targets=TARGETS, **RANDK, **options).start()
    federation.run()
    learner = federation.learners["north"]
    for version in (0, 1):
        before, after = learner.seen[version], learner.seen[version + 1]
        names = learner.tasks[version].partial.names
        assert names
        for own in before:
            moves = np.ones(before[own].shape, bool)  # what no other site has
            if own in names:
                moves = is_sent(names[own], before[own], FRACTION)
                assert 0 < moves.sum() < max(moves.size, 3)
            np.testing.assert_array_equal(after[own] != before[own], moves)


def test_other_encodings_train_all_values(tmp_path):
    federation = Federation(tmp_path, encoding="topk", rounds=1).start()
    federation.run()
    assert [task.partial for task in federation.learners["north"].tasks] == [None]


def test_models_of_a_site_s_own_are_trained_whole(tmp_path):
    own = {"alone": ("north",), "personal": {"north": FineTuning()}}
    federation = Federation(tmp_path, **RANDK, **own).start()
    federation.run()
    tasks = [*federation.alone["north"].tasks, *federation.personal["north"].tasks]
    assert len(tasks) == 2
    assert [task.partial for task in tasks] == [None, None]
