"""The code blocks of the documents, and the rule of each language.

A fence's first word is the language, words after it (``on=north at=join``) are for the tests; code
hosts do not show them, and ``docs/hooks.py`` takes them away for the site.

| language | rule |
|---|---|
| ``console`` | each ``$ `` line is run: ``on`` a host, ``at`` a moment (:mod:`support.story`); what is shown is what it prints, ``exit`` its code, default 0 |
| ``python`` | is run, ``on`` a host, ``at`` a moment |
| both, with ``terminal`` | typed into a terminal of the page's own test (:mod:`support.terminals`) |
| ``sh``, ``cron`` | cannot be run here: bash can read it, fedfs understands its command lines, scripts and targets of make exist |
| ``toml`` | a configuration file of fedfs, ``of=study`` a study's, ``of=policy`` a site's policy, ``of=trace`` a trace; its commands, options and keys exist |
| ``json``, ``yaml``, ``ini`` | can be parsed |
| ``text`` | a picture, nothing that anybody types |

Shown output: ``...`` alone stands for lines that are left out, within a line for a part of it.
Numbers, times and hashes are free, and so is the width of columns; every other word has to be there.
"""  # noqa: E501  a table

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from unittest.mock import patch

import click
import yaml

from fedfs.cli import fedfs
from fedfs.cli.configuration import defaults_of
from fedfs.cli.spelling import as_defaults
from fedfs.errors import FedfsError
from fedfs.roles.site.policy.file import read_policy
from fedfs.roles.toml_file import TomlFile
from fedfs.simulation.virtual.trace import parse_trace
from support.command_lines import understood

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
)

_FENCE = re.compile(r"^( *)```(.*)$")
_FREE = re.compile(
    r"[0-9]{4}-[0-9-]+T[0-9:]+Z?"  # a time
    r"|(?<![a-z])[0-9a-f]{4}(?![a-z])"  # a part of a fingerprint
    r"|[+]?[0-9a-f]*[0-9][0-9a-f]*(?:[.,:][0-9]+)*"  # a number or a hash
)


class BrokenRuleError(Exception):
    """A block does not keep the rule of its language."""


@dataclass(frozen=True)
class Block:
    """A fenced block; ``words`` are those after the language, ``line`` is that of the fence."""

    path: Path
    line: int
    language: str
    words: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command of a ``console`` block, and the output shown below it."""

    command: str
    shown: tuple[str, ...]


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a document."""
    fence, info, first = None, "", 0
    lines: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = _FENCE.match(line)
        if fence is None and match:
            fence, info, first, lines = match[1], match[2], number, []
        elif fence is not None and line == f"{fence}```":
            language, _, rest = info.partition(" ")
            words = dict(word.partition("=")[::2] for word in rest.split())
            yield Block(path, first, language, words, dedent("\n".join(lines)) + "\n")
            fence = None
        else:
            lines.append(line)
    if fence is not None:
        raise BrokenRuleError(f"{path}:{first} does not end")


def steps_of(block: Block) -> list[Step]:
    """Return the commands of a ``console`` block with their output."""
    steps: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append(([line[2:]], []))
        elif not steps:
            raise BrokenRuleError(f"{block} begins with output")
        elif not steps[-1][1] and steps[-1][0][-1].endswith("\\"):
            steps[-1][0].append(line)
        else:
            steps[-1][1].append(line)
    return [Step("\n".join(command), _trimmed(shown)) for command, shown in steps]


