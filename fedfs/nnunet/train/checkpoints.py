"""Training state of a site between rounds and across kills: optimizer, epoch, nnU-Net's log.

Rules:
 * nnU-Net's own checkpoint is written under a new name and synced; then a small JSON that names it
   is replaced atomically; then the checkpoint before is deleted. At any instant the JSON names a
   whole checkpoint, or there is none.
 * The JSON carries the checkpoint's SHA-256. A file that does not match is not loaded: the round
   starts over, with a warning.
 * The folder is this host's own. nnU-Net's checkpoints are pickles and never come from elsewhere.
"""

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fedfs.learner import RoundTask
from fedfs.nnunet.system import files

log = logging.getLogger(__name__)

_PROGRESS = "progress.json"


@dataclass(frozen=True)
class RoundProgress:
    """Progress of a round.

    Attributes:
        identity: hash of plan, trainer, configuration and fold that the checkpoint belongs to.
        epochs_done: epochs of this round that the checkpoint contains.
        n_iterations: training iterations of this round.
        checkpoint: file name, "" before the first.
        checkpoint_sha256: of that file.
    """

    identity: str
    version: int
    weights_sha256: str
    epochs_done: int = 0
    n_iterations: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    checkpoint_sha256: str = ""

    def belongs_to(self, task: RoundTask) -> bool:
        """Return whether this is progress of the round ``task``."""
        return (self.version, self.weights_sha256) == (task.version, task.weights_sha256)


class CheckpointStore:
    """Keeps one checkpoint and what it stands for in ``folder``."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._identity = identity

    def fresh(self, task: RoundTask) -> RoundProgress:
        """Return the progress of a round in which nothing has been done."""
        return RoundProgress(self._identity, task.version, task.weights_sha256)

    def load(self) -> tuple[RoundProgress, Path] | None:
        """Return the latest progress and its verified checkpoint; None if there is none."""
        path = self._folder / _PROGRESS
        try:
            progress = RoundProgress(**json.loads(path.read_text(encoding="utf-8")))
            checkpoint = self._folder / Path(progress.checkpoint).name
            if progress.identity != self._identity:
                log.warning("%s is not used: it belongs to another plan, trainer or fold", path)
                return None
            if files.file_sha256(checkpoint) != progress.checkpoint_sha256:
                log.warning("%s is not used: it is damaged", checkpoint)
                return None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is not used: it cannot be read (%s)", path, error)
            return None
        return progress, checkpoint

    def save(self, progress: RoundProgress, write: Callable[[Path], None]) -> RoundProgress:
        """Keep ``progress`` with the checkpoint that ``write`` writes; drop the one before.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"version-{progress.version:05d}-epoch-{progress.epochs_done:04d}"
        path = self._folder / f"{stem}-{secrets.token_hex(4)}.pth"
        write(path)
        files.sync(path)
        kept = replace(progress, checkpoint=path.name, checkpoint_sha256=files.file_sha256(path))
        files.write_json(self._folder / _PROGRESS, asdict(kept))
        for old in self._folder.glob("version-*.pth"):
            if old != path:
                old.unlink(missing_ok=True)
        return kept
