"""Options that decide a simulation, kept in its folder, in which it goes on after a stop."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.roles.lock import hold_lock
from fedfs.store.local_files import replacing

OPTIONS_FILE = "options.json"


@contextlib.contextmanager
def keep_options(
    folder: Path,
    what: str,
    options: Mapping[str, Any],
    begin_anew: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold a folder, and note what decides the results; what is there has to be of the same.

    Args:
        folder: of the simulation.
        what: what it is, for errors.
        options: name -> value, of JSON.
        begin_anew: called where others are noted; empties the folder and returns True if nothing
            of worth was made with them.

    Raises:
        UserError: it was begun with others, or another process is at work in it.
    """
    path = folder / OPTIONS_FILE
    with hold_lock(folder / "lock") as holder:
        if holder:
            raise UserError(
                f"{holder} runs the {what} in {folder} already.",
                hint="wait for it, or choose another folder",
            )
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else options
        if before != options and begin_anew():
            before = options
        for name, value in options.items():
            if before.get(name) != value:
                raise UserError(
                    f"The {what} in {folder} has {name} {before.get(name)}, not {value}.",
                    hint="give the same as before, or another folder",
                )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(options, indent=1), encoding="utf-8")
        yield
