"""The study's last weights become the site's nnU-Net model.

Rules:
 * The model folder is the one ``nnUNetv2_train`` would have filled, with the federated fingerprint.
   ``checkpoint_best.pth`` in it, if any, is nnU-Net's best epoch of local training.
 * Where the validation cases were trained on, nnU-Net validates as ever, and nothing is published.
   Where the host wants no final validation, there is no score of the model either.
 * Finishing twice with the same weights gives the result of the first time.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedfs.learner import EvaluationResult, OnProgress, Progress
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.score.case_metrics import CaseMetrics, delete_probabilities
from fedfs.nnunet.score.summary import SUMMARY, result_of
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system import files
from fedfs.nnunet.train.session import Session

log = logging.getLogger(__name__)

_FINISHED = "finished.json"
VALIDATION = "validation"
"""nnU-Net's folder of a fold's validation."""


@dataclass(frozen=True)
class Validation:
    """nnU-Net's validation of a finished model.

    Attributes:
        folder: holds the predictions and ``summary.json``.
        is_scored: False where the model was trained on these cases.
    """

    folder: Path
    is_scored: bool


def find_validation(state_dir: Path) -> Validation | None:
    """Return the validation that a learner noted there when it finished; None if it has not."""
    record = state_dir / _FINISHED
    if not record.exists():
        return None
    content = read_json(record)
    folder = Path(content["checkpoint"]).with_name(VALIDATION)
    return Validation(folder, bool(content["result"]["n_cases"]))


class FinalModel:
    """Writes the model and remembers that it did.

    Args:
        settings: of the site's learner.
        fingerprint: the federated fingerprint, to lie beside the model.
        file_ending: of segmentations.
    """

    def __init__(
        self, settings: LearnerSettings, *, fingerprint: Mapping[str, Any], file_ending: str
    ) -> None:
        self._settings = settings
        self._record = settings.state_dir / _FINISHED
        self._file_ending = file_ending
        self._fingerprint = fingerprint

    def already(self, weights_sha256: str) -> EvaluationResult | None:
        """Return the result if these weights have been finished and the model is still there."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            checkpoint = Path(record["checkpoint"])
            if record["weights_sha256"] != weights_sha256:
                return None
            if files.file_sha256(checkpoint) != record["checkpoint_sha256"]:
                return None
            return result_of(record["result"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read (%s): validating again", self._record, error)
            return None

    def validated_cases(self) -> list[str]:
        """Return the names of the cases that the finished model was validated on; [] if unscored.

        Raises:
            DatasetError: nnU-Net's ``summary.json`` of it is not there any more.
        """
        record = read_json(self._record)
        if not record["result"]["n_cases"]:
            return []
        summary = read_json(Path(record["checkpoint"]).with_name(VALIDATION) / SUMMARY)
        names = (Path(case["reference_file"]).name for case in summary["metric_per_case"])
        return [name.removesuffix(self._file_ending) for name in names]

    def make(
        self, session: Session, weights_sha256: str, on_progress: OnProgress
    ) -> EvaluationResult:
        """Write the model of the network's present weights and validate it."""
        trainer = session.trainer
        folder = Path(trainer.output_folder)
        trainer.on_train_end()
        checkpoint = folder / "checkpoint_final.pth"
        files.write_json(
            Path(trainer.output_folder_base, "dataset_fingerprint.json"), self._fingerprint
        )
        result = EvaluationResult.unscored()
        if self._settings.full_validation:
            result = self._validate(session, folder / VALIDATION, on_progress)
        files.sync(checkpoint)
        files.write_json(
            self._record,
            {
                "weights_sha256": weights_sha256,
                "checkpoint": str(checkpoint),
                "checkpoint_sha256": files.file_sha256(checkpoint),
                "result": asdict(result),
            },
        )
        return result

    def _validate(
        self, session: Session, folder: Path, on_progress: OnProgress
    ) -> EvaluationResult:
        shutil.rmtree(folder, ignore_errors=True)  # nnU-Net scores whatever lies there
        total, done = session.n_validation_cases, 0

        def on_line(line: str) -> None:
            nonlocal done
            if "predicting " in line:
                done += 1
                on_progress(Progress("validate", min(done, total), total, "case"))

        began = session.clock()
        session.watch_lines(on_line)
        trainer = session.trainer
        keep, scores = self._settings.save_probabilities, self._settings.scores
        trainer.perform_actual_validation(keep or scores.calibration)
        if not session.can_score:
            return EvaluationResult.unscored(session.clock() - began)
        metrics = CaseMetrics.of_model(
            trainer,
            with_calibration=keep or scores.calibration,
            tolerance_mm=scores.nsd_tolerance_mm,
        )
        result = metrics.of_folder(folder, on_progress)
        if not keep:
            delete_probabilities(folder)
        return replace(result, seconds=session.clock() - began)