def _trimmed(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple("\n".join(lines).strip("\n").splitlines())


def difference(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """Return the first shown line that was not printed where it is shown; None if all were."""
    rest = list(_trimmed(printed))
    skip = False
    for line in shown:
        if line.strip() == "...":
            skip = True
            continue
        pattern = _pattern(line)
        while skip and rest and not pattern.fullmatch(rest[0].rstrip()):
            rest.pop(0)
        if not rest or not pattern.fullmatch(rest[0].rstrip()):
            return line
        rest.pop(0)
        skip = False
    return None if skip or not rest else f"(nothing more, but there is: {rest[0]})"


def _pattern(line: str) -> re.Pattern[str]:
    words = []
    for word in line.replace("...", "\0").split():
        parts = (re.escape(part) for part in _FREE.split(word))
        words.append(r"[0-9a-fTZ.,:+-]+".join(parts).replace("\0", ".*"))
    return re.compile(r"\s*" + r"\s+".join(words))


def check(block: Block) -> None:
    """Check what can be checked of a block without running it.

    Raises:
        BrokenRuleError: it does not keep its rule, or there is none.
    """
    if block.language not in _CHECKS:
        raise BrokenRuleError(f"{block}: there is no rule for the language {block.language!r}")
    try:
        _CHECKS[block.language](block)
    except (
        BrokenRuleError, click.ClickException, FedfsError, SyntaxError, ValueError, KeyError,
        IndexError, yaml.YAMLError, configparser.Error,
    ) as error:  # fmt: skip
        said = error.format_message() if isinstance(error, click.ClickException) else error
        raise BrokenRuleError(f"{block}: {said}") from error


def _check_console(block: Block) -> None:
    _check_place(block)
    for step in steps_of(block):
        _check_shell(step.command)


def _check_python(block: Block) -> None:
    _check_place(block)
    compile(block.text, str(block), "exec")


def _check_place(block: Block) -> None:
    words = block.words.keys()
    if {"terminal"} <= words <= {"terminal", "until", "exit"}:
        return
    if not {"on", "at"} <= words <= {"on", "at", "exit"}:
        raise BrokenRuleError(
            "say on=HOST and at=MOMENT, or terminal=NAME, and exit=CODE where it is not 0"
        )


def _check_cron(block: Block) -> None:
    for line in block.text.splitlines():
        _check_shell(line.split(maxsplit=5)[5])


def _check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokenRuleError(done.stderr.strip())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in simple_commands(text):
        if words[0] == "make" and words[-1] not in targets:
            raise BrokenRuleError(f"make has no target {words[-1]}")
        for word in words:
            # `fedfs deploy print token -o token` writes what is in deploy/token.
            places = (ROOT / word, ROOT / "deploy" / word)
            if re.fullmatch(r"[a-z]\S*/\S+\.py", word) and not any(p.exists() for p in places):
                raise BrokenRuleError(f"there is no {word}")
        arguments = _for_fedfs(words)
        if arguments and not {"-h", "--help", "--version"} & set(arguments):
            with patch.dict(os.environ, _set_before(text)):
                understood(arguments)


def _set_before(text: str) -> dict[str, str]:
    """Return the variables by which a command may leave out its STORE and its site.

    `on HOST COMMAND` is that of examples/first-study.
    """
    names = ("FEDFS_STORE", "FEDFS_SITE")
    has_all = "/fedfs.env" in text or re.match(r"\S+/on ", text)
    return {name: "x" for name in names if has_all or f"{name}=" in text}


def simple_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in shell lines, without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        is_file = False
        for word in lexer:
            if set(word) <= set("|&;()"):
                if words:
                    yield words
                words = []
            elif set(word) <= set("<>"):
                is_file = True
            elif is_file:
                is_file = False
            else:
                words.append(word)
        if words:
            yield words


def _for_fedfs(words: Sequence[str]) -> list[str] | None:
    """Return the arguments that fedfs gets, by itself or as an image; None if it is not called."""
    if words[0] in {"git", "make"}:
        return None
    is_image = "run" in words and words[0] in {"docker", "apptainer"}
    program = r"fedfs:[\d.]+|\S*fedfs\.sif" if is_image else r"fedfs|\S*/bin/fedfs"
    places = [i for i, word in enumerate(words) if re.fullmatch(program, word)]
    if not places:
        return None
    arguments = list(words[places[-1] + 1 :])
    return arguments[2:] if arguments[:1] == ["--config"] else arguments


def _check_toml(block: Block) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(block.text)
        file.flush()
        content = TomlFile.read(Path(file.name))
        if block.words.get("of") == "study":
            as_defaults(content, fedfs.commands["init"])
        elif block.words.get("of") == "policy":
            read_policy(Path(file.name))
        elif block.words.get("of") == "trace":
            parse_trace(content.table, content.at)
        else:
            defaults_of([content], fedfs)


_CHECKS: Mapping[str, Callable[[Block], object]] = {
    "console": _check_console,
    "python": _check_python,
    "sh": lambda block: _check_shell(block.text),
    "cron": _check_cron,
    "toml": _check_toml,
    "json": lambda block: json.loads(block.text),
    "yaml": lambda block: list(yaml.safe_load_all(block.text)),
    "ini": lambda block: configparser.ConfigParser(strict=True).read_string(block.text),
    "text": lambda _: None,
}
