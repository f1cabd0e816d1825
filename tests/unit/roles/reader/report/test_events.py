"""Event files for TensorBoard: the numbers of the report, whole, and no others beside them."""

from __future__ import annotations

import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from fedfs.errors import SetupError, UserError
from fedfs.protocol.messages import from_utc
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.events import write_events


@pytest.fixture
def board(tmp_path):
    """Beside the keys of the federation."""
    return tmp_path / "board"


def report_of(federation):
    observer = federation.observe()
    observer.refresh(everything=True)
    return collect(observer.state, observer.sizes)


def events_in(folder):
    """The events of a run's only file; lengths and checksums are checked as TensorBoard does."""
    (path,) = folder.glob("*tfevents*")
    data, events = path.read_bytes(), []
    while data:
        header, length_crc = data[:8], data[8:12]
        size = struct.unpack("<Q", header)[0]
        payload, payload_crc = data[12 : 12 + size], data[12 + size : 16 + size]
        assert struct.unpack("<I", length_crc)[0] == masked_crc32c(header)
        assert struct.unpack("<I", payload_crc)[0] == masked_crc32c(payload)
        events.append(Event.FromString(payload))
        data = data[16 + size :]
    return events


def curves_in(folder):
    """Tag -> step -> (value, wall time)."""
    out = {}
    for event in events_in(folder):
        for value in event.summary.value:
            out.setdefault(value.tag, {})[event.step] = (value.simple_value, event.wall_time)
    return out


def points(report, column):
    """What a curve of a column of the report has to be."""
    return {
        version: (pytest.approx(value, rel=1e-6), from_utc(report.published[i]))
        for i, (version, value) in enumerate(zip(report.versions, column, strict=True))
        if value is not None
    }


def test_curves_are_the_columns_of_the_report(federation, board):
    federation.run()
    report = report_of(federation)
    runs = write_events(report, board, now_s=1.8e9)
    assert runs == ("global", "sites/east", "sites/north", "sites/south")
    for row in report.sites:
        curves = curves_in(board / "sites" / row.site)
        assert curves["dice"] == points(report, report.dice[row.site])
        assert curves["train_loss"] == points(report, report.train_loss[row.site])
        assert curves["weight"] == points(report, report.weights[row.site])
        assert curves["lag"] == points(report, report.lags[row.site])
        assert curves["final_dice/organ"].keys() == {3}
        assert curves["final_dice/organ"][3][0] == pytest.approx(row.final["organ"], rel=1e-6)
        assert curves["final_dice/mean"][3][0] == pytest.approx(row.final_mean, rel=1e-6)
    curves = curves_in(board / "global")
    assert curves["dice"] == points(report, report.mean_dice)
    assert curves["n_bytes"] == points(report, report.n_bytes)
    for phase, column in report.seconds.items():
        assert curves.get(f"seconds/{phase}", {}) == points(report, column)
    assert None in report.weights["north"]  # nothing of a site went into version 0: no point


def test_every_file_starts_as_tensorboard_wants_it(federation, board):
    write_events(report_of(federation), board, now_s=1.8e9)
    for run in ("global", "sites/north"):
        version, start = events_in(board / run)  # no version yet: no point
        assert version.file_version == "brain.Event:2"
        assert start.session_log.status == SessionLog.START  # forget what you read before


def test_writing_again_replaces_what_was_written_and_nothing_else(federation, board):
    foreign = [board / "global" / "events.out.tfevents.1.host", board / "notes.txt"]
    foreign[0].parent.mkdir(parents=True)
    for path in foreign:
        path.write_text("of somebody else")
    write_events(report_of(federation), board, now_s=1.8e9)
    gone = board / "sites" / "gone" / "events.out.tfevents.1700000000.fedfs"
    gone.parent.mkdir()
    gone.write_bytes(b"of a site that is no more")
    federation.run()
    for now_s in (1.8e9 + 60, 1.8e9 + 60):
        write_events(report_of(federation), board, now_s=now_s)
    assert [path.read_text() for path in foreign] == ["of somebody else"] * 2
    foreign[0].unlink()
    assert not gone.exists()
    assert curves_in(board / "global")["dice"].keys() == {0, 1, 2, 3}
    names = {path.name for path in board.rglob("*") if path.is_file()}
    assert names == {"events.out.tfevents.1800000060.fedfs", "notes.txt"}


def test_what_cannot_be_written_is_not_there_at_all(federation, board):
    federation.run()
    report = report_of(federation)
    (board / "sites").mkdir(parents=True)
    (board / "sites" / "south").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_events(report, board, now_s=1.8e9)
    assert [path.name for path in board.rglob("*") if path.is_file()] == ["south"]


def test_without_the_library_it_says_how_to_get_it(federation, board, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match="need the package tensorboardX") as caught:
        write_events(report_of(federation), board, now_s=1.8e9)
    assert caught.value.hint == "run: pip install 'fedfs[tensorboard]'"
    assert not board.exists()
