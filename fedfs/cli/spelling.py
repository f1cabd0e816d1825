"""Options in the environment and in TOML files have the names that they have on the command line.

``--planner-option`` of ``fedfs init`` is ``FEDFS_INIT_PLANNER_OPTION``, and ``planner_option`` in
the table ``[init]``; click alone would take the name of the function's argument. ``FEDFS_SITE`` is
``--site`` of every command.

A value is checked where its file is read, so that an error names the file, the line and the key.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fedfs.errors import FedfsError, UserError
from fedfs.roles.toml_file import TomlFile

SITE = "FEDFS_SITE"
NAMED_PLACE = "[NAME=]MODEL"
"""Metavar of an option that takes a path, and a name for it where it has none of its own."""


def spelled(option: click.Option) -> str:
    """Return an option's first long name as a name of a variable: ``planner_option``."""
    return next(name for name in option.opts if name.startswith("--"))[2:].replace("-", "_")


def name_variables(command: click.Command, prefix: str) -> None:
    """Let every option of a command, and of those below it, be set by a variable of its name."""
    for option in options_of(command).values():
        own = f"{prefix}_{spelled(option)}".upper()
        option.envvar = [own, SITE] if spelled(option) == "site" else own
    for name, child in getattr(command, "commands", {}).items():
        name_variables(child, f"{prefix}_{name.replace('-', '_')}")


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by their names; none that only shows a text."""
    return {
        spelled(option): option
        for option in command.params
        if isinstance(option, click.Option) and not option.is_eager
    }


def as_defaults(
    file: TomlFile, command: click.Command, *tables: str, base: Path | None = None
) -> dict[str, Any]:
    """Return a table of a file in the shape of click's ``default_map``.

    Args:
        file: to read.
        command: the command that the table is about.
        tables: names of the tables in the file, from the outermost to this one.
        base: folder to which paths are relative; None for the folder that the process works in.

    Raises:
        UserError: there is no such command or option, a value cannot be used, or an option is
            there twice.
    """
    commands, options = getattr(command, "commands", {}), options_of(command)
    table: Any = file.table
    for name in tables:
        table = table[name]
    path = " ".join(("fedfs", *tables)) if commands or tables else f"fedfs {command.name}"
    out: dict[str, Any] = {}
    spellings: dict[str, str] = {}
    for name, value in table.items():
        if name in commands and isinstance(value, Mapping):
            out[name] = as_defaults(file, commands[name], *tables, name)
            continue
        option = options.get(name.replace("-", "_"))
        if option is None or option.name is None:
            error = _unknown(file.at(*tables, name), name, path, [*commands, *options])
            if not commands and isinstance(value, Mapping):
                error.hint = "its options stand in no table of their own"
            raise error
        if option.name in spellings:
            raise UserError(
                f"{file.at(*tables, name)}, gives {name} a second time, after "
                f"{spellings[option.name]} on line {file.line((*tables, spellings[option.name]))}.",
                hint="keep one of them",
            )
        spellings[option.name] = name
        try:
            out[option.name] = checked(option, value, command, base)
        except ValueError as error:
            raise UserError(f"{file.at(*tables, name)}: {name} {error}.") from None
        except FedfsError as error:
            hint = error.hint
            raise UserError(f"{file.at(*tables, name)}: {name}: {error}", hint=hint) from error
    return out


def _unknown(at: str, name: str, path: str, known: Sequence[str]) -> UserError:
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    hint = f"is {close[0]} meant?" if close else f"it has {', '.join(sorted(known))}"
    return UserError(f"{at}, names {name!r}, which {path} does not have.", hint=hint)


def checked(
    parameter: click.Parameter, value: Any, command: click.Command, base: Path | None = None
) -> Any:
    """Return a value of a TOML file as click takes it for a parameter.

    Args:
        parameter: an option or argument.
        value: as TOML has it; of an option that takes ``NAME=NUMBER`` also a table.
        command: whose parameter it is.
        base: folder to which paths are relative; None to leave them as they are.

    Raises:
        ValueError: it cannot be used; with the predicate of a sentence about it.
    """
    values = list(_texts(parameter, value))
    if base is not None and _is_place(parameter):
        values = [_beneath(base, one) for one in values]
    several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    given = values if several else values[0]
    try:
        parameter.process_value(click.Context(command), given)
    except click.BadParameter as error:
        raise ValueError(f"cannot be {value!r}: {error.message.rstrip('.')}") from None
    return given


def _texts(parameter: click.Parameter, value: Any) -> Iterator[Any]:
    several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    if several and isinstance(value, Mapping):
        value = [f"{name}={number}" for name, number in value.items()]
    for one in value if several and isinstance(value, list) else [value]:
        yield _scalar(parameter, one)


def _scalar(parameter: click.Parameter, value: Any) -> Any:
    if isinstance(value, str):
        if "<" in value and ">" in value:
            raise ValueError(f"still has the placeholder {value!r}")
        return value
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError(f"cannot be {value!r}: it is either true or false")
    elif isinstance(parameter.type, type(click.INT)):
        if type(value) is not int:
            raise ValueError(f"cannot be {value!r}: it is a whole number")
    elif isinstance(parameter.type, type(click.FLOAT)):
        if type(value) not in {int, float}:
            raise ValueError(f"cannot be {value!r}: it is a number")
    elif type(value) is int:  # fold = 0
        return str(value)
    else:
        raise ValueError(f"cannot be {value!r}: it is a text, in quotes")
    return value


def _is_place(parameter: click.Parameter) -> bool:
    is_store = parameter.name == "store" or parameter.metavar == "STORE"
    return is_store or parameter.metavar == NAMED_PLACE or isinstance(parameter.type, click.Path)


def _beneath(base: Path, place: str) -> str:
    name, sign, path = place.partition("=")
    if sign and "/" not in name:
        return f"{name}={_beneath(base, path)}"
    return place if "://" in place else str(base / Path(place).expanduser())
