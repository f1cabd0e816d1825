"""One nnU-Net trainer that lives through the rounds of a study.

Rules:
 * The epoch body is nnU-Net's ``run_training``: the same hooks in the same order. The trainer's
   ``num_epochs`` is that of the whole study, so the learning-rate schedule spans all rounds; what
   a trainer says itself (``nnUNetTrainer_250epochs``) does not count.
 * Schedules go by the epoch. A trainer that also has stages sets them when it loads a checkpoint:
   it does so wherever the study's epoch is not the one after its last.
 * A round replaces the weights and nothing else: optimizer (momentum), gradient scaler, data
   loaders and nnU-Net's log go on. Under FedProx it also sets its base in the loss, see
   :mod:`fedfs.nnunet.train.proximal`.
 * nnU-Net's log holds exactly one value per epoch. Epochs that are repeated are cut off; epochs in
   which the site was away repeat the last value.
 * Scores are of cases that were not trained on, or there are none, fold ``all`` apart.
 * Where a study trains a part of the network, the rest is frozen when the trainer is made, see
   :mod:`fedfs.nnunet.train.freezing`.
 * A loss that is not finite ends the round before anything is published.
 * A trainer in which anything failed is not used again.
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedfs.errors import SetupError, TrainingError
from fedfs.learner import Array, OnProgress, Progress, RoundTask, Tensors
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data import folds
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.plan.pretrained import harmless_types
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system.workers import forked_children_end_with_us
from fedfs.nnunet.train import freezing, ranks
from fedfs.nnunet.train.learning_rate import check_rate
from fedfs.tensors.canonical import extract, load_into

log = logging.getLogger(__name__)

_NNUNET_EPOCHS = 1000
_REPORT_EVERY_S = 1.0


class Session:
    """A trainer with its data loaders.

    Args:
        settings: of the site's learner.
        plans: the adopted plan.
        dataset: the site's, without the cases that it goes on without.
        task: the first round; total epochs, iterations and learning rate hold for all.
        clock: seconds, for progress only.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        plans: Mapping[str, Any],
        dataset: RawDataset,
        *,
        task: RoundTask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._budget = _budget(task)
        self._held: Any = None
        self._on_line: Callable[[str], None] = lambda _: None
        self.trainer = classes.make_trainer(
            settings, plans, dataset.dataset_json, wandb=settings.host.wandb
        )
        folds.restrict_split(self.trainer, {case.name for case in dataset.cases})
        own, total = self.trainer.num_epochs, task.total_epochs
        if own not in (_NNUNET_EPOCHS, total):
            text = "%s is made for %d epochs; it gets the study's %d"
            log.info(text, settings.trainer, own, total)
        self.trainer.num_epochs = total
        self.trainer.num_iterations_per_epoch = task.iterations_per_epoch
        self.trainer.num_val_iterations_per_epoch = task.val_iterations_per_epoch
        if task.learning_rate is not None:
            self.trainer.initial_lr = task.learning_rate
        freezing.freeze(self.trainer, task.frozen)
        self._quieten()
        self._plot_rarely(settings.plot_interval_s)
        if self.trainer.is_ddp and settings.host.device == "cpu":
            ranks.settle_on_cpu(self.trainer)
        self.trainer.initialize()
        check_rate(self.trainer, task.learning_rate)
        if self.trainer.is_ddp:
            ranks.split_once(self.trainer)
        with forked_children_end_with_us():
            self.trainer.on_train_start()
        self.n_training_cases, self.n_validation_cases, self.can_score = self._count_cases()
        if not self.can_score:
            log.warning("this site trains on its validation cases: it publishes no scores")

    @property
    def is_first(self) -> bool:
        """True in the process that writes: the only one, or the first of several."""
        return bool(self.trainer.local_rank == 0)

    def serves(self, task: RoundTask) -> bool:
        """Return whether the trainer was made for this schedule."""
        return self._budget == _budget(task)

    def load(self, tensors: Tensors) -> None:
        """Replace the network's weights.

        Raises:
            TensorError: names or shapes are not the network's.
        """
        load_into(classes.plain_module(self.trainer), tensors)

    def tensors(self) -> dict[str, Array]:
        """Return the network's canonical tensors.

        Raises:
            TrainingError: a value is not finite.
        """
        tensors = extract(classes.plain_module(self.trainer))
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise _not_finite(f"The tensor {name} holds values that are not finite.")
        return tensors

    def save(self, path: Path) -> None:
        """Write nnU-Net's checkpoint of the epochs completed so far.

        Raises:
            SetupError: the trainer writes none.
        """
        # save_checkpoint counts the epoch under way as completed; on_train_end does the same.
        self.trainer.current_epoch -= 1
        try:
            self.trainer.save_checkpoint(str(path))
        finally:
            self.trainer.current_epoch += 1
        if not path.exists():
            raise SetupError(
                f"Trainer {type(self.trainer).__name__} writes no checkpoints.",
                hint="fedfs needs them; look for disable_checkpointing in the trainer",
            )

    def restore(self, path: Path) -> None:
        """Load a checkpoint: weights, optimizer, gradient scaler, epoch and log."""
        import torch

        # nnUNetTrainer_warmup, of nnU-Net 2.8, loads it with torch's default, which is strict.
        with torch.serialization.safe_globals(harmless_types()):
            self.trainer.load_checkpoint(str(path))

    def start_at(self, epoch: int) -> None:
        """Set the study's epoch, and bring nnU-Net's log in line with it."""
        is_jump, self.trainer.current_epoch = epoch != self.trainer.current_epoch, epoch
        values = self.trainer.logger.get_checkpoint()
        now = time.time()
        for key, series in values.items():
            del series[epoch:]
            while len(series) < epoch:
                series.append(series[-1] if series else _before_the_first(key, self, now))
        if is_jump and classes.loads_by_itself(self.trainer):
            ranks.require_one(self.trainer)
            with tempfile.TemporaryDirectory(dir=self.trainer.output_folder) as folder:
                self.save(Path(folder, "checkpoint.pth"))
                self.restore(Path(folder, "checkpoint.pth"))

    def set_base(self, base: Tensors, task: RoundTask) -> None:
        """Say where the round began, for FedProx's term and for values that are not trained.

        Raises:
            TensorError: names or shapes are not the network's.
        """
        from fedfs.nnunet.train import partial, proximal

        proximal.attach(self.trainer, base, mu=task.proximal_mu, private=task.private)
        if self._held is not None:
            self._held.remove()
        self._held = partial.hold(self.trainer, base, task.partial)

    def train_epoch(
        self, on_progress: OnProgress, *, task: RoundTask, until_s: float = math.inf
    ) -> tuple[int, dict[str, float]]:
        """Run one epoch as nnU-Net's ``run_training`` does; return iterations, seconds per phase.

        Args:
            on_progress: progress callback.
            task: the round.
            until_s: by this trainer's clock; no iteration is begun after it, but the first.

        Raises:
            TrainingError: the loss is not finite, or FedProx's term has gone.
        """
        import torch

        from fedfs.nnunet.train import proximal

        trainer, epoch, began = self.trainer, int(self.trainer.current_epoch), self.clock()
        total = trainer.num_iterations_per_epoch
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        freezing.hold_statistics(trainer, task.frozen)
        outputs, reported = [], -math.inf
        for iteration in range(total):
            outputs.append(trainer.train_step(next(trainer.dataloader_train)))
            loss = float(outputs[-1]["loss"])
            if not math.isfinite(loss):
                raise _not_finite(f"The loss became {loss} in epoch {epoch}.")
            if self.clock() - reported >= _REPORT_EVERY_S or iteration + 1 == total:
                reported = self.clock()
                done = (epoch - task.first_epoch) * total + iteration + 1
                of = task.n_epochs * total
                on_progress(Progress("train", done, of, "iteration", epoch, {"loss": loss}))
            if math.isfinite(until_s) and ranks.broadcast_first(trainer, self.clock() >= until_s):
                break
        if task.proximal_mu:
            proximal.check_attached(trainer)
        trainer.on_train_epoch_end(outputs)
        trained = self.clock()
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            results = [
                trainer.validation_step(next(trainer.dataloader_val))
                for _ in range(trainer.num_val_iterations_per_epoch)
            ]
            trainer.on_validation_epoch_end(results)
        trainer.on_epoch_end()
        spent = {"training": trained - began, "validation": self.clock() - trained}
        return len(outputs), ranks.broadcast_first(trainer, spent)

    def metrics(self) -> dict[str, float]:
        """Return the last epoch's numbers from nnU-Net's log, as far as they are finite."""
        keys = {"train_loss": "train_losses", "learning_rate": "lrs"}
        if self.can_score:
            keys |= {"val_loss": "val_losses", "pseudo_dice": "mean_fg_dice"}
        get_value = self.trainer.logger.get_value
        values = {name: float(get_value(key, step=-1)) for name, key in keys.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def watch_lines(self, on_line: Callable[[str], None]) -> None:
        """Call ``on_line`` with every line that the trainer logs."""
        self._on_line = on_line

    def close(self) -> None:
        """Shut down the workers of the data loaders."""
        for loader in (self.trainer.dataloader_train, self.trainer.dataloader_val):
            finish = getattr(loader, "_finish", None)
            if finish is not None:
                finish()
        self.trainer.dataloader_train = self.trainer.dataloader_val = None

    def _quieten(self) -> None:
        original = self.trainer.print_to_log_file

        def to_file(*args: Any, also_print_to_console: bool = True, **kwargs: Any) -> None:
            del also_print_to_console
            line = " ".join(str(arg) for arg in args)
            log.debug("%s", line.strip())
            self._on_line(line)
            original(*args, also_print_to_console=False, **kwargs)

        self.trainer.print_to_log_file = to_file

    def _plot_rarely(self, interval_s: float) -> None:
        # It takes a second: an epoch of nnU-Net's 250 iterations does not feel it, a shorter does.
        logger, plotted = self.trainer.logger, self.clock()
        original = logger.plot_progress_png

        def plot(folder: str) -> None:
            nonlocal plotted
            last = self.trainer.current_epoch + 1 >= self.trainer.num_epochs
            if last or self.clock() - plotted >= interval_s:
                original(folder)
                plotted = self.clock()

        logger.plot_progress_png = plot

    def _count_cases(self) -> tuple[int, int, bool]:
        training, validation = self.trainer.do_split()
        is_apart = not {*training} & {*validation}
        return len(training), len(validation), is_apart or self.trainer.fold == "all"


def _budget(task: RoundTask) -> tuple[object, ...]:
    iterations = (task.iterations_per_epoch, task.val_iterations_per_epoch)
    return task.total_epochs, *iterations, task.learning_rate, task.frozen


def _not_finite(message: str) -> TrainingError:
    return TrainingError(
        message,
        kind="not-finite",
        hint="look for extreme intensities in the images, or lower the learning rate",
    )


def _before_the_first(key: str, session: Session, now: float) -> Any:
    """Return what stands in nnU-Net's log for epochs before this site took part."""
    if key == "dice_per_class_or_region":
        manager = session.trainer.label_manager
        heads = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        return [math.nan] * len(heads)
    if key == "ema_fg_dice":
        return 0.0  # the moving average continues from it: NaN would never go away
    return now if key.endswith("timestamps") else math.nan
