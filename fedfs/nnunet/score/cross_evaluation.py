"""A network from elsewhere, another site's or a given one, scored on this site's cases.

Rules:
 * Plans and tensors are somebody else's word: they pass the allow-list, the network is counted
   before it is built, and the tensors have to be its own.
 * nnU-Net's predictor does the work, in processes of their own, on the raw images: preprocessed as
   its plan says, read as this site reads them.
 * Model and predictions are gone when the scores are there.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.errors import MalformedError
from fedfs.learner import EvaluationResult, GivenNetwork, OnProgress
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.data.dataset import Case, RawDataset
from fedfs.nnunet.data.dataset_json import LABEL_ORDER
from fedfs.nnunet.data.fingerprint import reader_name
from fedfs.nnunet.data.preprocess import adopt
from fedfs.nnunet.plan.published import check_size
from fedfs.nnunet.score.case_metrics import tolerance_of
from fedfs.nnunet.score.model_export import ExportRequest, ExportRequests
from fedfs.nnunet.score.predict import ScoreRequests
from fedfs.nnunet.score.scored_folder import ScoreRequest
from fedfs.nnunet.score.summary import result_of
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system.isolated import run_isolated


def score_other(
    plans: Mapping[str, Any],
    tensors: Path,
    *,
    dataset: RawDataset,
    cases: Sequence[str],
    settings: LearnerSettings,
    own_plans: Mapping[str, Any],
) -> EvaluationResult:
    """Predict cases with another site's network; see :func:`score_network`.

    Args:
        plans: nnU-Net plans of the other site.
        tensors: safetensors file of its network.
        dataset: this site's.
        cases: names of the cases to predict.
        settings: of this site's learner, and in all but the plan those of the other's.
        own_plans: nnU-Net plans of this site.
    """
    folds = {settings.fold: tensors}
    other = GivenNetwork("other", plans, settings.trainer, settings.configuration, folds, own_plans)
    return score_network(
        other, dataset=dataset, cases=cases, settings=settings, own_plans=own_plans
    )


def score_network(
    network: GivenNetwork,
    *,
    dataset: RawDataset,
    cases: Sequence[str],
    settings: LearnerSettings,
    own_plans: Mapping[str, Any],
) -> EvaluationResult:
    """Predict cases and return their scores.

    Args:
        network: to predict with; the predictions of its folds are averaged.
        dataset: this site's.
        cases: names of the cases to predict.
        settings: of this site's learner.
        own_plans: nnU-Net plans whose tolerance of NSD is that of all models here.

    Raises:
        RejectedError: plans or tensors are refused.
        TrainingError: nnU-Net failed.
    """
    adopted = _checked(network.plans, network.configuration, dataset)
    with _room(dataset, cases, settings) as room:
        requests = tuple(
            _model(network, adopted, fold, tensors, dataset, settings, room / "results")
            for fold, tensors in network.folds.items()
        )
        made = run_isolated("export", ExportRequests(requests), workdir=room)
        part = ScoreRequest(
            model=made["models"][0],
            fold=",".join(network.folds),
            images=str(room / "images"),
            labels=str(room / "labels"),
            output=str(room / "predicted"),
            host=settings.host,
            scores=replace(settings.scores, nsd_tolerance_mm=tolerance_of(settings, own_plans)),
        )
        (scores,) = run_isolated("score", ScoreRequests((part,)), workdir=room)["results"]
    return result_of(scores)


def score_ensemble(
    members: Mapping[str, Path],
    *,
    plans: Mapping[str, Any],
    dataset: RawDataset,
    cases: Sequence[str],
    settings: LearnerSettings,
    on_progress: OnProgress,
) -> EvaluationResult:
    """Predict cases with the mean of the probabilities of networks with the same plan.

    Args:
        members: site -> safetensors file of its network; somebody else's word.
        plans: nnU-Net plans that this site has adopted.
        dataset: this site's.
        cases: names of the cases to predict.
        settings: of this site's learner.
        on_progress: progress callback.

    Raises:
        RejectedError: tensors are refused.
        TrainingError: nnU-Net failed.
    """
    with _room(dataset, cases, settings) as room:
        one = GivenNetwork("member", plans, settings.trainer, settings.configuration, {}, plans)
        requests = tuple(
            _model(one, plans, settings.fold, tensors, dataset, settings, room / f"member-{number}")
            for number, (_, tensors) in enumerate(sorted(members.items()))
        )
        made = run_isolated("export", ExportRequests(requests), workdir=room)
        first, *others = made["models"]
        request = ScoreRequest(
            model=first,
            others=tuple(others),
            fold=settings.fold,
            images=str(room / "images"),
            labels=str(room / "labels"),
            output=str(room / "predicted"),
            host=settings.host,
            scores=replace(settings.scores, nsd_tolerance_mm=tolerance_of(settings, plans)),
        )
        scores = run_isolated("score_ensemble", request, workdir=room, on_progress=on_progress)
    return result_of(scores)


def _checked(
    plans: Mapping[str, Any], configuration: str, dataset: RawDataset
) -> Mapping[str, Any]:
    """Return plans from elsewhere with this site's names, if they may be used."""
    try:
        adopted = adopt(plans, dataset, reader_name(dataset))
        allowlist.check_plans(adopted, configuration)
    except (TypeError, ValueError) as error:
        raise MalformedError(f"cannot be used: {error}", about="the plan") from error
    check_size(adopted, configuration, dataset.dataset_json)
    return adopted


@contextlib.contextmanager
def _room(dataset: RawDataset, cases: Sequence[str], settings: LearnerSettings) -> Iterator[Path]:
    """Make a folder with the images and labels of cases, that is gone afterwards."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="other-model-", dir=settings.state_dir) as folder:
        chosen = [case for case in dataset.cases if case.name in set(cases)]
        _link(chosen, Path(folder), str(dataset.dataset_json["file_ending"]))
        yield Path(folder)


def _model(
    network: GivenNetwork,
    plans: Mapping[str, Any],
    fold: str,
    tensors: Path,
    dataset: RawDataset,
    settings: LearnerSettings,
    output: Path,
) -> ExportRequest:
    labels = list(dataset.dataset_json["labels"])
    return ExportRequest(
        plans=plans,
        dataset_json={**dataset.dataset_json, LABEL_ORDER: labels},
        fingerprint={},
        trainer=network.trainer,
        configuration=network.configuration,
        fold=fold,
        tensors=str(tensors),
        output=str(output),
        dataset_name=dataset.name,
        version=0,
        epochs=1,
        host=settings.host,
    )


def _link(cases: Sequence[Case], room: Path, ending: str) -> None:
    """Make folders as nnU-Net predicts from them and scores by them."""
    for name in ("images", "labels"):
        (room / name).mkdir()
    for case in cases:
        for channel, image in enumerate(case.images):
            (room / "images" / f"{case.name}_{channel:04d}{ending}").symlink_to(image.resolve())
        (room / "labels" / f"{case.name}{ending}").symlink_to(case.label.resolve())
        image = case.images[0]
        spacing = image.with_name(image.name.removesuffix(f"_0000{ending}") + ".json")
        if spacing.exists():  # nnU-Net's reader of TIFF looks for it beside the image
            (room / "images" / f"{case.name}.json").symlink_to(spacing.resolve())
