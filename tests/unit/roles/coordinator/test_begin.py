"""The start of a study, and starts that were interrupted."""

from __future__ import annotations

import pytest

from fedfs.errors import StudyError
from fedfs.store.memory import MemoryStore
from fedfs.tensors.canonical import write_safetensors
from support.federation import INITIAL, Federation


class Interrupted(MemoryStore):
    """Somebody ends the process before it writes the charter."""

    def create(self, key, data):
        if "charter" in key:
            raise KeyboardInterrupt
        return super().create(key, data)


def test_a_start_that_was_interrupted_is_started_again(tmp_path):
    weights, store = tmp_path / "weights.safetensors", Interrupted()
    write_safetensors(weights, INITIAL)
    with pytest.raises(KeyboardInterrupt):
        Federation(tmp_path / "first", store=store, pretrained=weights)
    assert [key for key in store.objects if key.startswith("federation/pretrained-")]
    store.__class__ = MemoryStore
    federation = Federation(tmp_path / "second", store=store, pretrained=weights)
    assert federation.start().observe().state.charter.pretrained is not None
    with pytest.raises(StudyError, match="holds a federation already"):
        Federation(tmp_path / "third", store=store)
