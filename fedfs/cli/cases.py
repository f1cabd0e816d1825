"""The command ``site cases``: a page of a site's validation cases, which stays at the site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfs.cli import options
from fedfs.cli.command import OUTPUT, command, option
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import show_json
from fedfs.roles.reader.units import format_size
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.nnunet.system.environment import HostSettings


@command(example="fedfs site cases /mnt/share/organ --site north -o cases.html")
@options.store_argument
@options.this_site_option
@options.default_option(
    "-o", "--output", default="cases.html", type=options.FILE, section=OUTPUT, help="HTML file."
)
@options.default_option(
    "--cases",
    "n_shown",
    default=20,
    type=click.IntRange(min=1),
    metavar="N",
    help="Show pictures of the N worst.",
)
@option("--channel", help="Name or number of the channel to show; default: the first.")
@options.some_tracks_option(
    help="Show this track only, in a study of several; repeatable. Default: all of them.",
)
@options.num_processes_option(help="Workers that read images.")
@options.json_option
@options.takes_host
def cases(
    store: StorePlace,
    name: str,
    output: Path,
    *,
    n_shown: int,
    channel: str | None,
    tracks: tuple[str, ...],
    host: HostSettings,
    as_json: bool,
) -> None:
    """Show validation cases, the worst first.

    Writes a page with the images, the outlines of the reference and of each model of this site,
    Dice and HD95. The page stays at the site: nothing of it is published.
    """
    from fedfs.roles.site.cases.validation import show_cases
    from fedfs.roles.site.config import SiteConfig
    from fedfs.trust.keyring import default_home

    config = SiteConfig(store, name, default_home(), host, tracks=tracks)
    with ProgressDisplay() as display:
        made = show_cases(config, output, channel=channel, n_shown=n_shown, on_progress=display)
    page = made.page
    for reason in page.broken.values():
        click.echo(f"not shown: {reason}", err=True)
    if as_json:
        show_json(
            {
                "page": output, "models": made.models, "n_shown": page.n_shown,
                "cases": page.cases, "broken": page.broken,
            }
        )  # fmt: skip
        return
    size = format_size(output.stat().st_size)
    click.echo(f"wrote {output}, {size}: {page.n_shown} of {len(page.cases)} validation cases")
    click.echo("It shows patients' images: keep it in the hospital.")
    for model, flag in made.to_compare.items():
        click.echo(f"To compare with a {model} model:  fedfs site run {store} --site {name} {flag}")
