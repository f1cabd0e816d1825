"""Configuration files of a host: the one of the system, the user's, and the one of ``--config``.

::

    store = "/mnt/share/organ"

    [site]
    name = "north"

    [site.run]
    device = "cuda"
    poll_interval = 2.0

Rules:
 * What is nearer counts: command line, environment, ``--config``, the user's file, the system's.
 * ``store`` and ``site`` serve every command; beside tables such as ``[site.run]`` the site is
   ``name`` in the table ``[site]``, as TOML has no table beside a text of the same name.
 * A file that is not there is passed over; one with a mistake is an error, whoever wrote it.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from fedfs.cli.spelling import as_defaults, checked, spelled
from fedfs.errors import UserError
from fedfs.roles.toml_file import TomlFile

_FILES = "fedfs.files"


def configure(context: click.Context, given: Path | None) -> None:
    """Let the configuration files of this host, and one that is given, set options.

    Raises:
        UserError: one of them has a mistake, or the given one is not there.
    """
    paths = [path for path in host_files() if os.path.lexists(path)]
    files = [TomlFile.read(path) for path in (*paths, *([] if given is None else [given]))]
    context.meta[_FILES] = [file.path for file in files]
    context.default_map = defaults_of(files, context.command)


def files_read(context: click.Context) -> list[Path]:
    """Return the configuration files that were read, the nearest last."""
    return list(context.meta.get(_FILES, []))


def host_files() -> list[Path]:
    """Return the configuration files of this host, the nearest last; they need not be there."""
    from fedfs.trust.home import default_home, system_file

    return [*([system] if (system := system_file()) else []), default_home() / "fedfs.toml"]


def defaults_of(files: list[TomlFile], root: click.Command) -> dict[str, Any]:
    """Return what files say as click's ``default_map``; a later file counts more.

    Raises:
        UserError: a file names what is not there, or has a value that cannot be used.
    """
    defaults: dict[str, Any] = {}
    for file in files:
        defaults = _merged(defaults, _of_file(file, root))
    return defaults


def _of_file(file: TomlFile, root: click.Command) -> dict[str, Any]:
    """Return the defaults of one file: first what serves every command, then its tables."""
    shared: dict[str, tuple[str, str, Any]] = {}
    table = dict(file.table)
    for key in ("store", "site"):
        if key in table and not isinstance(table[key], Mapping):
            shared[key] = (file.at(key), key, table.pop(key))
    if "name" in table.get("site", {}):
        of_site = dict(table["site"])
        shared["site"] = (file.at("site", "name"), "name", of_site.pop("name"))
        table["site"] = of_site
    spread: dict[str, Any] = {}
    for path, command in leaves(root):
        for parameter in command.params:
            kind = _shared(parameter)
            if kind not in shared:
                continue
            at, key, value = shared[kind]
            base = file.path.absolute().parent if kind == "store" else None
            try:
                found = checked(parameter, value, command, base)
            except ValueError as error:
                raise UserError(f"{at}: {key} {error}.") from None
            spread = _merged(spread, _nested(path, {str(parameter.name): found}))
    return _merged(spread, as_defaults(TomlFile(file.path, file.text, table), root))


def _shared(parameter: click.Parameter) -> str:
    """Return ``store`` or ``site`` for a parameter that every command has under this name."""
    if isinstance(parameter, click.Argument):
        return "store" if parameter.name == "store" else ""
    is_site = isinstance(parameter, click.Option) and spelled(parameter) == "site"
    return "site" if is_site else ""


def leaves(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the commands that do something, each with the words that call it."""
    commands = getattr(command, "commands", None)
    if commands is None:
        yield path, command
        return
    for name, child in commands.items():
        yield from leaves(child, *path, name)


def _nested(path: tuple[str, ...], content: dict[str, Any]) -> dict[str, Any]:
    for word in reversed(path):
        content = {word: content}
    return content


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map of maps in which what is in ``high`` counts more."""
    out = dict(low)
    for name, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = _merged(out[name], value) if both else value
    return out
