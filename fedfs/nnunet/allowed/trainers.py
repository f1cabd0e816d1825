"""Trainers that are not nnunetv2's own, where the operator of this host allows them.

Rules:
 * A name from the store selects nothing by itself: it must be one that this host's operator has
   given (``--allow-trainer``). The permission is an argument of each call and is kept nowhere.
 * nnU-Net's own search looks for them, below the folders that ``nnUNet_extTrainer`` names on this
   host. It imports the modules that it finds there, until one has the name; without the permission
   it is not begun.
 * The code that runs is this host's own copy. Its file and hash go to the log, for people to
   compare between sites.
"""

import logging
import os
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from fedfs.errors import SetupError
from fedfs.nnunet.system import files

log = logging.getLogger(__name__)

FOLDERS = "nnUNet_extTrainer"
"""nnU-Net's variable: folders, separated as in ``PATH``."""


def find(name: str, allowed: Collection[str], base: type[Any]) -> type[Any]:
    """Return a trainer class that nnunetv2 does not have.

    Args:
        name: an identifier.
        allowed: names that this host's operator allows.
        base: nnU-Net's trainer.

    Raises:
        SetupError: it is not allowed here, not there, cannot be imported, or is no trainer.
    """
    if name not in allowed:
        raise SetupError(
            f"nnunetv2 {metadata.version('nnunetv2')} has no trainer {name}, and this host's "
            "operator has not allowed one from elsewhere.",
            hint=f"get the trainer's source from the coordinator and read it, put it below the "
            f"folder that {FOLDERS} names, and give --allow-trainer {name}",
        )
    folders = [text for text in os.environ.get(FOLDERS, "").split(os.pathsep) if text.strip()]
    for folder in folders:
        found = _search(folder, name) if Path(folder).is_dir() else None
        if found is None:
            continue
        if not (isinstance(found, type) and issubclass(found, base) and found.__name__ == name):
            raise SetupError(
                f"{name} below {folder} is not a class made from {base.__name__}.",
                hint="derive the trainer from nnUNetTrainer, or choose another --trainer",
            )
        return found
    where = os.pathsep.join(folders) or "not set"
    raise SetupError(
        f"There is no trainer {name} below {FOLDERS}, which is {where}.",
        hint="nnU-Net looks in its own package, and then in the folders of this variable",
    )


def _search(folder: str, name: str) -> Any:
    """Return what nnU-Net's search finds in a folder; None if that is nothing."""
    from nnunetv2.utilities.find_class_by_name import (
        recursive_find_python_class,
        temporarily_cleanup_imports_from_path,
    )

    # Afterwards nnU-Net forgets the modules of a folder, so that those of the next may have the
    # same names; here that happens after a look at the file.
    with temporarily_cleanup_imports_from_path(folder):
        try:
            found = recursive_find_python_class(folder, name, None, base_folder=folder)
        except (ImportError, SyntaxError) as error:
            raise SetupError(
                f"A module below {FOLDERS} = {folder} cannot be imported: {error}.",
                hint="nnU-Net imports them until one has the trainer: install what it needs, or "
                "move it away",
            ) from error
        module = sys.modules.get(getattr(found, "__module__", ""))
        source = getattr(module, "__file__", None)
        if source is not None:
            log.info(
                "trainer %s: %s, sha256 %s", name, source, files.file_sha256(Path(source))[:16]
            )
    return found
