"""Options of ``fedfs init``: all that a coordinator chooses for a study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fedfs.cli.options import allow_trainer_option, default_option, numbers_option, with_options

_OPTIONS = (
    click.option("--name", required=True, help="Name of the study: a-z, 0-9 and -."),
    click.option(
        "--dataset-json",
        type=click.Path(path_type=Path),
        help="nnU-Net dataset.json that every site's has to agree with (channels, labels).",
    ),
    click.option("--dataset-name", help="DatasetXXX_NAME of the exported model."),
    default_option(
        "--mode",
        type=click.Choice(["ffe", "asym"]),
        default="ffe",
        help="One plan for all sites, or every site plans for itself and shares what fits.",
    ),
    default_option(
        "--alignment",
        default="resolution",
        help="Mode asym: which tensors of unlike networks are the same: by resolution or name.",
    ),
    default_option(
        "--sharing",
        default="per-tensor",
        help="Mode asym: per-tensor shares what two sites have, intersection what all have.",
    ),
    default_option(
        "--min-coverage",
        default=0.5,
        help="Mode asym: smallest share of its parameters that every site has to share.",
    ),
    click.option(
        "--cross-evaluation",
        is_flag=True,
        help="Mode asym: in the end each site publishes its whole model, and scores the others'.",
    ),
    default_option(
        "-c",
        "--configuration",
        callback=lambda _context, _option, value: value.replace(" ", ""),
        default="3d_fullres",
        help="2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres; several, with commas, become tracks.",
    ),
    default_option("--planner", default="ExperimentPlanner"),
    default_option("--trainer", default="nnUNetTrainer"),
    allow_trainer_option,
    default_option(
        "-f",
        "--fold",
        callback=lambda _context, _option, value: value.replace(" ", ""),
        default="0",
        help="0 to 4, or all; several, with commas, become tracks.",
    ),
    default_option("--rounds", default=20, help="Global versions to make."),
    click.option(
        "--encryption",
        type=click.Choice(["", "age"]),
        default="",
        help="age: updates for the aggregator only, models and plans for the roster only.",
    ),
    default_option(
        "--max-move-ratio",
        default=100.0,
        help="Refuse updates that move the model so many times as far as their median; 0: none.",
    ),
    click.option(
        "--fingerprint-digits",
        type=click.IntRange(min=1),
        help="Round the numbers in fingerprints to so many significant digits.",
    ),
    click.option(
        "--fingerprint-quantiles",
        type=click.IntRange(min=1),
        help="Publish so many quantiles of sizes and spacings instead of a line per case.",
    ),
    click.option(
        "--local-epochs", type=int, help="nnU-Net epochs per round (250 iterations each)."
    ),
    click.option("--local-iterations", type=int, help="Iterations per round, as one epoch."),
    click.option("--local-minutes", type=float, help="End a round's training after so long."),
    default_option("--val-iterations", default=50, help="Per epoch and evaluation."),
    click.option(
        "--gpu-memory-target",
        "gpu_memory_target_gb",
        type=float,
        metavar="GB",
        help="As nnU-Net's planner takes it.",
    ),
    click.option(
        "--target-spacing", type=float, nargs=3, metavar="MM MM MM", help="Of 3d_fullres."
    ),
    numbers_option(
        "--planner-option",
        "planner_options",
        "Attribute of nnU-Net's planner, e.g. UNet_base_num_features=16.",
    ),
    click.option(
        "--pretrained", type=click.Path(path_type=Path), help="nnU-Net checkpoint to start from."
    ),
    click.option(
        "--continue",
        "continued",
        metavar="STORE",
        help="A finished study: go on from its last version, with its plan, dataset and trainer.",
    ),
    click.option("--continue-track", metavar="NAME", help="Of that study's tracks."),
    default_option("--policy", default="all", help="When a round closes: all, quorum or buffer."),
    numbers_option(
        "--policy-option",
        "policy_options",
        "E.g. sites=3, cases_percent=60, grace_minutes=30, deadline_minutes=1440 of quorum; "
        "size=4 of buffer; staleness_exponent=0.5.",
    ),
    default_option("--weighting", default="n_cases", help="n_cases or uniform."),
    default_option("--strategy", default="FedAvg", help="How updates are combined."),
    numbers_option("--strategy-option", "strategy_options", "E.g. server_momentum=0.9."),
    default_option(
        "--encoding", default="fp32", help="How updates travel: fp32, fp16, bf16, int8 or topk."
    ),
    numbers_option("--encoding-option", "encoding_options", "E.g. fraction=0.05 of topk."),
    default_option(
        "--model-encoding",
        default="fp32",
        help="How global versions travel: in full (fp32), or as deltas (fp16, bf16, int8, topk).",
    ),
    numbers_option("--model-encoding-option", "model_encoding_options", "As --encoding-option."),
    default_option(
        "--keyframe-every",
        default=10,
        help="Of versions that travel as deltas, each so-many-th is also there in full.",
    ),
    default_option("--min-sites", default=2, help="Sites to wait for before planning."),
    default_option("--minimum-cases", default=1, help="Fewest cases a site may have."),
    click.option(
        "--one-aggregator",
        is_flag=True,
        help="Also on a server where two aggregators could both win; you run only one.",
    ),
    default_option("--seed", default=12345, help="Of the initial weights."),
)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a new study."""
    return with_options(command, _OPTIONS)
