"""Commands of the coordinator: ``init``, ``approve``, ``pause``, ``close-round`` and others."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.command import argument, command, option
from fedfs.cli.options import json_option, store_argument, yes_option, yes_option_if
from fedfs.cli.study_options import study_options
from fedfs.cli.terminal import confirm, show_json, show_pairs, show_table
from fedfs.store import StorePlace, open_store

if TYPE_CHECKING:
    from fedfs.roles.coordinator.amend import Coordinator
    from fedfs.roles.coordinator.options import StudyOptions


@command(
    example="""\
fedfs init /mnt/share/organ --name organ --dataset-json dataset.json \\
    --dataset-name Dataset042_Organ -c 2d --rounds 20 --min-sites 2"""
)
@store_argument
@study_options
@json_option
def init(store: StorePlace, *, dataset_json: Path | None, pretrained: Path | None,
         continued: str | None, continue_track: str | None, as_json: bool, one_aggregator: bool,
         allowed_trainers: tuple[str, ...], **options: Any) -> None:  # fmt: skip
    """Start a study.

    Writes its charter to STORE, and makes the keys of coordinator and aggregator on this host.
    """
    from fedfs.aggregation.strategies import package_of
    from fedfs.nnunet.allowed.classes import versions
    from fedfs.nnunet.system.isolated import run_isolated
    from fedfs.roles.coordinator.begin import init_study
    from fedfs.roles.coordinator.continuing import read_finished
    from fedfs.roles.coordinator.options import StudyOptions, read_dataset_json
    from fedfs.roles.doctor.store_checks import require_atomic_create
    from fedfs.trust.keyring import default_home
    from fedfs.trust.recipients import Vault
    from fedfs.trust.signing import key_fingerprint

    if dataset_json is None and continued is None:
        raise click.UsageError("Missing option '--dataset-json'.")
    if pretrained is not None and continued is not None:
        raise click.UsageError("give --pretrained or --continue, not both")
    options["target_spacing"] = options["target_spacing"] or None
    if dataset_json is not None:
        options["dataset_json"] = read_dataset_json(dataset_json)
    with tempfile.TemporaryDirectory() as folder:
        continues = None
        if continued is not None:
            old = open_store(StorePlace(continued, store.s3))
            vault = Vault(default_home())
            finished = read_finished(old, Path(folder), continue_track, vault)
            options = finished.options(_given(options))
            continues, pretrained = finished.continues, finished.weights
        chosen = StudyOptions(**options)
        if pretrained is not None and "," in chosen.configuration:
            raise click.UsageError("--pretrained is the network of one configuration, not several")
        place = open_store(store, must_exist=False)
        if not one_aggregator and store.url.startswith("s3://"):
            require_atomic_create(place)
        _check_classes(chosen, allowed_trainers, Path(folder))
        if pretrained is not None and continues is None:
            converted = Path(folder) / "pretrained.safetensors"
            request = {"checkpoint": str(pretrained.absolute()), "output": str(converted)}
            run_isolated("convert_checkpoint", request, workdir=Path(folder))
            pretrained = converted
        charter = init_study(
            place,
            default_home(),
            chosen,
            clock=time.time,
            versions={**versions(), **package_of(chosen.strategy)},
            pretrained=pretrained,
            continues=continues,
        )
    facts = {
        "study": charter.study,
        "coordinator key": key_fingerprint(charter.coordinator_key),
        "aggregator key": key_fingerprint(charter.aggregator_key),
        "store": str(store),
    }
    if continues is not None:
        facts["continues"] = f"version {continues.version} of {continues.study}"
    if as_json:
        show_json({name.replace(" ", "_"): value for name, value in facts.items()})
        return
    show_pairs(facts)
    click.echo(
        f"\nNext, at every site:  fedfs site join {store} --site NAME --dataset DatasetXXX_NAME"
    )
    click.echo(f"then here:            fedfs approve {store} --all")
    click.echo(f"and, as a service:    fedfs aggregate {store}")


def _check_classes(chosen: StudyOptions, allowed_trainers: tuple[str, ...], folder: Path) -> None:
    """Check that nnU-Net has the trainer and the planner of a study."""
    from fedfs.nnunet.system.isolated import run_isolated

    usual = type(chosen)
    if chosen.trainer != usual.trainer:
        check = {"trainer": chosen.trainer, "allowed_trainers": allowed_trainers}
        run_isolated("check_trainer", check, workdir=folder)
    if chosen.planner != usual.planner:
        run_isolated("check_planner", {"planner": chosen.planner}, workdir=folder)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that somebody has set, defaults left out."""
    source = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    return {
        name: value
        for name, value in options.items()
        if value is not None and source(name) is not default
    }


