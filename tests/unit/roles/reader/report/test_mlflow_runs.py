"""Runs of MLflow: the numbers of the report, each once, read back by MLflow's own client."""

from __future__ import annotations

import sys

import pytest
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from mlflow.tracking import MlflowClient

from fedfs.errors import SetupError, UserError
from fedfs.protocol.messages import from_utc
from fedfs.roles.reader.report.curves import curves
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.mlflow_runs import RUN_TAG, log_runs


@pytest.fixture
def uri(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without a server
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
    return (tmp_path / "mlruns").as_uri()


def reports_of(federation):
    reports = {}
    for track in federation.tracks:
        observer = federation.observe(track=track)
        observer.refresh(everything=True)
        reports[track] = collect(observer.state, observer.sizes)
    return reports


def runs_in(federation, uri):
    """Name -> (id, metric -> list of (step, value, milliseconds)), as MLflow has them."""
    client, found = MlflowClient(tracking_uri=uri), {}
    experiment = client.get_experiment_by_name(federation.charter.study)
    for run in client.search_runs([experiment.experiment_id]):
        metrics = {
            name: [(m.step, m.value, m.timestamp)
                   for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }  # fmt: skip
        assert run.info.run_name == run.data.tags[RUN_TAG]
        assert run.info.run_name not in found
        found[run.info.run_name] = run.info.run_id, metrics
    return found


def expected(federation):
    out = {}
    for track, report in reports_of(federation).items():
        for run, steps in curves(report).items():
            metrics = out.setdefault(f"{federation.charter.study}/{track}/{run}", {})
            for step, values in enumerate(steps):
                ms = round(from_utc(report.published[step]) * 1000)
                for tag, value in values.items():
                    metrics.setdefault(tag, []).append((step, value, ms))
    return out


def logged(federation, uri):
    return {name: metrics for name, (_, metrics) in runs_in(federation, uri).items()}


def test_runs_have_the_curves_of_the_report_once(federation, uri):
    """Logged before, in the middle, twice in the end: what is new is added."""
    study, track = federation.charter.study, federation.tracks[0]
    names = log_runs(reports_of(federation), uri)
    assert MLFLOW_DISABLE_TELEMETRY.get()  # nothing else leaves the host
    assert names == tuple(
        f"{study}/{track}/{run}" for run in ("global", "sites/east", "sites/north", "sites/south")
    )
    while federation.observe().state.newest < 2:
        for name in ("aggregator", *federation.targets):
            federation.step(name)
    log_runs(reports_of(federation), uri)
    assert logged(federation, uri) == expected(federation)
    federation.run()
    for _ in range(2):
        log_runs(reports_of(federation), uri)
        assert logged(federation, uri) == expected(federation)
    final = logged(federation, uri)[f"{study}/{track}/sites/north"]
    assert [step for step, *_ in final["dice"]] == [0, 1, 2, 3]
    assert [step for step, *_ in final["final_dice/organ"]] == [3]


def test_a_run_stays_unless_a_point_has_changed(federation, uri):
    federation.run()
    (track,) = federation.tracks
    log_runs(reports_of(federation), uri)
    first = runs_in(federation, uri)
    changed = reports_of(federation)
    column = (0.5, *changed[track].mean_dice[1:])
    changed = {track: changed[track].__class__(**{**vars(changed[track]), "mean_dice": column})}
    log_runs(changed, uri)
    again = runs_in(federation, uri)
    assert again.keys() == first.keys()
    replaced = {name for name in first if first[name][0] != again[name][0]}
    assert replaced == {f"{federation.charter.study}/{track}/global"}
    (name,) = replaced
    assert [value for _, value, _ in again[name][1]["dice"]] == list(column)


def test_an_address_that_takes_nothing_is_named_without_its_password(federation, uri):
    with pytest.raises(UserError, match="MLflow at ftp://host/x does not take the runs") as caught:
        log_runs(reports_of(federation), "ftp://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_without_the_library_it_says_how_to_get_it(federation, uri, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match="need the package mlflow") as caught:
        log_runs(reports_of(federation), uri)
    assert caught.value.hint == "run: pip install 'fedfs[mlflow]'"
