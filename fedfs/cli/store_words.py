"""STORE may be left out of a command line where the environment or a file names it.

Rules, where ``FEDFS_STORE`` or a configuration file names a store:
 * ``fedfs status north``: a command without other words takes the word for its STORE.
 * ``fedfs sync OUTPOST``: a command that needs a number of words has the STORE if there is one
   word more.
 * ``fedfs approve SITES``: the first word is the STORE if it has a slash or begins with ``.`` or
   ``~``, which no site's name does; a folder beside one is ``./north``.
 * ``fedfs init STUDY.TOML``: the first word is the STORE unless it ends with ``.toml``.
"""

from collections.abc import Sequence
from typing import Any

import click

GIVEN = "fedfs.given"
"""Key of a context's ``meta``: the options on the command line, as they were written."""


def with_store(command: click.Command, context: click.Context, args: list[str]) -> list[str]:
    """Return the words of a command line, with the STORE if it is left out and known."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    store = next((one for one in arguments if one.name == "store"), None)
    if store is None or len(arguments) == 1:
        return args  # click itself takes it from the environment or the file
    words, context.meta[GIVEN] = _split(command, context, args)
    known = store.resolve_envvar_value(context) or context.lookup_default("store")
    others = [one for one in arguments if one is not store]
    names_store = _names_store(words, others)
    is_file_alone = bool(words) and not names_store and isinstance(others[0].type, click.Path)
    if known is None and is_file_alone and not context.resilient_parsing:
        raise click.MissingParameter(ctx=context, param=store)
    if known is None or names_store:
        return args
    return [str(known), *args] if arguments[0] is store else [*args, str(known)]


def _split(
    command: click.Command, context: click.Context, args: list[str]
) -> tuple[list[str], dict[str, Any]]:
    """Return what is no option, and the options with their values."""
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    parser = click.Command(None, params=list(options), add_help_option=False).make_parser(context)
    found, words, _ = parser.parse_args(list(args))
    return words, {name: value for name, value in found.items() if value is not None}


def _names_store(words: Sequence[str], others: Sequence[click.Argument]) -> bool:
    if all(one.required and one.nargs > 0 for one in others):
        return len(words) > sum(one.nargs for one in others)
    first = words[0] if words else ""
    if isinstance(others[0].type, click.Path):
        return bool(first) and not first.endswith(".toml")
    return "/" in first or first.startswith((".", "~"))
