"""The command ``site audit``: what a site's updates tell about its cases, tested at the site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fedfs.cli import options
from fedfs.cli.command import TRAINING, command, option
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import show_json, show_table
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.aggregation.membership import Separation
    from fedfs.nnunet.membership.inversion import Inversion
    from fedfs.nnunet.system.environment import HostSettings
    from fedfs.roles.site.membership.result import MembershipAudit


@command(example="fedfs site audit /mnt/share/organ --site north --version 7")
@options.store_argument
@options.this_site_option
@option(
    "--version",
    "versions",
    multiple=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Test this version, and the update that was trained from it; repeatable. Default: all.",
)
@options.some_tracks_option(
    help="Test this track only, in a study of several; repeatable. Default: all of them.",
)
@options.default_option(
    "--references",
    "n_references",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    section=TRAINING,
    help="Also train N models to compare with, each on half of the cases and as long as the study.",
)
@option(
    "--inversion",
    is_flag=True,
    help="Also search a patch of one case by its gradient, at version 0 and the newest.",
)
@options.device_option
@options.allow_trainer_option
@options.json_option
@options.takes_host
def audit(
    store: StorePlace,
    name: str,
    *,
    versions: tuple[int, ...],
    n_references: int,
    inversion: bool,
    tracks: tuple[str, ...],
    host: HostSettings,
    as_json: bool,
) -> None:
    """Test what updates tell about own cases.

    Attacks the site's updates and the global versions as their readers could: do these fit the
    cases that were trained on better than those that were kept back? Nothing is published.
    """
    from fedfs.roles.site.config import SiteConfig
    from fedfs.roles.site.membership.audit import AuditOptions, audit_membership
    from fedfs.trust.keyring import default_home

    config = SiteConfig(store, name, default_home(), host, tracks=tracks)
    chosen = AuditOptions(versions=versions, n_references=n_references, inversion=inversion)
    with ProgressDisplay() as display:
        found = audit_membership(config, chosen, display)
    if as_json:
        show_json({"site": name, "tracks": found})
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        _show(one, several=len(found) > 1)


def _show(found: MembershipAudit, *, several: bool) -> None:
    from fedfs.aggregation.membership import ATTACKS, FPR
    from fedfs.roles.site.membership.result import model_name

    where = f"Track {found.track}: " if several else ""
    click.echo(
        f"{where}{found.n_trained} cases that were trained on against {found.n_others} that were "
        "kept back."
    )
    names = [name for name in ATTACKS if any(name in model.attacks for model in found.models)]
    click.echo()
    click.secho("AUC, 0.5 is guessing (95 % interval)", bold=True)
    show_table(
        ["model", "Dice trained", "Dice kept back", *names],
        [
            [model_name(model), _dice(model.dice_trained), _dice(model.dice_others)]
            + [_auc(model.attacks.get(name)) for name in names]
            for model in found.models
        ],
    )
    click.echo()
    click.secho(f"True positives at {FPR:.0%} false positives (95 % interval)", bold=True)
    show_table(
        ["model", *names],
        [
            [model_name(model), *(_tpr(model.attacks.get(name)) for name in names)]
            for model in found.models
        ],
    )
    click.echo()
    for name in names:
        click.echo(f"{name}: {ATTACKS[name]}")
    if found.inversions:
        _show_inversions(found.inversions)
    for sentence in (*found.sentences(), *found.notes):
        click.echo(sentence)


def _show_inversions(found: Sequence[Inversion]) -> None:
    click.echo()
    click.secho("A patch of one case, searched by its gradient: correlation, SSIM", bold=True)
    show_table(
        ["version", "found", "from the labels alone", "patches of other cases"],
        [
            [
                one.version,
                *(
                    f"{like.correlation:.2f}, {like.ssim:.2f}"
                    for like in (one.found, one.from_labels, one.others)
                ),
            ]
            for one in found
        ],
    )
    click.echo()


def _dice(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _auc(found: Separation | None) -> str | None:
    return None if found is None else _with_interval(found.auc, found.auc_low, found.auc_high)


def _tpr(found: Separation | None) -> str | None:
    return None if found is None else _with_interval(found.tpr, found.tpr_low, found.tpr_high)


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"
