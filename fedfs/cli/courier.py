"""Commands of a courier: bundles in files, and copying between two stores."""

import dataclasses
import time
from pathlib import Path

import click

from fedfs.cli.command import STORAGE, argument, command, group, option
from fedfs.cli.exit_codes import end_with
from fedfs.cli.options import (
    FILE,
    default_option,
    json_option,
    log_format_option,
    store_argument,
)
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import show_json, show_table, start_logging
from fedfs.errors import EXIT_WAITING, SealedError
from fedfs.protocol import values
from fedfs.protocol.values import HELPER_SITE
from fedfs.roles.reader.units import format_count, format_size
from fedfs.store import StorePlace, open_store


@group(example="fedfs bundle export /mnt/share/organ --for north -o to-north.fedfs")
def bundle() -> None:
    """Carry a study by USB stick.

    To and from a site without a network, or the helper of secure sums.
    """


_file = argument("file", type=FILE, help="The bundle.")
_identity = option(
    "--identity",
    "identity_files",
    multiple=True,
    type=FILE,
    help="Further age identity that may open the bundle. Repeatable.",
)


@bundle.command(
    "export", example="fedfs bundle export /mnt/share/organ --for north -o to-north.fedfs"
)
@store_argument
@option("--for", "for_site", metavar="SITE", help="Export what this site still needs.")
@option("--from", "from_site", metavar="SITE", help="Export what this site has published.")
@option("--for-helper", is_flag=True, help="Export what the helper of secure sums still needs.")
@option("--from-helper", is_flag=True, help="Export what the helper has published.")
@option("-o", "--output", required=True, type=FILE, help="File to write.")
@option("--split", metavar="SIZE", help="Split it into parts of this size, e.g. 4GB for FAT32.")
@option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="AGE",
    help="Key of somebody who can read it, age1... Repeatable.",
)
@option("--plain", is_flag=True, help="Do not encrypt.")
@option("--everything", is_flag=True, help="Also export what the other side is known to have.")
@json_option
def export_(
    store: StorePlace,
    *,
    for_site: str | None,
    from_site: str | None,
    for_helper: bool,
    from_helper: bool,
    output: Path,
    split: str | None,
    recipients: tuple[str, ...],
    plain: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Write what has to be carried to a file.

    The file is encrypted for whoever has to read it: for the site or the helper, or for coordinator
    and aggregator.
    """
    from fedfs.roles.courier.bundle.parts import parse_size
    from fedfs.roles.courier.needed import FOR, FROM
    from fedfs.roles.courier.outgoing import export_bundle
    from fedfs.roles.courier.party import party_name
    from fedfs.trust.keyring import default_home
    from fedfs.trust.sealing import parse_recipient

    if sum([for_site is not None, from_site is not None, for_helper, from_helper]) != 1:
        raise click.UsageError("Give --for SITE or --from SITE, or --for-helper or --from-helper.")
    if plain and recipients:
        raise click.UsageError("Give --plain or --recipient, not both.")
    is_helper, direction = for_helper or from_helper, FOR if for_site or for_helper else FROM
    site = HELPER_SITE if is_helper else values.check_site(for_site or from_site or "")
    for recipient in recipients:
        parse_recipient(recipient)
    start_logging()
    with ProgressDisplay() as display:
        exported = export_bundle(
            open_store(store),
            output,
            site,
            direction,
            home=default_home(),
            clock=time.time,
            on_progress=display,
            recipients=() if plain else recipients or None,
            part_bytes=parse_size(split) if split else 0,
            everything=everything,
        )
    if as_json:
        show_json(exported or {"n_objects": 0, "paths": []})
    elif exported is None:
        click.echo(f"nothing to carry {direction} {party_name(site)}")
    if exported is None:
        raise click.exceptions.Exit(EXIT_WAITING)
    if as_json:
        return
    kept = f", {exported.n_kept} of them written before" if exported.n_kept else ""
    click.echo(
        f"{format_count(exported.n_objects, 'object')}, {format_size(exported.n_bytes)}{kept}"
    )
    for path in exported.paths:
        click.echo(f"wrote {path}, {format_size(path.stat().st_size)}")
    if not exported.sealed_for:
        click.echo("not encrypted: whoever has the file can read it")
    elif recipients:
        click.echo(f"encrypted for {', '.join(exported.sealed_for)}")
    else:
        readers = party_name(site) if direction == FOR else "the coordinator and the aggregator"
        click.echo(f"encrypted for {readers}")


@bundle.command("import", example="fedfs bundle import to-north.fedfs /data/organ")
@_file
@store_argument
@_identity
@json_option
def import_(
    file: Path, store: StorePlace, *, identity_files: tuple[Path, ...], as_json: bool
) -> None:
    """Publish what a bundle holds.

    The bundle is checked first; of a split one, name any part. Nothing is published of a bundle
    with a fault. Importing again is harmless.
    """
    from fedfs.roles.courier.incoming import import_bundle
    from fedfs.roles.courier.party import party_name
    from fedfs.trust.keyring import default_home
    from fedfs.trust.sealing import load_identity

    start_logging()
    with ProgressDisplay() as display:
        done = import_bundle(
            file,
            open_store(store, must_exist=False),
            home=default_home(),
            on_progress=display,
            identities=[load_identity(path) for path in identity_files],
        )
    if as_json:
        show_json(done)
        return
    whom = f"{done.header.direction} {party_name(done.header.site)}"
    what = f"bundle {whom} of {done.header.created_at}"
    if not done.n_new:
        there = format_count(done.n_there, "object")
        click.echo(f"{what}: nothing new, {there} not needed or there already")
    else:
        there = f"; not needed, or there already: {done.n_there}" if done.n_there else ""
        click.echo(f"{what}: published {format_count(done.n_new, 'object')}{there}")


@bundle.command(example="fedfs bundle show to-north.fedfs")
@_file
@_identity
@json_option
def show(file: Path, *, identity_files: tuple[Path, ...], as_json: bool) -> None:
    """Show what a bundle holds.

    What is in it is listed if this host can open it.
    """
    from fedfs.roles.courier.bundle.unpack import BundleReader
    from fedfs.roles.courier.incoming import unsealer
    from fedfs.roles.courier.party import party_name
    from fedfs.trust.keyring import default_home
    from fedfs.trust.sealing import load_identity

    keys = [load_identity(path) for path in identity_files]
    with BundleReader(file) as reader:
        header, items, reason = reader.header, None, ""
        try:
            items = reader.index(unsealer(header, default_home(), keys)).items
        except SealedError as error:
            reason = str(error)
        if as_json:
            show_json({"header": header, "items": items, "bytes": reader.n_bytes})
            return
        parts = f" in {reader.n_parts} parts" if reader.n_parts > 1 else ""
        whom = f"{header.direction} {party_name(header.site)}"
        click.echo(f"bundle {whom}, of {header.created_at}")
        click.echo(f"study {header.study}")
        sealed = "encrypted" if header.sealed else "not encrypted"
        click.echo(f"{format_size(reader.n_bytes)}{parts}, {sealed}")
    if items is None:
        click.echo(reason)
        return
    click.echo("")
    show_table(("object", "bytes"), [(item.key, item.size) for item in items])


@command(example="fedfs sync s3://bucket/organ /mnt/internal/organ --site north --watch")
@store_argument
@argument("outpost", help="The other store, where the sites work.")
@option("--site", "sites", multiple=True, help="A site at OUTPOST. Repeatable.")
@option("--helper", is_flag=True, help="The helper of secure sums is at OUTPOST.")
@option("--watch", is_flag=True, help="Go on until the study is finished.")
@json_option
@default_option(
    "--poll-interval", default=1.0, section=STORAGE, metavar="SECONDS", help="Shortest wait."
)
@default_option(
    "--max-poll-interval", default=30.0, section=STORAGE, metavar="SECONDS", help="Longest wait."
)
@log_format_option
def sync(
    store: StorePlace,
    outpost: str,
    *,
    sites: tuple[str, ...],
    helper: bool,
    watch: bool,
    poll_interval: float,
    max_poll_interval: float,
    log_format: str,
    as_json: bool,
) -> None:
    """Copy between two stores.

    The aggregator works at STORE, and sites or the helper work at OUTPOST. For a host in a DMZ that
    sees a bucket and an internal share: what they need goes to the outpost, what they have
    published comes back.
    """
    from fedfs.roles.courier.sync import run_sync
    from fedfs.roles.polling import WaitSettings

    if not sites and not helper:
        raise click.UsageError("Give --site SITE or --helper.")
    parties = [*map(values.check_site, sites), *([HELPER_SITE] if helper else [])]
    start_logging(log_format=log_format)
    with ProgressDisplay() as display:
        outcome = run_sync(
            open_store(store),
            open_store(dataclasses.replace(store, url=outpost), must_exist=False),
            parties,
            on_progress=display,
            once=not watch,
            settings=WaitSettings(poll_interval, max_poll_interval),
        )
    end_with(outcome, once=False, as_json=as_json)
