"""A TOML file that people write, and the line of each of its keys for messages about it."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import UserError

_HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?")
_KEY = re.compile(r"\s*([\w\"'.-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")
_HINT = "beside such a table the site's name is written so: [site] and, below it, name = ..."
_AT_LINE = re.compile(r"(.*) \(at line (\d+), column \d+\)")


@dataclass(frozen=True)
class TomlFile:
    """A TOML file with its text.

    Attributes:
        path: where it is.
        text: its content, which has the lines.
        table: its content, parsed.
    """

    path: Path
    text: str
    table: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "TomlFile":
        """Return the content of a file.

        Raises:
            UserError: it cannot be read, or is not TOML.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"Cannot read {path}: {error.strerror}.", hint="check the path and its permissions"
            ) from error
        return cls.parse(path, data)

    @classmethod
    def parse(cls, path: Path, data: bytes) -> "TomlFile":
        """Return the content of a file whose bytes have been read.

        Raises:
            UserError: it is not TOML.
        """
        try:
            text = data.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not TOML: it is not UTF-8.") from error
        try:
            return cls(path, text, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise _not_toml(path, text, str(error)) from error

    def at(self, *keys: str) -> str:
        """Return where a key is: ``study.toml, line 3``; the file alone where it is not found.

        Args:
            keys: the tables above it, and the key, as they are spelled in the file.
        """
        number = self.line(keys)
        return str(self.path) if number is None else f"{self.path}, line {number}"

    def line(self, keys: Sequence[str]) -> int | None:
        """Return the number of the line on which a key or table begins; None if not found."""
        here: tuple[str, ...] = ()
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                here = found = _parts(header[1])
            elif key := _KEY.match(line):
                found = (*here, *_parts(key[1]))
            else:
                continue
            if found[: len(keys)] == tuple(keys):
                return number
        return None


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _not_toml(path: Path, text: str, message: str) -> UserError:
    match = _AT_LINE.fullmatch(message)
    if match is None:  # such as "at end of document"
        return UserError(f"{path} is not TOML: {message}.")
    number = int(match[2])
    line = text.splitlines()[number - 1].strip() if number <= text.count("\n") + 1 else ""
    text = f"{path}, line {number}, is not TOML: {match[1]}: {line}"
    return UserError(text, hint=_HINT if line.startswith("[site") else "")
