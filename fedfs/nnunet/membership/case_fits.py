"""Fit of given weights to single cases of a site.

Rules:
 * Whole preprocessed cases, in patches beside each other, without mirroring, in single precision;
   the loss is nnU-Net's own of the full resolution. Nothing is random.
 * Everything is written below folders of its own: the site's models stay as they are.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.aggregation.membership import CaseFit
from fedfs.learner import Tensors
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data import folds
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system.call import nnunet_call
from fedfs.nnunet.system.environment import set_variables
from fedfs.tensors.canonical import load_into

log = logging.getLogger(__name__)

_NO_COMPILER = {"nnUNet_compile": "f"}  # cases differ in shape: it would take longer


class CaseFits:
    """nnU-Net's network and loss, and a site's preprocessed cases.

    Args:
        settings: of the site's learner.
        plans: the adopted plan.
        dataset: the site's, without the cases that it goes on without.
        results: folder that nnU-Net's trainer may write to.

    Attributes:
        trainer: nnU-Net's, initialised; its network takes given weights.
        loss: nnU-Net's own, of the full resolution.
        training, validation: names of the cases of the fold.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        plans: Mapping[str, Any],
        dataset: RawDataset,
        *,
        results: Path,
    ) -> None:
        self._paths = replace(settings.paths, results=results)
        with self.call(), set_variables(_NO_COMPILER):
            trainer = classes.make_trainer(settings, plans, dataset.dataset_json)
            trainer.print_to_log_file = lambda *words, **_: log.debug("%s", words)
            folds.restrict_split(trainer, {case.name for case in dataset.cases})
            if trainer.is_cascaded:  # the first stage's segmentations are among the site's models
                inside = Path(trainer.folder_with_segs_from_previous_stage).relative_to(results)
                found = settings.paths.results / inside
                trainer.folder_with_segs_from_previous_stage = str(found)
            trainer.initialize()
            trainer.set_deep_supervision_enabled(False)
            trainer.network.eval()
            self.trainer = trainer
            self.training, self.validation = (tuple(part) for part in trainer.do_split())
            self.loss = getattr(trainer.loss, "loss", trainer.loss)  # without deep supervision

    def load(self, tensors: Tensors) -> None:
        """Give the network these weights.

        Raises:
            TensorError: names or shapes are not the network's.
        """
        load_into(classes.plain_module(self.trainer), tensors)

    def fit(self, case: str) -> CaseFit:
        """Return how well the present weights fit a case.

        Raises:
            TrainingError: nnU-Net failed.
        """
        import torch

        with self.call(), torch.no_grad():
            image, target = self.read(case)
            logits = self._logits(image)
            loss = float(self.loss(logits[None], target[None]))
            manager = self.trainer.label_manager
            margin, dice = (_of_regions if manager.has_regions else _of_labels)(
                logits, target, manager.ignore_label
            )
        return CaseFit(loss=loss, margin=margin, dice=dice)

    def read(self, case: str) -> tuple[Any, Any]:
        """Return image and target of a case as nnU-Net's network and loss take them."""
        import torch
        from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

        trainer, manager = self.trainer, self.trainer.label_manager
        dataset = trainer.dataset_class(
            trainer.preprocessed_dataset_folder,
            [case],
            folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage,
        )
        image, segmentation, previous, _ = dataset.load_case(case)
        image = np.array(image[:])
        if trainer.is_cascaded:
            one_hot = convert_labelmap_to_one_hot(
                previous[:], manager.foreground_labels, output_dtype=image.dtype
            )
            image = np.vstack((image, one_hot))
        target = torch.from_numpy(np.array(segmentation[:])).clamp(min=0)
        if manager.has_regions:
            parts = [torch.isin(target[0], torch.tensor(r)) for r in manager.foreground_regions]
            if manager.ignore_label is not None:
                parts.append(target[0] == manager.ignore_label)
            target = torch.stack(parts)
        return torch.from_numpy(image), target

    def _logits(self, image: Any) -> Any:
        """Return the network's output for a whole case, on the processor."""
        import torch
        from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

        network, device = self.trainer.network, self.trainer.device
        shape = image.shape[1:]
        patch = self.trainer.configuration_manager.patch_size
        missing = [max(p - s, 0) for p, s in zip(patch, shape[-len(patch) :], strict=True)]
        padding = [n for m in reversed(missing) for n in (0, m)]
        image = torch.nn.functional.pad(image, padding)
        whole, across = image.shape[-len(patch) :], image.shape[1 : -len(patch)]
        steps = compute_steps_for_sliding_window(whole, patch, 1.0)
        tiles = [
            (slice(None), *slices, *(slice(a, a + n) for a, n in zip(corner, patch, strict=True)))
            for slices in np.ndindex(across)  # of an image in three dimensions, and a 2d network
            for corner in itertools.product(*steps)
        ]
        n_at_once = self.trainer.batch_size
        total = torch.zeros((self.trainer.label_manager.num_segmentation_heads, *image.shape[1:]))
        count = torch.zeros(image.shape[1:])
        for start in range(0, len(tiles), n_at_once):
            chosen = tiles[start : start + n_at_once]
            made = network(torch.stack([image[tile] for tile in chosen]).to(device)).float().cpu()
            for tile, one in zip(chosen, made, strict=True):
                total[tile] += one
                count[tile[1:]] += 1
        return (total / count)[(slice(None), *(slice(n) for n in shape))]

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround calls of nnU-Net; see :func:`~fedfs.nnunet.system.call.nnunet_call`."""
        with nnunet_call(self._paths, log):
            yield


def _of_labels(logits: Any, target: Any, ignored: int | None) -> tuple[float, float | None]:
    """Return margin and Dice of a network with labels; shapes (label, ...) and (1, ...)."""
    true, predicted = target[0].long(), logits.argmax(0)
    valid = true != (-1 if ignored is None else ignored)
    place = true.where(valid, 0)[None]
    others = logits.scatter(0, place, float("-inf")).logsumexp(0)
    margins = logits.gather(0, place)[0] - others
    structure = ((true > 0) | (predicted > 0)) & valid
    pairs = [((true == n) & valid, (predicted == n) & valid) for n in range(1, len(logits))]
    return _mean(margins, structure, valid), _dice(pairs)


def _of_regions(logits: Any, target: Any, ignored: int | None) -> tuple[float, float | None]:
    """Return the same of a network with regions; the last of a target may be what to ignore."""
    true, predicted = target[: len(logits)], logits > 0
    valid = ~target[-1] if ignored is not None else true[0] | ~true[0]
    margins = logits.where(true, -logits).mean(0)
    structure = (true | predicted).any(0) & valid
    pairs = [(a & valid, b & valid) for a, b in zip(true, predicted, strict=True)]
    return _mean(margins, structure, valid), _dice(pairs)


def _mean(margins: Any, structure: Any, valid: Any) -> float:
    return float(margins[structure if structure.any() else valid].mean())


def _dice(pairs: list[tuple[Any, Any]]) -> float | None:
    found = [
        2 * int((true & predicted).sum()) / total
        for true, predicted in pairs
        if (total := int(true.sum() + predicted.sum()))
    ]
    return float(np.mean(found)) if found else None
