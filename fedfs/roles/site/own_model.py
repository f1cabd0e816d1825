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

from fedfs.learner import EvaluationResult, Learner, OnProgress, RoundTask, Tensors
from fedfs.nnunet.score.summary import result_of
from fedfs.nnunet.system import files
from fedfs.protocol.state import StudyState
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.tensors.canonical import weights_sha256

log = logging.getLogger(__name__)

PERSONAL_RECORD = "personal.json"
"""In the folder of a personal model's training: what it was made of, how, and its scores."""


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
    done = replace(task, weights_sha256=weights_sha256(trained))
    return _finish(learner, done, trained, on_progress)


def keep_model(
    learner: Learner,
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    task: RoundTask,
    tensors: Tensors,
    on_progress: OnProgress,
) -> EvaluationResult:
    """Keep tensors as a model without training, and return nnU-Net's full validation of it.

    Args and Raises as for :func:`train_to_the_end`; ``task`` has the hash of ``tensors``.
    """
    learner.prepare(plans, fingerprint, on_progress)
    return _finish(learner, task, tensors, on_progress)


def _finish(
    learner: Learner, task: RoundTask, tensors: Tensors, on_progress: OnProgress
) -> EvaluationResult:
    final = replace(task, first_epoch=task.total_epochs, n_epochs=0)
    return learner.finish(final, tensors, on_progress)


@dataclass(frozen=True)
class MadePersonal:
    """A personal model that was made: of which weights, and how."""

    weights_sha256: str
    tuning: FineTuning


def read_personal(folder: Path) -> MadePersonal | None:
    """Return what the record of a personal model's training says; None if none was made."""
    record = _read(folder / PERSONAL_RECORD)
    if record.get("result") is None:
        return None
    begun = dict(record["begun"])
    return MadePersonal(begun.pop("weights_sha256"), FineTuning(**begun))


def has_scored_personal(state: StudyState, site: str) -> bool:
    """Return whether a site has published scores of a personal model of the newest version."""
    return (site, state.newest, "personal") in state.evaluations


class PersonalModel:
    """Fine-tunes the last version on a site's own data, and remembers that it did.

    A file of this host says of which weights it was made, how, and how it scored. Of that only the
    scores are published, and only if the site wants it.

    Args:
        learner: has its own folder for models, and ``folder`` for its checkpoints.
        folder: of the training; begun anew where it belongs to other weights or another budget.
        tuning: budget and schedule.
        publishes: whether the site publishes its scores.
    """

    def __init__(
        self, learner: Learner, folder: Path, tuning: FineTuning, *, publishes: bool = False
    ) -> None:
        self.learner = learner
        self.tuning = tuning
        self.publishes = publishes
        self._folder = folder
        self._record = folder / PERSONAL_RECORD

    def is_lacking(self, state: StudyState, site: str) -> bool:
        """Return whether something is left to do for the model of the newest version.

        Args:
            state: accepted messages.
            site: its name.
        """
        newest = state.models.get(state.newest)
        if newest is None:
            return False
        is_due = self.publishes and not has_scored_personal(state, site)
        return is_due or self._result(newest.weights_sha256) is None

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

        Returns:
            Its scores; those of before, where it has been made already.
        """
        begun = self._begun(task.weights_sha256)
        made = self._result(task.weights_sha256)
        if made is not None:
            return made
        if _read(self._record).get("begun") != begun:
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

    def _result(self, weights: str) -> EvaluationResult | None:
        record = _read(self._record)
        result = record.get("result")
        if record.get("begun") != self._begun(weights) or result is None:
            return None
        return result_of(result)

    def _begun(self, weights: str) -> dict[str, Any]:
        return {"weights_sha256": weights, **asdict(self.tuning)}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s): fine-tuning begins anew", path, error)
        return {}
    return record if isinstance(record, dict) else {}
