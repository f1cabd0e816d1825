"""Options of ``fedfs init`` about secure sums."""

import click

from fedfs.cli.command import PRIVACY, option
from fedfs.cli.options import default_option

SECURE_OPTIONS = (
    option(
        "--secure-sums",
        is_flag=True,
        help="Nobody sees a single update: the aggregator sees sums, with a helper's help.",
        section=PRIVACY,
    ),
    option(
        "--secure-scores",
        is_flag=True,
        help="Of --secure-sums: nobody sees scores of a single site, but totals over sites.",
        section=PRIVACY,
    ),
    default_option(
        "--min-summed-sites",
        type=click.IntRange(min=1),
        default=3,
        help="Of --secure-sums: fewest sites of a sum.",
        section=PRIVACY,
    ),
    default_option(
        "--max-coefficient-share",
        type=float,
        default=0.8,
        help="Of --secure-sums: largest share of a sum that one site may have.",
        section=PRIVACY,
    ),
    option(
        "--site-clip-norm",
        type=float,
        help="Of --secure-sums: each site scales its update down to this L2 norm.",
        section=PRIVACY,
    ),
)
