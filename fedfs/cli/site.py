"""Commands of a site: ``site join`` and ``site run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedfs.cli.exit_codes import end_with
from fedfs.cli.options import (
    allow_trainer_option,
    allow_versions_option,
    device_option,
    json_option,
    keep_versions_option,
    num_processes_option,
    numbers_option,
    once_option,
    site_option,
    skip_broken_option,
    store_argument,
    tracks_option,
    verbose_option,
    wait_options,
)
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.terminal import show_json, show_pairs, start_logging
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.roles.polling import WaitSettings


@click.group()
def site() -> None:
    """What a hospital does: join a study, take part in it."""


@site.command()
@store_argument
@site_option
@click.option("-d", "--dataset", required=True, help="DatasetXXX_NAME (or id) in nnUNet_raw.")
@click.option("--expect-key", help="Fingerprint of the coordinator's key, as told by telephone.")
@click.option(
    "--gpu-memory-target", type=float, metavar="GB", help="Of this site's own plan (mode asym)."
)
@click.option(
    "--target-spacing",
    type=float,
    nargs=3,
    metavar="MM MM MM",
    help="Of this site's own plan (mode asym).",
)
@click.option("--planner", help="nnU-Net planner of this site's own plan (mode asym).")
@numbers_option(
    "--planner-option", "planner_options", "As of fedfs init, for this site's own plan (mode asym)."
)
@skip_broken_option("Read all cases now, and count only those that can be used.")
@num_processes_option("Workers for --skip-broken-cases.")
@allow_versions_option
@json_option
def join(
    store: StorePlace,
    name: str,
    dataset: str,
    *,
    expect_key: str | None,
    gpu_memory_target: float | None,
    target_spacing: tuple[float, ...] | None,
    planner: str | None,
    planner_options: dict[str, float],
    skip_broken: bool,
    num_processes: int,
    allow_versions: bool,
    as_json: bool,
) -> None:
    """Ask the coordinator of the study at STORE to admit this site.

    In a study of the mode asym the site plans for itself; options say how, where it is not as the
    charter says.
    """
    from fedfs.nnunet.system.environment import HostSettings
    from fedfs.protocol import layout
    from fedfs.roles.site.config import JoinConfig
    from fedfs.roles.site.join import join as join_study
    from fedfs.trust.keyring import default_home
    from fedfs.trust.signing import key_fingerprint

    config = JoinConfig(
        store,
        layout.check_site(name),
        dataset,
        default_home(),
        expect_key,
        planning={
            key: value
            for key, value in {
                "gpu_memory_target_gb": gpu_memory_target,
                "target_spacing": target_spacing,
                "planner": planner,
                "planner_options": planner_options,
            }.items()
            if value
        },
        host=HostSettings(
            num_processes=num_processes, skip_broken=skip_broken, allow_versions=allow_versions
        ),
    )
    with ProgressDisplay() as display:
        charter, request = join_study(config, display)
    facts = {
        "study": charter.study,
        "site": name,
        "cases": request.n_cases,
        "site key": key_fingerprint(request.public_key),
        "coordinator key": key_fingerprint(charter.coordinator_key),
    }
    if as_json:
        show_json({name.replace(" ", "_"): value for name, value in facts.items()})
        return
    show_pairs(facts)
    click.echo("\nTell the coordinator the site key by telephone, and compare the coordinator key.")
    click.echo(f"Once approved:  fedfs site run {store} --site {name}")


@site.command()
@store_argument
@site_option
@once_option
@device_option
@click.option(
    "--num-gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train on so many CUDA devices of this host, as nnU-Net does: each a part of the batch.",
)
@num_processes_option("Workers for fingerprint and preprocessing.")
@click.option("--local-minutes", type=float, help="End a round's training after so long.")
@keep_versions_option(
    "Delete own updates that are older than so many versions and used; default: all."
)
@click.option(
    "--local-model",
    is_flag=True,
    help="In the end also train on this site's data alone, with the same budget, to compare.",
)
@tracks_option
@allow_trainer_option
@skip_broken_option(
    "Go on without cases that cannot be used, and list them; default: stop at the first."
)
@allow_versions_option
@wait_options
@verbose_option("Log everything, nnU-Net's output too.")
def run(
    store: StorePlace,
    name: str,
    *,
    once: bool,
    device: str | None,
    num_gpus: int,
    num_processes: int,
    local_minutes: float | None,
    keep_versions: int | None,
    local_model: bool,
    tracks: tuple[str, ...],
    allowed_trainers: tuple[str, ...],
    skip_broken: bool,
    allow_versions: bool,
    wait: WaitSettings,
    verbose: bool,
) -> None:
    """Take part: fingerprint, preprocess, train and evaluate until the study is finished."""
    from fedfs.nnunet.system.environment import HostSettings
    from fedfs.protocol import layout
    from fedfs.protocol.ranges import check_minutes
    from fedfs.roles.site.config import SiteConfig
    from fedfs.roles.site.run import run_site
    from fedfs.trust.keyring import default_home

    if num_gpus > 1 and device not in (None, "cuda"):
        raise click.UsageError("--num-gpus is for CUDA devices")
    config = SiteConfig(
        store=store,
        site=layout.check_site(name),
        home=default_home(),
        host=HostSettings(
            device=device,
            num_gpus=num_gpus,
            num_processes=num_processes,
            allowed_trainers=allowed_trainers,
            skip_broken=skip_broken,
            allow_versions=allow_versions,
        ),
        local_minutes=check_minutes(local_minutes),
        keep_versions=keep_versions,
        local_model=local_model,
        tracks=tracks,
        once=once,
        wait=wait,
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_site(config, display)
    end_with(outcome, once=once)


def _attendance_command(command_name: str, status: str, text: str) -> click.Command:
    """Return a command by which a site pauses, leaves or comes back."""

    @click.command(command_name, help=text)
    @store_argument
    @site_option
    @click.option("--reason", default="", help="For the others to read.")
    def command(store: StorePlace, name: str, reason: str) -> None:
        from fedfs.protocol import layout
        from fedfs.roles.site.config import SiteConfig
        from fedfs.roles.site.run import attend
        from fedfs.trust.keyring import default_home

        config = SiteConfig(store, layout.check_site(name), default_home())
        click.echo(attend(config, status, reason))

    return command


for _name, _status, _text in (
    ("pause", "paused", "Let the others go on without this site until `fedfs site resume`."),
    ("leave", "left", "Leave the study for good; what this site has published stays."),
    ("resume", "present", "Take part again, from the newest version."),
):
    site.add_command(_attendance_command(_name, _status, _text))
