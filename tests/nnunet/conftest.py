"""nnU-Net on a small machine: no pools, no compiler, data loading in the training process."""

import os
from pathlib import Path

# Read by nnU-Net when it is imported, so before anything else.
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_compile", "f")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from synthetic import Study, make_paths

from support.one_process import fork_pools, run_children_here


@pytest.fixture
def paths(tmp_path):
    """nnU-Net's three folders, empty."""
    return make_paths(tmp_path)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, request):
    """Let only tests with the mark ``drawn`` draw ``progress.png``: it takes longer than training.

    The others find a file of that name.
    """
    if "drawn" not in request.keywords:
        logger = "nnunetv2.training.logging.nnunet_logger.LocalLogger"
        monkeypatch.setattr(f"{logger}.plot_progress_png", write_nothing)


def write_nothing(_, folder):
    (Path(folder) / "progress.png").write_text("not drawn")


@pytest.fixture
def no_workers(monkeypatch):
    """Load data in the training process."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.fixture(scope="session")
def hippocampus(shared_data):
    return shared_data / "hippocampus"


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A raw dataset of 6 cases, its 2d plan and initial weights; made once, never changed."""
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def forked_pools(monkeypatch):
    """Fork the processes that nnU-Net spawns."""
    fork_pools(monkeypatch)


@pytest.fixture
def in_one_process(monkeypatch, no_workers, forked_pools):
    """Call what fedfs runs in a child process."""
    run_children_here(monkeypatch)
