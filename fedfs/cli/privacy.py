"""The command for whoever asks what has left a hospital."""

from __future__ import annotations

import click

from fedfs.cli.store_option import store_argument
from fedfs.cli.terminal import show_json, size_text
from fedfs.store import StorePlace


@click.command()
@store_argument
@click.option("--site", "name", required=True, help="The site.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def privacy(store: StorePlace, *, name: str, as_json: bool) -> None:
    """List all that has left a site so far, what it tells, and who can read it."""
    from fedfs.exchange.read import open_tracks
    from fedfs.protocol import layout
    from fedfs.protocol.state import newest_charter
    from fedfs.roles.reader.privacy import NEVER, disclosures, readers
    from fedfs.roles.tracks import merged
    from fedfs.store import open_store
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault

    site = layout.check_site(name)
    observers = open_tracks(open_store(store), site=site, vault=Vault(default_home()))
    for observer in observers.values():
        observer.refresh(everything=True)
    charter = newest_charter(next(iter(observers.values())).state)
    found = merged({t: disclosures(o.state, site, o.sizes) for t, o in observers.items()})
    if as_json:
        show_json(
            {
                "site": site,
                "disclosures": [{**vars(item), "track": track} for track, item in found],
                "never": NEVER,
                "readers": readers(charter),
            }
        )
        return
    total = size_text(sum(item.n_bytes for _, item in found))
    click.echo(f"What has left {site} in study {charter.study}: {total} on the store.\n")
    for track, item in found:
        size = f", {size_text(item.n_bytes)}" if item.n_bytes else ""
        where = f" of track {track}" if track else ""
        click.echo(click.style(item.what + where, bold=True) + f"  since {item.since}{size}")
        click.echo(f"    {item.amount}")
        click.echo(f"    tells: {item.tells}")
        click.echo(f"    can be read by {item.readers}")
    click.echo(f"\nNever leaves a site: {', '.join(NEVER)}.")
    for sentence in readers(charter):
        click.echo(sentence)
