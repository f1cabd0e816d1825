"""The study that the documents tell: their blocks in order of time, run on hosts in a sandbox.

All ``console`` and ``python`` blocks together are one small study on made-up images. A block says
``on`` which host and ``at`` which moment it is run; within a moment README comes first, then the
other pages by name, each from top to bottom. What several pages say of one moment, with the same
exit code, is done once.

A host has its own home folder, keys and nnU-Net folders (:class:`fedfs.simulation.hosts.Host`).
``/mnt``, ``/media`` and ``/data`` are folders of the sandbox. That the network is tiny and trained
on the CPU is set in the environment, so that the documents need not say it.

A line that is one command of fedfs is run in the process of the test, and everything else by bash.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfs.cli import main
from fedfs.simulation import phantoms
from fedfs.simulation.cases import place_dataset, read_cases
from fedfs.simulation.hosts import Host
from support.code_blocks import DOCUMENTS, Block, blocks_of, difference, steps_of
from support.one_process import call

MOMENTS = (
    "decide",
    "start",
    "join",
    "approve",
    "fingerprint",
    "plan",
    "train",
    "combine",
    "look",
    "change",
)
DATASET = "Dataset042_Organ"
N_CASES = {"north": 12, "south": 9}
HOSTS = ("coordinator", "north", "south", "east", "auditor", "researcher")
TIMEOUT_S = 300.0

_TINY = {
    "FEDFS_INIT_GPU_MEMORY_TARGET": "0.02",
    "FEDFS_INIT_PLANNER_OPTION": "UNet_base_num_features=8 UNet_max_features_2d=16",
    "FEDFS_INIT_VAL_ITERATIONS": "1",
    "FEDFS_DOCTOR_NUM_PROCESSES": "1",
    "FEDFS_SITE_RUN_DEVICE": "cpu",
    "FEDFS_SITE_RUN_NUM_PROCESSES": "1",
}


@dataclass(frozen=True)
class Deed:
    """One command of one block, what is shown below it, and the exit code that it has."""

    block: Block
    words: tuple[str, ...]
    shown: tuple[str, ...]
    code: int

    @property
    def host(self) -> str:
        """Where it is done."""
        return self.block.words["on"]


class Sandbox:
    """Hosts of a study in a folder, with images, that share ``/mnt`` and ``/media``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = folder / "images"
        phantoms.write_dataset(images, n_cases=N_CASES, seed=1)
        self.hosts = {name: Host(name, folder / "home" / name).make() for name in HOSTS}
        for place in ("mnt/share", "media/stick", "data"):
            (folder / place).mkdir(parents=True)
        for site, cases in read_cases(images).items():
            place_dataset(images, self.hosts[site].raw / DATASET, cases)
        shutil.copy(images / "dataset.json", self.hosts["coordinator"].folder)
        self._give_east_another_label(images)
        self._last = ("", 0)
        """Host of the last command, and the second in which it ended."""

    def _give_east_another_label(self, images: Path) -> None:
        """A site whose dataset disagrees: what others call a lesion is a tumour there."""
        raw = self.hosts["east"].raw / DATASET
        place_dataset(images, raw, read_cases(images)["north"][:2])
        dataset = json.loads((raw / "dataset.json").read_text())
        dataset["labels"] = {"background": 0, "organ": 1, "tumour": 2}
        (raw / "dataset.json").write_text(json.dumps(dataset))

    def do(self, deed: Deed) -> tuple[int, str]:
        """Do it; return the exit code and all that was printed, as the documents write paths."""
        host = self.hosts[deed.host]
        name, second = self._last
        while name not in ("", deed.host) and int(time.time()) == second:
            time.sleep(0.05)  # the log orders what two hosts did in one second by their names
        environment = {
            **host.environment(),
            **_TINY,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        words = [self._placed(word) for word in deed.words]
        command = only_command(words[-1]) if words[0] == "bash" else []
        if command[:1] == ["fedfs"]:
            code, printed, _ = call(main, *command, env=environment, cwd=host.folder, in_order=True)
        else:
            done = subprocess.run(
                words, env=environment, cwd=host.folder,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                text=True, check=False, timeout=TIMEOUT_S,
            )  # fmt: skip
            code, printed = done.returncode, done.stdout
        self._last = (deed.host, int(time.time()))
        return code, printed.replace(f"{self.folder}/", "/")

    def _placed(self, text: str) -> str:
        return re.sub(r"(?<![\w./])/(mnt|media|data)/", rf"{self.folder}/\1/", text)


def only_command(text: str) -> list[str]:
    """Return the words of a shell line that is one command without redirection, or no words."""
    line = text.replace("\\\n", " ").strip()
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    is_plain = "\n" not in line and not any(set(word) & set("|&;()<>$`*?") for word in words)
    return words if is_plain else []


def deeds_of(block: Block) -> Iterator[Deed]:
    """Yield what a block does."""
    code = int(block.words.get("exit", "0"))
    if block.language == "python":
        yield Deed(block, ("python", "-c", block.text), ("...",), code)
        return
    steps = steps_of(block)
    for step in steps:
        words = ("bash", "-o", "pipefail", "-c", step.command)
        yield Deed(block, words, step.shown, code if step is steps[-1] else 0)


def story(documents: Sequence[Path] = DOCUMENTS) -> list[Deed]:
    """Return all that the documents do, in order of time."""
    blocks = [block for path in documents for block in blocks_of(path) if "at" in block.words]
    blocks.sort(key=lambda block: MOMENTS.index(block.words["at"]))  # stable
    return [deed for block in blocks for deed in deeds_of(block)]


def walk(folder: Path, deeds: Sequence[Deed]) -> Iterator[str]:
    """Do everything in a new sandbox; yield what is not as the documents show it."""
    sandbox = Sandbox(folder)
    done: dict[tuple[str, ...], tuple[int, str]] = {}
    for deed in deeds:
        key = (deed.block.words["at"], deed.host, str(deed.code), *deed.words)
        if key not in done:
            done[key] = sandbox.do(deed)
        code, printed = done[key]
        line = difference(deed.shown, printed.splitlines())
        if code != deed.code or line is not None:
            expected = f"exit {deed.code}" if line is None else f"this line: {line}"
            yield (
                f"{deed.block}: on {deed.host}\n$ {deed.words[-1]}\n{printed}"
                f"(exit {code})\nThe document shows {expected}"
            )
