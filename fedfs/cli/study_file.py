"""A study in a file: its template, and the values that ``fedfs init`` takes from it.

Rules:
 * The template is made from the options of ``fedfs init``, in the sections of its help, so that
   none can be forgotten. What has to be filled in is open; every other key is a comment that shows
   the default.
 * Options on the command line and in the environment count more than the file, the file more than
   the configuration files of the host.
 * Paths in the file are relative to it.
"""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from fedfs.cli.command import OUTPUT, REQUIRED, S3, SECTIONS, argument, option, section_of
from fedfs.cli.options import FILE, number_pairs
from fedfs.cli.spelling import as_defaults, options_of, spelled
from fedfs.cli.store_words import GIVEN
from fedfs.errors import FedfsError, RejectedError, UserError
from fedfs.roles.toml_file import TomlFile

OPEN = "<fill in>"
"""Stands in a template where a value has to be written."""

_FILE = "fedfs.study_file"
_NEEDED = ("name", "dataset_json")
_HEAD = f"""\
# A study of fedfs. Write a value where it says {OPEN}. A key after a "#" shows the default:
# remove the "#" to change it. Paths are relative to this file. Numbers with names stand in braces:
# policy_option = {{sites = 3, grace_minutes = 30}}. See what the file makes, then start the study:
#
#   fedfs init STORE study.toml --dry-run
#   fedfs init STORE study.toml
"""


def study_file_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument STUDY.TOML, whose values become defaults, and ``--template``."""
    file = argument(
        "study_file",
        metavar="[STUDY.TOML]",
        required=False,
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="Options of this study in a file; those on the command line count more.",
    )
    template = option(
        "--template",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_template,
        help="Print a STUDY.TOML to fill in, with all options, and those given here; then exit.",
    )
    return file(template(command))


def template_of(command: click.Command, given: Mapping[str, Any]) -> str:
    """Return the text of a template.

    Args:
        command: whose options it has.
        given: name of an option in the code -> value on the command line.
    """
    context = click.Context(command)
    options = [one for one in options_of(command).values() if section_of(one) not in {OUTPUT, S3}]
    blocks = [_HEAD]
    for title in SECTIONS:
        of_section = [one for one in options if _section(one) == title]
        if of_section:
            blocks.append(f"# ---- {title} ----\n")
            of_section.sort(key=lambda one: spelled(one) not in _NEEDED)
            blocks += ["\n".join(_entry(one, context, given)) + "\n" for one in of_section]
    return "\n".join(blocks)


def located(error: FedfsError) -> FedfsError:
    """Return an error about options, with their places in the study file if they are from there."""
    context = click.get_current_context()
    file: TomlFile | None = context.meta.get(_FILE)
    if file is None:
        return error
    from_file = click.core.ParameterSource.DEFAULT_MAP
    names = {one.name: spelled(one) for one in options_of(context.command).values()}
    places = [
        f"line {file.line([key])} ({key})"
        for name in error.options
        if context.get_parameter_source(name) is from_file
        for key in file.table
        if key.replace("-", "_") == names.get(name)
    ]
    if places and not isinstance(error, RejectedError):
        error.args = (f"{file.path}, {' and '.join(places)}: {error}",)
    return error


def _section(one: click.Option) -> str:
    """Return the section of an option; what is required stands among its like, not apart."""
    return str(getattr(one, "section", REQUIRED))


def _read(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    file = TomlFile.read(path)
    values = as_defaults(file, context.command, base=path.parent)
    context.meta[_FILE] = file
    context.default_map = {**(context.default_map or {}), **values}
    _require_needed(context, path)


def _require_needed(context: click.Context, path: Path) -> None:
    """Check that what every study needs is in its file, or given otherwise.

    Raises:
        UserError: it is not.
    """
    options = options_of(context.command)
    known = {**(context.default_map or {}), **context.meta.get(GIVEN, {})}
    for key in _NEEDED:
        is_set = options[key].name in known or options[key].resolve_envvar_value(context)
        has_its_own = key == "dataset_json" and ("continued" in known or "evaluate" in known)
        if not is_set and not has_its_own:
            hint = f"write {key} = ... into it, or give --{key.replace('_', '-')}"
            raise UserError(f"{path} has no {key}, which every study needs.", hint=hint)


def _print_template(context: click.Context, _parameter: click.Parameter, value: object) -> None:
    if value and not context.resilient_parsing:
        click.echo(template_of(context.command, context.meta.get(GIVEN, {})), nl=False)
        context.exit()


def _entry(one: click.Option, context: click.Context, given: Mapping[str, Any]) -> Iterator[str]:
    record = one.get_help_record(context)
    text = (one.help or "") if record is None else record[1].partition("  [")[0]
    if isinstance(one.type, click.Choice):
        text += f" One of {', '.join(one.type.choices)}."
    text = text.removesuffix(" Repeatable.")
    yield from textwrap.wrap(
        text, 96, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    key, default = spelled(one), one.to_info_dict()["default"]
    if one.name in given:
        value = one.process_value(context, given[one.name])
        yield f"{key} = {_toml(value)}"
    elif key in _NEEDED:
        yield f"{key} = {_toml(OPEN)}"
    else:
        yield f"#{key} = {_toml(_example(one) if default is None else default)}"


def _example(one: click.Option) -> Any:
    """Return what stands for the value of an option without a default."""
    if one.callback is number_pairs:
        return {}
    if one.is_flag:
        return False
    if one.multiple:
        return []
    if one.nargs > 1:
        return [f"<{word}>" for word in str(one.metavar).split()]
    if isinstance(one.type, click.Path):
        return "<path>"
    is_number = isinstance(one.type, type(click.INT) | type(click.FLOAT))
    return f"<{one.metavar or ('number' if is_number else 'text')}>"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False)
