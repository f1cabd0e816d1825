"""The version that a host has seen is kept, whatever other process runs beside this one."""

from __future__ import annotations

import pytest

from fedfs.errors import MisplacedError
from fedfs.roles.process import guard_against_rollback
from support.federation import Federation


def seen(federation: Federation, observer):
    return guard_against_rollback(
        federation.keyring("north"),
        "site-north",
        {observer.track.name: observer},
        [observer.track.name],
    )


def test_a_start_that_saw_more_does_not_make_a_process_end_in_alarm(federation):
    def interrupted():
        with seen(federation, federation.observe("north")):
            federation.run()  # meanwhile
            with seen(federation, federation.observe("north")):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    kept = federation.keyring("north")
    with pytest.raises(MisplacedError, match="this host has seen version 3 of it"):
        kept.note_version("site-north", federation.tracks[0], 2, "")


def test_a_look_that_another_process_has_overtaken_is_made_again(federation):
    late = federation.observe("north")
    federation.run()
    with seen(federation, federation.observe("north")):
        pass
    assert late.state.newest == -1
    with seen(federation, late):
        assert late.state.newest == 3


def test_a_store_that_was_rolled_back_is_noticed(tmp_path):
    federation = Federation(tmp_path).start()
    before = dict(federation.store.objects)
    federation.run()
    with seen(federation, federation.observe("north")):
        pass
    federation.store.objects = before
    with (
        pytest.raises(MisplacedError, match="The store shows version -1, but this host has seen"),
        seen(federation, federation.observe("north")),
    ):
        pass
