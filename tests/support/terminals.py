"""Pages that stand for themselves: their blocks, typed into terminals from top to bottom.

A ``console`` or ``python`` block says into which ``terminal`` it goes. A terminal is a shell of its
own: what is set or changed in it stays. A block with ``until=end`` is left running once it has
printed what is shown, and is waited for at the end of the page. ``toml edit=FILE`` sets keys in a
file that is there.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from support.code_blocks import Block, blocks_of, difference, steps_of

TIMEOUT_S = 1200.0
_LOOK_EVERY_S = 0.05
_MARK = "the command has ended with "


class Terminal:
    """A shell in a folder; one command after the other is typed into it."""

    def __init__(self, log: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._log, self._read = log, 0
        with log.open("wb") as output:
            self._shell = subprocess.Popen(
                ["bash", "-s"], cwd=folder, env=dict(environment), stdin=subprocess.PIPE,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def type(self, command: str) -> None:
        """Type a command and the Enter key."""
        stdin: IO[bytes] | None = self._shell.stdin
        assert stdin is not None
        stdin.write(f"{{ {command}\n}} < /dev/null; printf '{_MARK}%s\\n' $?\n".encode())
        stdin.flush()

    def wait_for(self, shown: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the command has printed what is shown; it goes on."""
        end_s = time.monotonic() + timeout_s
        while difference(shown, self._printed().partition(_MARK)[0].splitlines()) is not None:
            assert time.monotonic() < end_s, f"{self._printed()}\nThe document shows: {shown}"
            assert _MARK not in self._printed(), f"{self._printed()}\nThe document shows: {shown}"
            time.sleep(_LOOK_EVERY_S)

    def wait(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Wait for the command that was typed; return its exit code and what it printed."""
        end_s = time.monotonic() + timeout_s
        while True:
            text = self._printed()
            printed, mark, code = text.partition(_MARK)
            if mark and code.endswith("\n"):
                self._read += len(text.encode())
                return int(code), printed
            assert time.monotonic() < end_s, f"still running:\n{text}"
            time.sleep(_LOOK_EVERY_S)

    def _printed(self) -> str:
        return self._log.read_bytes()[self._read :].decode()

    def close(self) -> None:
        """End the shell and all that runs in it."""
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.communicate()


@dataclass
class Terminals:
    """The terminals of a page, opened when something is typed into them.

    Attributes:
        folder: where all of them begin.
        logs: folder for what they print.
        environment: of a terminal, by its name.
    """

    folder: Path
    logs: Path
    environment: Callable[[str], Mapping[str, str]]
    _opened: dict[str, Terminal] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Terminal:
        if name not in self._opened:
            log = self.logs / f"{name}.txt"
            self._opened[name] = Terminal(log, self.folder, self.environment(name))
        return self._opened[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for terminal in self._opened.values():
            terminal.close()


def follow(page: Path, terminals: Terminals) -> Iterator[str]:
    """Do what a page says; yield what is not as the page shows it."""
    running: list[tuple[Block, Terminal, tuple[str, ...]]] = []
    for block in blocks_of(page):
        if "edit" in block.words:
            _edit(terminals.folder / block.words["edit"], block.text)
        if "terminal" not in block.words:
            continue
        terminal = terminals[block.words["terminal"]]
        for command, shown in _commands(block):
            terminal.type(command)
            if block.words.get("until") == "end":
                running.append((block, terminal, shown))
                terminal.wait_for(shown)
            else:
                yield from _compare(block, terminal, shown)
    for block, terminal, shown in running:
        yield from _compare(block, terminal, shown)


def _edit(file: Path, lines: str) -> None:
    """Set keys of a TOML file, also those that are comments, to what the lines say."""
    text = file.read_text()
    for line in lines.splitlines():
        key = line.partition(" = ")[0]
        text, number = re.subn(
            rf"^#?{key} = .*$", line.replace("\\", r"\\"), text, flags=re.MULTILINE
        )
        assert number == 1, f"{file} has no {key}"
    file.write_text(text)


def _commands(block: Block) -> Iterator[tuple[str, tuple[str, ...]]]:
    if block.language == "python":
        yield f"python -c {shlex.quote(block.text)}", ()
        return
    for step in steps_of(block):
        yield step.command, step.shown


def _compare(block: Block, terminal: Terminal, shown: tuple[str, ...]) -> Iterator[str]:
    code, printed = terminal.wait()
    line = difference(shown, printed.splitlines())
    if code != int(block.words.get("exit", "0")) or line is not None:
        expected = "" if line is None else f"\nThe document shows this line: {line}"
        yield f"{block}:\n{block.text}\n{printed}(exit {code}){expected}"
