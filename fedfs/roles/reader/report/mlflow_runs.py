"""A report as runs of MLflow: an experiment for each study, a run for each track and site.

Rules:
 * Runs, metrics and steps are those of :mod:`fedfs.roles.reader.report.curves`; the time of a point
   is that of the version's record.
 * Each point is there once, however often a report is logged: what is new is added to the run. If a
   point has changed, as a mean does when another site has scored, a new run takes the place of the
   run, since MLflow never overwrites; the run before goes to MLflow's trash.
 * Nothing but these runs leaves this host: MLflow's own telemetry is off.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedfs.errors import SetupError, UserError
from fedfs.protocol.messages import from_utc
from fedfs.protocol.text import printable
from fedfs.roles.reader.report.curves import GLOBAL, Values, curves
from fedfs.roles.reader.report.data import Report

RUN_TAG = "fedfs.run"
"""Tag of a run by which it is found again: its name."""

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell the makers of MLflow that it is used here
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it tries for four minutes
}
_MAX_POINTS, _MAX_RUNS, _MAX_TEXT = 1000, 1000, 300
_NEXT_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])")
_NOT_IN_NAMES = re.compile(r"[^/\w.\- ]")

_Points = Mapping[tuple[str, int], tuple[float, int]]
"""(Metric, step) -> (value, POSIX milliseconds)."""


def log_runs(reports: Mapping[str, Report], uri: str) -> tuple[str, ...]:
    """Log reports to an MLflow server; return the names of the runs.

    Args:
        reports: of the tracks of one study, by name.
        uri: tracking URI of MLflow.

    Raises:
        SetupError: the library is not installed.
        UserError: MLflow cannot be reached, or refuses.
    """
    try:
        os.environ.update(_SETTINGS)
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  an extra, and it takes seconds
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  as above
    except ModuleNotFoundError as error:
        raise SetupError(
            f"Runs of MLflow need the package {error.name}, which is not installed.",
            hint="run: pip install 'fedfs[mlflow]'",
        ) from error
    wanted = {}
    for track, report in reports.items():
        times_ms = [round(from_utc(text) * 1000) for text in report.published]
        for run, steps in curves(report).items():
            name = f"{report.facts['Study']}/{track}/{run}"
            wanted[name] = _points(steps, times_ms)
    try:
        _log(MlflowClient(tracking_uri=uri), wanted)
    except MlflowException as error:
        shown = re.sub(r"//[^/]*@", "//", uri)  # without the password
        sentence = _NEXT_SENTENCE.split(str(error).strip().replace(uri, shown))[0]
        text = printable(sentence, limit=_MAX_TEXT).removesuffix(".")
        raise UserError(
            f"MLflow at {shown} does not take the runs: {text}.",
            hint="give the address of a server (http or https); sqlite:///FILE needs the package "
            "mlflow, and a folder MLFLOW_ALLOW_FILE_STORE=true",
        ) from error
    return tuple(wanted)


def _log(client: Any, wanted: Mapping[str, _Points]) -> None:
    study = next(iter(wanted)).partition("/")[0]
    experiment = client.get_experiment_by_name(study)
    number = experiment.experiment_id if experiment else client.create_experiment(study)
    found = client.search_runs([number], max_results=_MAX_RUNS)
    runs = {run.data.tags.get(RUN_TAG): run for run in found}
    for name, points in wanted.items():
        there = _points_in(client, runs[name]) if name in runs else None
        is_new = there is None or not there.items() <= points.items()
        run_id = _create(client, number, name) if is_new else runs[name].info.run_id
        _add(client, run_id, points if is_new else _without(points, there or {}))
        if is_new and name in runs:
            client.delete_run(runs[name].info.run_id)


def _create(client: Any, experiment: str, name: str) -> str:
    study, track, *run = name.split("/")
    tags = {RUN_TAG: name, "study": study, "track": track}
    if run != [GLOBAL]:
        tags["site"] = run[-1]
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _add(client: Any, run_id: str, points: _Points) -> None:
    from mlflow.entities import Metric  # noqa: PLC0415  an extra

    metrics = [Metric(name, value, ms, step) for (name, step), (value, ms) in points.items()]
    for start in range(0, len(metrics), _MAX_POINTS):
        client.log_batch(run_id, metrics=metrics[start : start + _MAX_POINTS])
    client.set_terminated(run_id)


def _points(steps: Sequence[Values], times_ms: Sequence[int]) -> _Points:
    return {
        (_NOT_IN_NAMES.sub("_", tag), step): (float(value), times_ms[step])
        for step, values in enumerate(steps)
        for tag, value in values.items()
    }


def _points_in(client: Any, run: Any) -> _Points:
    return {
        (one.key, one.step): (one.value, one.timestamp)
        for metric in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, metric)
    }


def _without(points: _Points, others: _Points) -> _Points:
    return {key: value for key, value in points.items() if key not in others}
