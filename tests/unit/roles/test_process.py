"""The version that a host has seen is kept, whatever other process runs beside this one."""

from __future__ import annotations

import pytest

from fedfs.errors import MisplacedError
from fedfs.protocol.messages import Attendance
from fedfs.roles.process import guard_against_rollback, hold_tracks, publisher_on
from fedfs.roles.site.join import ask_for_new_key
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
    kept = federation.keyring("north").memory
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


def test_what_is_accepted_is_noted_at_once_and_not_in_the_end(federation):
    observer = federation.observe("north")
    with seen(federation, observer):
        federation.run()
        observer.refresh()
        kept = federation.keyring("north").memory
        with pytest.raises(MisplacedError, match="this host has seen version 3 of it"):
            kept.note_version("site-north", federation.tracks[0], 2, "")


def test_temporary_folders_of_a_killed_process_are_removed_and_nothing_else(federation, tmp_path):
    folder = tmp_path / "tracks" / "2d-0"
    for name in ("tmpabcd_123", "tensors/tmp01234567", "tmp-mine", "tensors/kept"):
        (folder / name).mkdir(parents=True)
        (folder / name / "payload").write_bytes(b"x")
    with hold_tracks("x", federation.charter, {"2d-0": folder}, tmp_path, once=False):
        pass
    left = {str(path.relative_to(folder)) for path in folder.rglob("payload")}
    assert left == {"tmp-mine/payload", "tensors/kept/payload"}


def test_a_key_that_is_not_approved_yet_signs_nothing(federation):
    """Its messages would be refused, and would take the place of those that follow."""
    keyring = federation.keyring("north")
    ask_for_new_key(federation.store, keyring, "north", is_lost=False, clock=federation.clock)
    observer = federation.observe("north")
    publisher = publisher_on(
        federation.place, observer, keyring, "site-north", federation.gate("site-north", observer)
    )
    assert publisher.public_key == observer.state.charter.entry("north").public_key
    publisher.publish(Attendance.numbered("north", 1, status="paused", reason=""))
    assert federation.observe().state.is_away("north")