def coordinator_of(store: StorePlace) -> Coordinator:
    """Return the coordinator of the study at a store, with the keys of this host."""
    from fedfs.roles.coordinator.amend import Coordinator
    from fedfs.trust.keyring import default_home

    return Coordinator(open_store(store), default_home(), clock=time.time)


@command(example="fedfs approve /mnt/share/organ north south")
@store_argument
@argument("sites", nargs=-1, help="Names of the sites.")
@option("--all", "everybody", is_flag=True, help="Approve every site that has asked.")
@option("--replace-key", is_flag=True, help="Also where a site's key is lost, or it was removed.")
@json_option
def approve(
    store: StorePlace, sites: tuple[str, ...], *, everybody: bool, replace_key: bool, as_json: bool
) -> None:
    """Admit sites to the study.

    Compare the key fingerprints with each site by telephone.
    A site that has asked for another key (fedfs key rotate) goes on with that one.
    """
    from fedfs.roles.coordinator.roster import approve_sites
    from fedfs.trust.signing import key_fingerprint

    if everybody == bool(sites):
        raise click.UsageError("name the sites to approve, or give --all")
    coordinator = coordinator_of(store)
    entries = approve_sites(coordinator, None if everybody else sites, replace_keys=replace_key)
    rows = [(entry.site, key_fingerprint(entry.public_key)) for entry in entries]
    if as_json:
        show_json({"charter": coordinator.charter.number, "approved": dict(rows)})
    elif rows:
        show_table(("approved", "key fingerprint, to compare by telephone"), rows)
    else:
        click.echo("nobody new to approve")


def _roster_command(name: str, state: str, text: str, *, needs_yes: bool = False) -> click.Command:
    """Return a command that sets the state of sites on the roster."""
    example = f"fedfs {name} /mnt/share/organ north{' --yes' if needs_yes else ''}"

    @command(name, help=text, example=example)
    @store_argument
    @argument("sites", nargs=-1, required=True, help="Names of the sites.")
    @yes_option_if(needs_yes)
    @json_option
    def change(
        store: StorePlace, sites: tuple[str, ...], *, as_json: bool, yes: bool = True
    ) -> None:
        from fedfs.roles.coordinator.roster import set_state

        confirm(f"Remove {', '.join(sites)} from the study at {store}?", yes=yes)
        charter = set_state(coordinator_of(store), sites, state)
        roster = {entry.site: entry.state for entry in charter.roster}
        if as_json:
            show_json({"charter": charter.number, "roster": roster})
            return
        states = ", ".join(f"{site}: {state}" for site, state in roster.items())
        click.echo(f"charter {charter.number}  {states}")

    return change


pause = _roster_command(
    "pause",
    "paused",
    """Let rounds go on without sites.

They come back with fedfs resume.""",
)
resume = _roster_command("resume", "active", "Let paused sites take part again.")
remove = _roster_command(
    "remove",
    "removed",
    """Remove sites from the study.

What they send from now on is refused; what they have published stays.""",
    needs_yes=True,
)


@command("close-round", example="fedfs close-round /mnt/share/organ --yes")
@store_argument
@option("--track", metavar="NAME", help="The track, in a study of several.")
@yes_option
@json_option
def close_round(store: StorePlace, *, track: str | None, yes: bool, as_json: bool) -> None:
    """Close a round with the updates there are.

    If all were refused, the next version is equal to the one before, and sites that have been
    repaired train from that. Use it where a round waits for what will not come.
    """
    from fedfs.roles.coordinator import rounds

    confirm(
        f"Close the round at {store} now? Updates that are not there yet are left out.", yes=yes
    )
    charter = rounds.close_round(coordinator_of(store), track)
    if as_json:
        show_json({"charter": charter.number, "closed_rounds": charter.closed_rounds})
        return
    closed = ", ".join(
        f"version {version} of {name}" for name, version in charter.closed_rounds.items()
    )
    click.echo(f"charter {charter.number}  closes the round of {closed}")
