"""Options of a new study, checked: frozen, from options, environment, study file."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfs.aggregation import alignment, strategies, weighting
from fedfs.errors import FedfsError, MalformedError, UserError
from fedfs.nnunet.allowed import allowlist
from fedfs.nnunet.allowed.names import CASCADE, PLANNER_OPTIONS
from fedfs.protocol import round_policies
from fedfs.protocol.messages import ASYM, FFE, TRAINING_MODES, AsymSpec, Schedule, Track
from fedfs.protocol.ranges import check_learning_rate, check_minutes
from fedfs.protocol.values import STUDY
from fedfs.roles.coordinator.model_rules import check_averages, check_ensemble, check_local
from fedfs.roles.coordinator.secure_rules import check_secure_sums, set_usual
from fedfs.roles.coordinator.trained_part import check_train_only
from fedfs.tensors import encodings

_FORMAT_HINT = "write it as nnU-Net v2 wants it, see dataset_format.md in its documentation"
_DATASET_NAME = re.compile(r"Dataset[0-9]{3}_[A-Za-z0-9_-]{1,60}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
_CONFIGURATIONS = ("2d", "3d_fullres", *CASCADE)
_FOLDS = ("0", "1", "2", "3", "4")
_MAX_ROUNDS = 99_999
_MAX_RATIO = 1e9


@dataclass(frozen=True)
class StudyOptions:
    """Choices of the coordinator; names and meanings are nnU-Net's where nnU-Net has them.

    Attributes:
        train_only: patterns of tensors, separated by commas; "" for all of them.
        configuration, fold: one or several, separated by commas: each configuration and fold
            becomes a track.
        encoding, max_move_ratio: "" and None for what is usual: ``fp32`` and 100, with secure sums
            ``fixed`` and 0.
        min_sites: with secure sums, at least those of a sum.

    Raises:
        UserError: a value cannot be used.
    """

    name: str
    dataset_json: Mapping[str, Any]
    mode: str = FFE
    alignment: str = "resolution"
    sharing: str = "per-tensor"
    min_coverage: float = 0.5
    cross_evaluation: bool = False
    keep_local: str = ""
    keep_local_export: str = ""
    train_only: str = ""
    average_last: int | None = None
    ema: float | None = None
    ensemble: bool = False
    dataset_name: str | None = None
    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    trainer: str = "nnUNetTrainer"
    fold: str = "0"
    rounds: int = 20
    local_epochs: int | None = None
    local_iterations: int | None = None
    local_minutes: float | None = None
    learning_rate: float | None = None
    val_iterations: int = 50
    gpu_memory_target_gb: float | None = None
    target_spacing: tuple[float, ...] | None = None
    planner_options: Mapping[str, float] = field(default_factory=dict)
    policy: str = "all"
    policy_options: Mapping[str, float] = field(default_factory=dict)
    weighting: str = "n_cases"
    strategy: str = "FedAvg"
    strategy_options: Mapping[str, float] = field(default_factory=dict)
    encoding: str = ""
    encoding_options: Mapping[str, float] = field(default_factory=dict)
    model_encoding: str = "fp32"
    model_encoding_options: Mapping[str, float] = field(default_factory=dict)
    keyframe_every: int = 10
    min_sites: int = 2
    minimum_cases: int = 1
    max_move_ratio: float | None = None
    fingerprint_digits: int | None = None
    fingerprint_quantiles: int | None = None
    encryption: str = ""
    secure_sums: bool = False
    secure_scores: bool = False
    min_summed_sites: int = 3
    max_coefficient_share: float = 0.8
    site_clip_norm: float | None = None
    seed: int = 12345

    def __post_init__(self) -> None:
        set_usual(self)
        if self.name not in STUDY:
            raise UserError(
                f"Study name {self.name!r} is not usable.",
                hint="use 1 to 40 of a-z, 0-9 and -, starting and ending with a letter or digit",
            ).of("name")
        if self.dataset_name is not None and not _DATASET_NAME.fullmatch(self.dataset_name):
            raise UserError(
                f"Dataset name {self.dataset_name!r} is not nnU-Net's DatasetXXX_NAME.",
                hint="for example Dataset004_Hippocampus",
            ).of("dataset_name")
        self._check_models()
        try:
            allowlist.check_planner_options(self.planner_options)
        except MalformedError as error:
            known = ", ".join(sorted(PLANNER_OPTIONS))
            hint = f"a number for one of {known}"
            raise UserError(str(error), hint=hint).of("planner_options") from error
        try:
            allowlist.check_planning(self.gpu_memory_target_gb, self.target_spacing)
        except MalformedError as error:
            hint = "give the memory in GB, and the spacing in mm of each axis"
            names = ("gpu_memory_target_gb", "target_spacing")
            raise UserError(str(error), hint=hint).of(*names) from error
        for what, name in (("planner", self.planner), ("trainer", self.trainer)):
            if not _IDENTIFIER.fullmatch(name):
                raise UserError(
                    f"{what} {name!r} is not a class name.",
                    hint="give the name of a class, for example ExperimentPlanner or nnUNetTrainer",
                ).of(what)
        if self.local_epochs is not None and self.local_iterations is not None:
            text = "Give --local-epochs or --local-iterations, not both."
            raise UserError(text).of("local_epochs", "local_iterations")
        ratio = self.max_move_ratio
        if ratio is not None and not (ratio == 0 or 1 <= ratio <= _MAX_RATIO):
            raise UserError(
                f"--max-move-ratio {ratio:g} cannot be used.",
                hint="give 1 or more, or 0 to refuse no update for that",
            ).of("max_move_ratio")
        if self.encryption not in ("", "age"):
            text = f"Encryption {self.encryption!r} is unknown."
            raise UserError(text, hint="age, or none").of("encryption")
        self._check_rules()
        with about("local_minutes"):
            check_minutes(self.local_minutes)
        with about("learning_rate"):
            check_learning_rate(self.learning_rate)
        bounds = {
            "rounds": ("rounds", _MAX_ROUNDS),
            "local_epochs": ("local epochs", 100_000),
            "local_iterations": ("local iterations", 10_000_000),
            "val_iterations": ("validation iterations", 100_000),
            "min_sites": ("minimum number of sites", 10_000),
            "minimum_cases": ("minimum number of cases", 1_000_000),
            "fingerprint_digits": ("digits of fingerprints", 17),
            "fingerprint_quantiles": ("quantiles of fingerprints", 1000),
            "keyframe_every": ("versions from one keyframe to the next", _MAX_ROUNDS),
        }
        for option, (what, most) in bounds.items():
            value = getattr(self, option)
            if value is not None and not 1 <= value <= most:
                raise UserError(f"{what} {value} is not between 1 and {most}.").of(option)

    def _check_models(self) -> None:
        configurations, folds = self.configuration.split(","), self.fold.split(",")
        for configuration in configurations:
            if configuration not in _CONFIGURATIONS:
                raise UserError(
                    f"Configuration {configuration!r} cannot be federated.",
                    hint=f"one or more of {', '.join(_CONFIGURATIONS)}, separated by commas",
                ).of("configuration")
        for fold in folds:
            if fold not in ("all", *_FOLDS):
                raise UserError(f"Fold {fold!r} is neither 'all' nor 0 to 4.").of("fold")
        if len(set(configurations)) < len(configurations) or len(set(folds)) < len(folds):
            text = "A configuration or fold is named twice."
            raise UserError(text).of("configuration", "fold")
        if CASCADE[1] in configurations:
            if CASCADE[0] not in configurations:
                raise UserError(
                    f"{CASCADE[1]} continues {CASCADE[0]}, which is not in the study.",
                    hint=f"give -c {','.join(CASCADE)}",
                ).of("configuration")
            if "all" not in folds and not set(_FOLDS) <= set(folds):
                raise UserError(
                    f"{CASCADE[1]} needs segmentations of all cases by {CASCADE[0]}, and each "
                    "fold makes only those of its validation cases.",
                    hint="give -f 0,1,2,3,4 or -f all",
                ).of("fold")

    def tracks(self) -> tuple[Track, ...]:
        """Return the tracks of the study, one of each configuration and fold."""
        pairs = list(itertools.product(self.configuration.split(","), self.fold.split(",")))
        names = {pair: f"{pair[0]}-{pair[1]}" for pair in pairs}
        first_stage = tuple(names[pair] for pair in pairs if pair[0] == CASCADE[0])
        return tuple(
            Track(
                name=names[configuration, fold],
                configuration=configuration,
                fold=fold,
                after=first_stage if configuration == CASCADE[1] else (),
            )
            for configuration, fold in pairs
        )

    def _check_rules(self) -> None:
        if self.mode not in TRAINING_MODES:
            text = f"Mode {self.mode!r} is unknown."
            raise UserError(text, hint=f"one of {', '.join(TRAINING_MODES)}").of("mode")
        if self.cross_evaluation and self.mode != ASYM:
            raise UserError(
                "--cross-evaluation is for the mode asym.",
                hint="in the mode ffe every site scores the one model anyway",
            ).of("cross_evaluation")
        if not 0 <= self.min_coverage <= 1:
            text = f"The smallest coverage {self.min_coverage} is not between 0 and 1."
            raise UserError(text).of("min_coverage")
        with about("policy", "policy_options"):
            round_policies.check(self.policy, self.policy_options)
        with about("alignment", "sharing"):
            alignment.check_policies(self.alignment, self.sharing)
        with about("weighting"):
            weighting.check_policy(self.weighting)
        with about("strategy", "strategy_options"):
            strategies.by_name(self.strategy, self.strategy_options)
        with about("encoding", "encoding_options"):
            encodings.by_name(self.encoding, self.encoding_options)
        with about("model_encoding", "model_encoding_options"):
            encodings.by_name(self.model_encoding, self.model_encoding_options)
        check_averages(self.average_last, self.ema, rounds=self.rounds)
        if self.ensemble:
            check_ensemble(
                mode=self.mode,
                rounds=self.rounds,
                keep_local=self.keep_local,
                configurations=self.configuration.split(","),
            )
        check_train_only(self.train_only, mode=self.mode, ensemble=self.ensemble)
        check_secure_sums(self)
        check_local(
            self.keep_local,
            self.keep_local_export,
            mode=self.mode,
            strategy=strategies.by_name(self.strategy, self.strategy_options),
            encoding=self.encoding,
        )

    def asym(self) -> AsymSpec | None:
        """Return how sites with networks of their own share tensors; None in the mode ``ffe``."""
        if self.mode != ASYM:
            return None
        return AsymSpec(
            alignment=self.alignment,
            sharing=self.sharing,
            min_coverage=self.min_coverage,
            cross_evaluation=self.cross_evaluation,
        )

    def schedule(self) -> Schedule:
        """Return the budget in nnU-Net epochs: 250 iterations, or a round of N in one epoch."""
        return Schedule(
            rounds=self.rounds,
            local_epochs=self.local_epochs or 1,
            iterations_per_epoch=self.local_iterations or 250,
            val_iterations_per_epoch=self.val_iterations,
            seed=self.seed,
            local_minutes=self.local_minutes,
            learning_rate=self.learning_rate,
        )


@contextlib.contextmanager
def about(*options: str) -> Iterator[None]:
    """Let an error in the block name the options that it is about."""
    try:
        yield
    except FedfsError as error:
        error.of(*options)
        raise


def read_dataset_json(path: Path) -> Mapping[str, Any]:
    """Return the content of a ``dataset.json``.

    Raises:
        UserError: missing, not JSON, or without ``channel_names`` or ``labels``.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror}.", hint="check the path and its permissions"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON: {error}.",
            hint=_FORMAT_HINT,
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is not a dataset.json: not an object.",
            hint=_FORMAT_HINT,
        )
    for name in ("channel_names", "labels", "file_ending"):
        if name not in value:
            raise UserError(
                f"{path} has no {name!r}.",
                hint="it has to be a dataset.json as nnU-Net v2 wants it",
            )
    return value
