"""A report as TensorBoard event files: a run for each site and one for all, curves in one chart.

Rules:
 * Runs, tags and points are those of :mod:`fedfs.roles.reader.report.curves`; the wall time of a
   step is that of the version's record.
 * All files are written before the first appears. Then what was written here before goes away:
   TensorBoard would show both. Other files in the folder are left alone.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedfs.errors import SetupError, UserError
from fedfs.protocol.messages import from_utc
from fedfs.roles.reader.report.curves import GLOBAL, Values, curves
from fedfs.roles.reader.report.data import Report

_ENDING = ".fedfs"
_OURS = f"events.out.tfevents.*{_ENDING}"  # TensorBoard wants "tfevents", and reads by name


def write_events(report: Report, folder: Path, *, now_s: float) -> tuple[str, ...]:
    """Write a report for ``tensorboard --logdir FOLDER``; return the names of the runs.

    Args:
        report: what is shown.
        folder: made if it is not there; holds the runs of one study.
        now_s: POSIX seconds; a TensorBoard that is open goes on with the newest file.

    Raises:
        SetupError: the library is not installed.
        UserError: the folder cannot be written.
    """
    try:
        from tensorboardX.record_writer import RecordWriter  # noqa: PLC0415  an extra, and it takes seconds
    except ModuleNotFoundError as error:
        raise SetupError(
            f"Event files for TensorBoard need the package {error.name}, which is not installed.",
            hint="run: pip install 'fedfs[tensorboard]'",
        ) from error
    runs = curves(report)
    times_s = [from_utc(text) for text in report.published]
    name = f"events.out.tfevents.{int(now_s):010d}{_ENDING}"
    try:
        for run in runs:
            (folder / run).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as room:
            written = {}
            for number, (run, steps) in enumerate(runs.items()):
                path = Path(room, str(number)).resolve()
                writer = RecordWriter(str(path))
                for event in _events(steps, times_s, now_s):
                    writer.write(event)
                writer.flush()
                writer.close()
                written[folder / run / name] = path
            before = {*folder.glob(f"{GLOBAL}/{_OURS}"), *folder.glob(f"sites/*/{_OURS}")}
            for target, path in written.items():
                path.replace(target)
            for path in before - written.keys():
                path.unlink()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}.",
            hint="check the folder, its permissions and the free space",
        ) from error
    return tuple(runs)


def _events(steps: Sequence[Values], times_s: Sequence[float], now_s: float) -> Iterator[bytes]:
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415  as above
    from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415  as above

    yield Event(wall_time=now_s, file_version="brain.Event:2").SerializeToString()
    # A TensorBoard that is open forgets what it has read from the file before.
    start = SessionLog(status=SessionLog.START)
    yield Event(wall_time=now_s, step=0, session_log=start).SerializeToString()
    for step, values in enumerate(steps):
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=times_s[step], step=step, summary=Summary(value=points))
        yield event.SerializeToString()
