"""Hosts whose commands run in this process, one after the other, as cron would start them.

A process of nnU-Net imports for seconds before it does anything. Whoever tests what hosts publish
and print, and not that they are processes, needs that once. That they are is tested by
``tests/e2e/test_federation.py``, the demo, the simulation and the documents.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from fedfs.cli import main
from fedfs.errors import FedfsError
from fedfs.nnunet import child
from fedfs.nnunet.plan import planner
from fedfs.nnunet.score import cross_evaluation
from fedfs.nnunet.system import isolated, requests
from fedfs.roles.coordinator import evaluation
from fedfs.roles.reader import export
from fedfs.roles.site import export as export_at_site
from fedfs.roles.site import run as site_process
from fedfs.simulation import jobs
from fedfs.simulation.hosts import Host

ENDS_OF_ONCE = WORKED, WAITING, NOTHING_LEFT = (0, 10, 11)
"""Exit codes of ``--once``."""
_PRELOADED = [
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.experiment_planning.plan_and_preprocess_api",
]
_STARTERS: tuple[ModuleType, ...] = (
    isolated, planner, cross_evaluation, evaluation, export, export_at_site, site_process, jobs,
)  # fmt: skip
"""Modules that have the name of what starts a child process."""


def run_children_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call in this process what fedfs runs in a child process."""

    def run(
        function: str,
        request: Any,
        *,
        environ: Mapping[str, str] | None = None,
        workdir: object,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Any:
        del environ, workdir
        fields = json.loads(json.dumps(requests.to_json(request)))
        made = child.FUNCTIONS[function](fields, on_progress or (lambda _: None))
        return json.loads(json.dumps(made))

    for module in _STARTERS:
        monkeypatch.setattr(module, "run_isolated", run)


def fork_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that nnU-Net spawns: each of these would import it again, for seconds.

    They are forked from a server that has imported nnU-Net and nothing else: a copy of this
    process, which has threads, would wait forever for what one of them holds.
    """
    found = multiprocessing.get_context
    multiprocessing.set_forkserver_preload(_PRELOADED)

    def get_context(method: str | None = None) -> Any:
        return found("forkserver" if method == "spawn" else method)

    monkeypatch.setattr(multiprocessing, "get_context", get_context)


@contextlib.contextmanager
def _logging_of_its_own() -> Iterator[None]:
    """Let a command set up its log as in a process of its own."""
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("fedfs", "py.warnings", "watchdog"))]
    levels, handlers = [logger.level for logger in loggers], root.handlers
    root.handlers = []
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def call(
    program: Callable[[], object],
    *words: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    in_order: bool = False,
) -> tuple[int, str, str]:
    """Call what a command's program calls; return exit code, standard output, standard error.

    Args:
        program: what the command calls, without arguments.
        words: the command, from its name on.
        env: its environment.
        cwd: the folder that it is run in.
        in_order: what goes to standard error is in the standard output, as ``2>&1`` has it.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "argv", list(words)),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out if in_order else err),
        _logging_of_its_own(),
    ):
        try:
            program()
        except SystemExit as end:
            code = end.code or 0
    return code if isinstance(code, int) else 1, out.getvalue(), err.getvalue()


class HostHere(Host):
    """A host whose commands run in this process."""

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Run a fedfs command; return exit code, standard output, standard error."""
        return call(main, "fedfs", *arguments, env=self.environment())

    def once(self, *arguments: str) -> tuple[int, str]:
        """Do what can be done now; return an exit code that is no failure, and what is printed."""
        code, out, err = self.call(*arguments, "--once")
        if code not in ENDS_OF_ONCE:
            raise FedfsError(
                f"fedfs {' '.join(arguments)} on {self.name} exited with {code}:\n{err}"
            )
        return code, out

    def run(self, *arguments: str) -> str:
        """Run a fedfs command to its end and return what it printed.

        Raises:
            FedfsError: it failed; with its standard error.
        """
        code, out, err = self.call(*arguments)
        if code != 0:
            command = f"fedfs {' '.join(arguments)} on {self.name}"
            raise FedfsError(f"{command} exited with {code}:\n{err.strip()}")
        return out
