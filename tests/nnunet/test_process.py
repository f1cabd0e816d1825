import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedfs
from fedfs import errors
from fedfs.nnunet import child as child_process
from fedfs.nnunet.system import isolated
from fedfs.nnunet.system.isolated import run_isolated


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Replace the child's program, which gets the room as last argument."""

    def replace(code):
        script = tmp_path / "child.py"
        script.write_text(f"import json, os, signal, sys\nroom = sys.argv[-1]\n{code}\n")
        real = subprocess.Popen
        monkeypatch.setattr(
            isolated.subprocess,
            "Popen",
            lambda command, **kwargs: real([sys.executable, str(script), *command[3:]], **kwargs),
        )

    return replace


def respond(value):
    return f"open(room + '/response.json', 'w').write({json.dumps(json.dumps(value))})"


def test_only_listed_functions_can_be_called(tmp_path):
    for name in ("system", "__import__", "main", ""):
        with pytest.raises(errors.UserError, match="is not a function"):
            run_isolated(name, {}, workdir=tmp_path)


def test_the_child_has_the_functions_that_its_parent_knows_by_name():
    assert len(set(isolated.FUNCTION_NAMES)) == len(isolated.FUNCTION_NAMES)
    assert set(isolated.FUNCTION_NAMES) == set(child_process.FUNCTIONS)


def test_what_the_parent_imports_does_not_import_the_child():
    code = f"import sys, fedfs.nnunet.system.isolated; sys.exit({isolated._CHILD!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_result_comes_back_and_the_room_is_cleared(tmp_path, child):
    child(respond({"a": [1, 2.5, None]}))
    room = tmp_path / "room"
    room.mkdir()
    assert run_isolated("plan", {}, workdir=room) == {"a": [1, 2.5, None]}
    assert list(room.iterdir()) == []


def test_an_error_is_the_same_error_here(tmp_path, child):
    error = errors.TrainingError("m", kind="not-finite", hint="h")
    child(respond({"error": isolated.as_json(error)}))
    with pytest.raises(errors.TrainingError, match="^m$") as caught:
        run_isolated("plan", {}, workdir=tmp_path)
    assert (caught.value.kind, caught.value.hint) == ("not-finite", "h")


@pytest.mark.nnunet
def test_an_error_of_the_real_child_is_the_same_error_here(tmp_path):
    request = {
        "plans": {"dataset_name": "../x"},
        "dataset_json": {},
        "configuration": "2d",
        "trainer": "nnUNetTrainer",
        "seed": 1,
        "output": str(tmp_path / "w"),
    }
    with pytest.raises(errors.MalformedError, match="dataset_name '../x'"):
        run_isolated("initial_weights", request, workdir=tmp_path)


@pytest.mark.nnunet
def test_a_planner_that_nnunet_does_not_have_is_named(tmp_path):
    with pytest.raises(errors.SetupError, match="has no planner nnUNetPlannerFoo") as caught:
        run_isolated("check_planner", {"planner": "nnUNetPlannerFoo"}, workdir=tmp_path)
    assert "is the name right?" in caught.value.hint


def test_a_killed_child_is_out_of_memory(tmp_path, child):
    child("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(errors.TrainingError, match="killed while it ran plan") as caught:
        run_isolated("plan", {}, workdir=tmp_path)
    assert caught.value.kind == "out-of-memory"


def test_the_last_words_of_a_crash_are_passed_on(tmp_path, child):
    child("raise RuntimeError('the GPU fell off')")
    with pytest.raises(errors.TrainingError, match="RuntimeError: the GPU fell off") as caught:
        run_isolated("export", {}, workdir=tmp_path)
    assert caught.value.kind == "crash"


def test_what_it_said_before_a_crash_that_it_reports_is_in_the_log(tmp_path, child, caplog):
    error = errors.TrainingError("process 1 was aborted", kind="crash")
    words = "print('terminate called without an active exception', file=sys.stderr)"
    child(f"{words}\n{respond({'error': isolated.as_json(error)})}")
    with pytest.raises(errors.TrainingError, match="process 1 was aborted"):
        run_isolated("train_round", {}, workdir=tmp_path)
    assert "terminate called without an active exception" in caplog.text


def test_progress_is_passed_on(tmp_path, child):
    line = {
        "step": "train",
        "done": 3,
        "total": 9,
        "unit": "iteration",
        "epoch": 1,
        "metrics": {"loss": 0.5},
    }
    child(f"print({json.dumps(json.dumps(line))}, flush=True)\n{respond({})}")
    seen = []
    run_isolated("train_round", {}, workdir=tmp_path, on_progress=seen.append)
    assert [dataclasses.asdict(progress) for progress in seen] == [line]


def test_variables_reach_the_child(tmp_path, child):
    child("json.dump(dict(os.environ), open(room + '/response.json', 'w'))")
    found = run_isolated("plan", {}, workdir=tmp_path, environ={"nnUNet_n_proc_DA": "3"})
    assert found["nnUNet_n_proc_DA"] == "3"
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(Path(fedfs.__file__).parents[1])


def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    # The child would wait for ever: its request is a pipe that nobody writes to.
    code = f"""
import os, subprocess, sys
room = {str(tmp_path)!r}
os.mkfifo(room + "/request.json")
child = subprocess.Popen(
    [sys.executable, "-m", "fedfs.nnunet.child", "plan", room], stdin=subprocess.PIPE
)
print(child.pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, timeout=60)
    # Its standard output is ours; that it has closed says that the child has ended.
    assert time.monotonic() - began < 60
