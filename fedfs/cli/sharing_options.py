"""Options of ``fedfs init`` about what sites share, and what each of them has for itself."""

import click

from fedfs.cli.command import NETWORK, option
from fedfs.cli.options import default_option


def unless_none(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Return a value as the charter has it; a callback of click's."""
    return "" if value == "none" else value


SHARING_OPTIONS = (
    default_option(
        "--mode",
        type=click.Choice(["ffe", "asym"]),
        default="ffe",
        help="One plan for all sites, or every site plans for itself and shares what fits.",
        section=NETWORK,
    ),
    default_option(
        "--alignment",
        type=click.Choice(["resolution", "name"]),
        default="resolution",
        help="Mode asym: by what the tensors of unlike networks are matched.",
        section=NETWORK,
    ),
    default_option(
        "--sharing",
        type=click.Choice(["per-tensor", "intersection"]),
        default="per-tensor",
        help="Mode asym: per-tensor shares what two sites have, intersection what all have.",
        section=NETWORK,
    ),
    default_option(
        "--min-coverage",
        default=0.5,
        help="Mode asym: smallest share of its parameters that every site has to share.",
        section=NETWORK,
    ),
    option(
        "--cross-evaluation",
        is_flag=True,
        help="Mode asym: in the end each site publishes its whole model, and scores the others'.",
        section=NETWORK,
    ),
    option(
        "--keep-local",
        type=click.Choice(["none", "norm"]),
        default="none",
        callback=unless_none,
        help="norm: each site keeps its own normalisation layers, and a model of its own (FedBN).",
        section=NETWORK,
    ),
    option(
        "--keep-local-export",
        type=click.Choice(["none", "mean"]),
        default="none",
        callback=unless_none,
        help="mean: their mean travels too, so that there is a model for others.",
        section=NETWORK,
    ),
    option(
        "--train-only",
        callback=lambda _context, _option, value: value or "",
        metavar="PATTERNS",
        help="Train only norm, heads or tensors by name (*), with commas; the rest is frozen.",
        section=NETWORK,
    ),
)
