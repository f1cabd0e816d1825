"""A site's own models stay as they are: a fold's folder belongs to one study, or to nobody yet.

nnU-Net overwrites whatever model of the same trainer, plan, configuration and fold is there, and
the site may have trained one before the study. So the folder is marked before nnU-Net writes to it.

Rules:
 * The mark is a hidden file in the fold's folder, and goes where the folder is moved to.
 * It names fedfs's own folder for the study and site, relative to itself: the same when
   ``nnUNet_results`` is mounted elsewhere.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import SetupError
from fedfs.nnunet.allowed.classes import fold_of
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files

MARK = ".fedfs.json"


def claim(model: Path, plans: Mapping[str, Any], settings: LearnerSettings) -> None:
    """Reserve the fold's folder for this study.

    Args:
        model: nnU-Net's folder of the trainer, plan and configuration.
        plans: as adopted.
        settings: of the site's learner.

    Raises:
        SetupError: there is a model of another plan of the same name, or one of this plan that
            this study did not make.
    """
    path = model / "plans.json"
    if path.exists() and read_json(path) != json.loads(json.dumps(plans)):
        raise SetupError(
            f"{model} holds a model of another plan of the same name.", hint="move it away"
        )
    fold = model / f"fold_{fold_of(settings.fold)}"
    mark = {"made_by": os.path.relpath(settings.state_dir.absolute(), fold.absolute())}
    if (fold / MARK).exists() and read_json(fold / MARK) == mark:
        return
    found = sorted(path.name for path in fold.glob("*.pth"))
    if found:
        raise SetupError(
            f"{fold} holds a model that this study did not make ({found[0]}).",
            hint="move the folder away: the study would overwrite it",
        )
    files.write_json(fold / MARK, mark)
