"""Options in the environment and in TOML files have the names that they have on the command line.

``--planner-option`` of ``fedfs init`` is ``FEDFS_INIT_PLANNER_OPTION``, and ``planner_option`` in
the table ``[init]``; click alone would take the name of the function's argument.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fedfs.errors import UserError


def spelled(option: click.Option) -> str:
    """Return an option's first long name as a name of a variable: ``planner_option``."""
    return next(name for name in option.opts if name.startswith("--"))[2:].replace("-", "_")


def name_variables(command: click.Command, prefix: str) -> None:
    """Let every option of a command, and of those below it, be set by a variable of its name."""
    for option in _options(command).values():
        option.envvar = f"{prefix}_{spelled(option)}".upper()
    for name, child in getattr(command, "commands", {}).items():
        name_variables(child, f"{prefix}_{name.replace('-', '_')}")


def as_defaults(table: Mapping[str, Any], command: click.Command, path: str) -> dict[str, Any]:
    """Return a configuration file in the shape of click's ``default_map``.

    Args:
        table: content of the file, or of one of its tables.
        command: the command that the table is about.
        path: how people call it.

    Raises:
        UserError: there is no such command or option.
    """
    commands, options = getattr(command, "commands", {}), _options(command)
    out: dict[str, Any] = {}
    for name, value in table.items():
        if name in commands and isinstance(value, Mapping):
            out[name] = as_defaults(value, commands[name], f"{path} {name}")
            continue
        option = options.get(name.replace("-", "_"))
        if option is None or option.name is None:
            known = ", ".join(sorted({**commands, **options}))
            raise UserError(
                f"The configuration names {name!r}, which {path} does not have.",
                hint=f"it has {known}",
            )
        out[option.name] = value
    return out


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by their names; none that only shows a text."""
    return {
        spelled(option): option
        for option in command.params
        if isinstance(option, click.Option) and not option.is_eager
    }


def load_toml(path: Path) -> Mapping[str, Any]:
    """Return the content of a configuration file: a table for each command.

    Raises:
        UserError: missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
