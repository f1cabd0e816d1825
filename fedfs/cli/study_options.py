"""Options of ``fedfs init``: all that a coordinator chooses for a study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fedfs.cli.command import NETWORK, PRIVACY, ROUNDS, STORAGE, STUDY, TRAINING, option
from fedfs.cli.options import allow_trainer_option, default_option, numbers_option, with_options
from fedfs.cli.secure_options import SECURE_OPTIONS
from fedfs.cli.sharing_options import SHARING_OPTIONS, unless_none
from fedfs.cli.spelling import NAMED_PLACE

_ENCODINGS = ("fp32", "fp16", "bf16", "int8", "topk", "fixed", "randk")


def _strategies() -> list[str]:
    """Return the names of all strategies that this host has."""
    from fedfs.aggregation.strategies import STRATEGIES, installed

    return [*sorted(cls.__name__ for cls in STRATEGIES.values()), *installed.names()]


_OPTIONS = (
    option(
        "--name",
        required=True,
        metavar="NAME",
        help="Name of the study: a-z, 0-9 and -.",
        section=STUDY,
    ),
    option(
        "--dataset-json",
        type=click.Path(path_type=Path),
        help="nnU-Net dataset.json that every site's has to agree with (channels, labels).",
        section=STUDY,
    ),
    option(
        "--dataset-name",
        metavar="NAME",
        help="DatasetXXX_NAME of the exported model.",
        section=STUDY,
    ),
    option(
        "--continue",
        "continued",
        metavar="STORE",
        help="A finished study: go on from its last version, with its plan, dataset and trainer.",
        section=STUDY,
    ),
    option(
        "--evaluate",
        multiple=True,
        metavar=NAMED_PLACE,
        help="Train nothing: every site scores this model, a model folder or zip. Repeatable.",
        section=STUDY,
    ),
    option(
        "--continue-track",
        metavar="NAME",
        help="Track of that study, if it has several.",
        section=STUDY,
    ),
    default_option(
        "--min-sites", default=2, help="Sites to wait for before planning.", section=STUDY
    ),
    default_option(
        "--minimum-cases", default=1, help="Fewest cases a site may have.", section=STUDY
    ),
    *SHARING_OPTIONS,
    default_option(
        "-c",
        "--configuration",
        callback=lambda _context, _option, value: value.replace(" ", ""),
        default="3d_fullres",
        names=lambda: ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"),
        help="{names}; several, with commas, become tracks.",
        section=NETWORK,
    ),
    default_option(
        "--planner", default="ExperimentPlanner", help="nnU-Net's planner.", section=NETWORK
    ),
    option(
        "--gpu-memory-target",
        "gpu_memory_target_gb",
        type=float,
        metavar="GB",
        help="GPU memory that nnU-Net's planner plans for.",
        section=NETWORK,
    ),
    option(
        "--target-spacing",
        type=float,
        nargs=3,
        metavar="MM MM MM",
        help="Target spacing of 3d_fullres.",
        section=NETWORK,
    ),
    numbers_option(
        "--planner-option",
        "planner_options",
        "Attribute of nnU-Net's planner, e.g. UNet_base_num_features=16.",
        section=NETWORK,
    ),
    option(
        "--pretrained",
        type=click.Path(path_type=Path),
        help="nnU-Net checkpoint to start from.",
        section=NETWORK,
    ),
    default_option("--seed", default=12345, help="Seed of the initial weights.", section=NETWORK),
    default_option(
        "--trainer", default="nnUNetTrainer", help="nnU-Net's trainer.", section=TRAINING
    ),
    allow_trainer_option,
    default_option(
        "-f",
        "--fold",
        callback=lambda _context, _option, value: value.replace(" ", ""),
        default="0",
        names=lambda: ("0", "1", "2", "3", "4", "all"),
        help="0 to 4, or all; several, with commas, become tracks.",
        section=TRAINING,
    ),
    option(
        "--local-epochs",
        type=int,
        help="nnU-Net epochs per round, of 250 iterations; default: 1.",
        section=TRAINING,
    ),
    option(
        "--local-iterations", type=int, help="Iterations per round, as one epoch.", section=TRAINING
    ),
    option(
        "--local-minutes",
        type=float,
        help="End a round's training after so many minutes.",
        section=TRAINING,
    ),
    option(
        "--learning-rate",
        type=float,
        help="Learning rate that the schedule begins with; default: the trainer's.",
        section=TRAINING,
    ),
    default_option(
        "--val-iterations",
        default=50,
        help="Validation iterations per epoch and evaluation.",
        section=TRAINING,
    ),
    default_option("--rounds", default=20, help="Global versions to make.", section=ROUNDS),
    option(
        "--max-move-ratio",
        type=float,
        help="Refuse updates that move the model so many times as far as their median, 0: none; "
        "default: 100, and with --secure-sums 0.",
        section=ROUNDS,
    ),
    default_option(
        "--policy",
        type=click.Choice(["all", "quorum", "buffer"]),
        default="all",
        help="When a round closes: with all updates, after a deadline, or with so many updates.",
        section=ROUNDS,
    ),
    numbers_option(
        "--policy-option",
        "policy_options",
        "Of --policy quorum: sites=3 or cases_percent=60, grace=adaptive or grace_minutes=30, "
        "deadline_minutes=1440; of buffer: size=4, deadline_minutes=1440; of each: "
        "staleness_exponent=0.5.",
        section=ROUNDS,
    ),
    default_option(
        "--weighting",
        type=click.Choice(["n_cases", "uniform"]),
        default="n_cases",
        help="Weight of each site: its number of cases, or the same for all.",
        section=ROUNDS,
    ),
    option(
        "--average-last",
        type=int,
        metavar="K",
        help="In the end sites also validate the mean of the last K versions.",
        section=ROUNDS,
    ),
    option(
        "--ema",
        type=float,
        metavar="DECAY",
        help="Publish an exponential average with each version, which sites also validate.",
        section=ROUNDS,
    ),
    default_option(
        "--strategy",
        default="FedAvg",
        metavar="NAME",
        names=_strategies,
        help="How updates are combined, one of those that this host has: {names}.",
        section=ROUNDS,
    ),
    numbers_option(
        "--strategy-option",
        "strategy_options",
        "Of --strategy, e.g. server_momentum=0.9.",
        section=ROUNDS,
    ),
    option(
        "--ensemble",
        is_flag=True,
        help="After the only round each site publishes its model, and scores the ensemble of all.",
        section=ROUNDS,
    ),
    option(
        "--encryption",
        type=click.Choice(["none", "age"]),
        default="none",
        callback=unless_none,
        help="age: updates for the aggregator only, models and plans for the roster only.",
        section=PRIVACY,
    ),
    *SECURE_OPTIONS,
    option(
        "--fingerprint-digits",
        type=click.IntRange(min=1),
        help="Round the numbers in fingerprints to so many significant digits.",
        section=PRIVACY,
    ),
    option(
        "--fingerprint-quantiles",
        type=click.IntRange(min=1),
        help="Publish so many quantiles of sizes and spacings instead of a line per case.",
        section=PRIVACY,
    ),
    option(
        "--encoding",
        type=click.Choice(_ENCODINGS),
        callback=lambda _context, _option, value: value or "",
        help="How updates travel; default: fp32, and with --secure-sums fixed.",
        section=STORAGE,
    ),
    numbers_option(
        "--encoding-option",
        "encoding_options",
        "Of --encoding, e.g. fraction=0.05 of topk.",
        section=STORAGE,
    ),
    default_option(
        "--model-encoding",
        type=click.Choice(_ENCODINGS),
        default="fp32",
        help="How global versions travel: in full (fp32), or as deltas (the others).",
        section=STORAGE,
    ),
    numbers_option(
        "--model-encoding-option",
        "model_encoding_options",
        "Of --model-encoding, likewise.",
        section=STORAGE,
    ),
    default_option(
        "--keyframe-every",
        default=10,
        help="Of versions that travel as deltas, each so-many-th is also there in full.",
        section=STORAGE,
    ),
    option(
        "--one-aggregator",
        is_flag=True,
        help="Also on a server where two aggregators could both win; you run only one.",
        section=STORAGE,
    ),
)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a new study."""
    return with_options(command, _OPTIONS)
