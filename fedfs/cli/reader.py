"""Commands for everybody who can read the store: export, verify and log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import command, option
from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.cli.options import (
    FOLDER,
    allow_trainer_option,
    json_option,
    site_option,
    site_unless,
    store_argument,
    takes_host,
    track_option,
)
from fedfs.cli.terminal import show_findings, show_json, show_pairs, show_table
from fedfs.errors import MisplacedError
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedfs.nnunet.system.environment import HostSettings


@command(example="fedfs export /mnt/share/organ -o results")
@store_argument
@option("-o", "--output", required=True, type=FOLDER, help="Folder to use as nnUNet_results.")
@option("--version", type=int, help="Global version to export; default: the newest.")
@option(
    "--average-last", type=int, metavar="K", help="Export the mean of the last K versions instead."
)
@option("--ema", is_flag=True, help="Export the exponential average of versions instead.")
@option("--personal", is_flag=True, help="Export the personal model of the site, on its own host.")
@option("--ensemble", is_flag=True, help="Export the members of the study's ensemble instead.")
@track_option(help="Export this track; default: all, as folds and configurations.")
@option("--dataset-name", help="DatasetXXX_NAME; default: the charter's.")
@site_option(help="Export the model of this site, on its own host (mode asym, --keep-local).")
@allow_trainer_option
@json_option
@takes_host
def export(
    store: StorePlace,
    output: Path,
    *,
    average_last: int | None,
    ema: bool,
    personal: bool,
    ensemble: bool,
    track: str | None,
    name: str | None,
    host: HostSettings,
    as_json: bool,
    **others: Any,
) -> None:
    """Write a model that nnUNetv2_predict takes.

    It is an nnU-Net results folder with the global model; or, at a site, with that site's own,
    where sites have models of their own.
    """
    from fedfs.roles.reader.export import (
        CARD,
        export_choice,
        export_versions,
        predict_commands,
    )
    from fedfs.roles.reader.model_kind import Chosen
    from fedfs.roles.site.config import SiteConfig
    from fedfs.roles.site.export import export_own
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault

    home, instructions = default_home(), None
    if (average_last is not None) + ema + personal + ensemble > 1:
        raise click.UsageError("Give one of --average-last, --ema, --personal and --ensemble.")
    if ensemble:
        _export_ensemble(
            store, output, home=home, host=host, track=track, as_json=as_json, **others
        )
        return
    if personal and name is None:
        raise click.UsageError("--personal is the model of a site, on its host: also give --site.")
    chosen = Chosen(average_last, ema=ema, personal=personal)
    if name is not None and not personal and not _has_models_of_sites(store):
        name = site_unless(name, other_role=True)
    if name is None:
        place = open_store(store)
        done = export_versions(
            place, output, track=track, home=home, host=host, chosen=chosen, **others
        )
    else:
        config = SiteConfig(store, name, home, host=host)
        done = export_own(config, output, track=track, chosen=chosen, **others)
    if not (track or average_last or ema or personal):
        instructions = export_choice(open_store(store), done, vault=Vault(home))
    commands = predict_commands(done)
    if as_json:
        show_json({"models": done, "predict_commands": commands, "instructions": instructions})
        return
    if len(done) == 1:
        card = f"{CARD} in it; fill in what it leaves open"
        kind = {"weights": done[0].model} if done[0].model else {}
        show_pairs({"model": done[0].folder, "version": done[0].version, **kind, "card": card})
    else:
        rows = [(one.folder, one.fold, one.version) for one in done]
        show_table(("model", "fold", "version"), rows)
    click.echo(f"\nPredict with:\n  export nnUNet_results={output}")
    if instructions is not None:
        commands = instructions.read_text(encoding="utf-8").strip().split("\n")
    for line in commands:
        click.echo(f"  {line}")


def _export_ensemble(
    store: StorePlace,
    output: Path,
    *,
    version: int | None,
    as_json: bool,
    **others: Any,
) -> None:
    from fedfs.roles.reader.ensemble_export import export_ensemble

    if version is not None:
        raise click.UsageError("An ensemble is of the models after the only round: no --version.")
    done = export_ensemble(open_store(store), output, **others)
    if as_json:
        show_json({"models": done.members, "predict_commands": done.commands, "card": done.card})
        return
    show_table(("member", "model"), [(site, one.folder) for site, one in done.members.items()])
    click.echo(f"\ncard: {done.card}; fill in what it leaves open")
    click.echo("\nPredict with each, and average:")
    for line in done.commands:
        click.echo(f"  {line.replace('=RESULTS/', f'={output}/')}")


def _has_models_of_sites(store: StorePlace) -> bool:
    from fedfs.exchange.read import open_study
    from fedfs.protocol.areas import NO_SITE

    return open_study(open_store(store), site=NO_SITE).state.charter.has_site_models


@command(example="fedfs verify /mnt/share/organ")
@store_argument
@option("--expect-key", help="Fingerprint of the coordinator's key, from another channel.")
@option("--no-recompute", is_flag=True, help="Check signatures and hashes only.")
@json_option
def verify(store: StorePlace, *, expect_key: str | None, no_recompute: bool, as_json: bool) -> None:
    """Check a whole study from its files alone.

    Checks every signature, hash and chain of versions. Makes every version again from the updates
    that its record names: it has to be the same, bit by bit. Exits with 1 if there is a problem.
    """
    from fedfs.exchange.visible import open_visible, tell_hidden
    from fedfs.roles.reader.audit import verify_study
    from fedfs.roles.reader.choice_audit import verify_choice
    from fedfs.roles.reader.finding import NOTE, Finding
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault
    from fedfs.trust.signing import key_fingerprint

    home = default_home()
    observers = open_visible(open_store(store), home, vault=Vault(home))
    charters = next(iter(observers.values())).state.charters
    first = key_fingerprint(charters[1].coordinator_key)
    if expect_key is not None and expect_key.replace(" ", "") != first.replace(" ", ""):
        raise MisplacedError(
            f"was begun with the key {first}, not with {expect_key}",
            about=f"the study at {store}",
            hint="this is another study",
        )

    hidden = tell_hidden(observers)

    def find() -> Iterator[Finding]:
        if hidden:
            yield Finding("hidden", NOTE, hidden)
        for track, observer in observers.items():
            for one in verify_study(observer, recompute=not no_recompute):
                is_one = len(observers) == 1
                yield one if is_one else replace(one, subject=f"{track} {one.subject}")
        if not hidden:
            yield from verify_choice(next(iter(observers.values())), observers)

    n_problems = show_findings(find(), as_json=as_json)
    if not as_json:
        click.echo(f"\n{n_problems} problems" if n_problems else "\nno problem found")
    if n_problems:
        raise click.exceptions.Exit(EXIT_PROBLEM)


@command(example="fedfs log /mnt/share/organ")
@store_argument
@json_option
def log(store: StorePlace, *, as_json: bool) -> None:
    """List who did what in a study, and when."""
    from fedfs.exchange.visible import open_visible, tell_hidden
    from fedfs.roles.reader.log import events
    from fedfs.roles.tracks import merged
    from fedfs.trust.keyring import default_home

    observers = open_visible(open_store(store), default_home())
    hidden = tell_hidden(observers)
    of_tracks = merged({t: events(o.refresh(everything=True)) for t, o in observers.items()})
    trail = [
        replace(event, what=f"{track}: {event.what}") if track else event
        for track, event in of_tracks
    ]
    if len(observers) > 1:
        trail.sort(key=lambda event: event.at)
    if as_json:
        show_json({"events": trail, "hidden": hidden})
        return
    for event in trail:
        click.echo(f"{event.at or '-':<20}  {event.who:<12}  {event.what}")
    if hidden:
        click.echo(f"\n{hidden}")
