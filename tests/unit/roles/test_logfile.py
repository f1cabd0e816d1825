"""The log file of a host."""

from __future__ import annotations

import logging

import pytest

from fedfs.errors import SetupError, TrainingError
from fedfs.roles.logfile import log_to_file


def test_the_log_file_holds_more_than_the_terminal_and_the_error(tmp_path):
    path = tmp_path / "fedfs" / "log.txt"
    log = logging.getLogger("fedfs.test")
    logging.getLogger("fedfs").setLevel(logging.DEBUG)

    def work() -> None:
        with log_to_file(path):
            log.debug("what nnU-Net printed")
            log.info("a thing done")
            raise TrainingError("it broke", kind="crash")

    with pytest.raises(TrainingError):
        work()
    log.info("after the end")
    text = path.read_text()
    assert "DEBUG   what nnU-Net printed" in text
    assert "INFO    a thing done" in text
    assert "Traceback" in text
    assert "it broke" in text
    assert "after the end" not in text


def test_a_log_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(SetupError, match="cannot be written"), log_to_file(tmp_path / "log.txt"):
        pass
