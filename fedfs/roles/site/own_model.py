"""Models that a site trains by itself after the last version: local and personal.

Both are the learner's own code with one round of all epochs, so that nothing else than what they
start from, for how long, and at which learning rate makes them differ from a federated site.

 * A local model is trained alone, from version 0, with the same plan. Its budget is the same in
   total as that of what it is compared with: with a personal model beside it, that of both parts.
 * A personal model is the last version, fine-tuned for a share of the federation's budget.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.learner import EvaluationResult, Learner, OnProgress, RoundTask, Tensors
from fedfs.nnunet.system import files
from fedfs.tensors.canonical import weights_sha256

log = logging.getLogger(__name__)

_MOST_SHARE = 100.0


@dataclass(frozen=True)
class FineTuning:
    """Budget and schedule of a personal model.

    Attributes:
        share: of the epochs of the whole federation; at least one epoch is trained.
        learning_rate: that nnU-Net's schedule over these epochs begins with.
    """

    share: float = 0.25
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.share <= _MOST_SHARE:
            raise UserError(
                f"A personal model cannot have {self.share:g} times the federation's budget.",
                hint=f"more than 0, at most {_MOST_SHARE:g}; default 0.25",
            )
        if not 0 < self.learning_rate <= 1:
            raise UserError(
                f"The learning rate {self.learning_rate:g} is not between 0 and 1.",
                hint="default 0.001, a tenth of what nnU-Net's trainer begins with",
            )

    def n_epochs(self, n_federated: int) -> int:
        """Return the epochs of a personal model after a federation of ``n_federated``."""
        return max(1, round(self.share * n_federated))


def stretched(task: RoundTask, n_epochs: int) -> RoundTask:
    """Return a round of a study as one round of so many epochs, of a schedule of its own."""
    return replace(
        task,
        first_epoch=0,
        n_epochs=n_epochs,
        total_epochs=n_epochs,
        proximal_mu=0.0,
        max_seconds=None
        if task.max_seconds is None
        else task.max_seconds * n_epochs / task.n_epochs,
    )


def train_to_the_end(
    learner: Learner,
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    task: RoundTask,
    tensors: Tensors,
    on_progress: OnProgress,
) -> EvaluationResult:
    """Train for all epochs, keep the model, and return nnU-Net's full validation of it.

    Stopped at any moment and called again, it goes on from the learner's last checkpoint.

    Args:
        learner: has its own folder for models, which nobody else writes to.
        plans: nnU-Net plans to train with.
        fingerprint: the fingerprint they were made from, in nnU-Net's format.
        task: one round of all epochs.
        tensors: weights to start from.
        on_progress: progress callback.

    Raises:
        SetupError, DatasetError, TrainingError: as the learner does.
    """
    learner.prepare(plans, fingerprint, on_progress)
    trained = learner.train(task, tensors, on_progress).tensors
    final = replace(
        task, weights_sha256=weights_sha256(trained), first_epoch=task.total_epochs, n_epochs=0
    )
    return learner.finish(final, trained, on_progress)


class PersonalModel:
    """Fine-tunes the last version on a site's own data, and remembers that it did.

    Nothing of it is published: a file of this host says of which weights it was made, and how.

    Args:
        learner: has its own folder for models, and ``folder`` for its checkpoints.
        folder: of the training; begun anew where it belongs to other weights or another budget.
        tuning: budget and schedule.
    """

    def __init__(self, learner: Learner, folder: Path, tuning: FineTuning) -> None:
        self.learner = learner
        self.tuning = tuning
        self._folder = folder
        self._record = folder / "personal.json"

    def is_kept(self, weights: str) -> bool:
        """Return whether the model of these weights has been made.

        Args:
            weights: hash of the version that it starts from.
        """
        record = self._read()
        return record.get("begun") == self._begun(weights) and record.get("result") is not None

    def make(
        self,
        plans: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
        task: RoundTask,
        tensors: Tensors,
        on_progress: OnProgress,
    ) -> EvaluationResult:
        """Fine-tune for a share of the federation's epochs; see :func:`train_to_the_end`.

        Args:
            plans: nnU-Net plans to train with.
            fingerprint: the fingerprint they were made from, in nnU-Net's format.
            task: of the last version.
            tensors: its weights, at this site.
            on_progress: progress callback.
        """
        begun = self._begun(task.weights_sha256)
        if self._read().get("begun") != begun:
            self.learner.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            files.write_json(self._record, {"begun": begun, "result": None})
        whole = replace(
            stretched(task, self.tuning.n_epochs(task.total_epochs)),
            learning_rate=self.tuning.learning_rate,
        )
        result = train_to_the_end(self.learner, plans, fingerprint, whole, tensors, on_progress)
        files.write_json(self._record, {"begun": begun, "result": asdict(result)})
        return result

    def _begun(self, weights: str) -> dict[str, Any]:
        return {"weights_sha256": weights, **asdict(self.tuning)}

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): fine-tuning begins anew", self._record, error)
            return {}
        return record if isinstance(record, dict) else {}
