"""Commands of a site: ``site join`` and ``site run``."""

from __future__ import annotations

import click

from fedfs.cli.store_option import store_argument
from fedfs.cli.terminal import (
    ProgressDisplay,
    allow_trainer_option,
    end_with,
    numbers_option,
    show_json,
    show_pairs,
    start_logging,
    tracks_option,
)
from fedfs.store import StorePlace


@click.group()
def site() -> None:
    """What a hospital does: join a study, take part in it."""


@site.command()
@store_argument
@click.option("--site", "name", required=True, help="This site's name in the study.")
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
@click.option(
    "--skip-broken-cases",
    "skip_broken",
    is_flag=True,
    help="Read all cases now, and count only those that can be used.",
)
@click.option(
    "-np",
    "--num-processes",
    default=8,
    show_default=True,
    help="Workers for --skip-broken-cases.",
)
@click.option(
    "--allow-versions",
    is_flag=True,
    help="Take part with another nnunetv2 than the charter's; the coordinator has to agree.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
) -> None:  # fmt: skip
    """Ask the coordinator of the study at STORE to admit this site.

    In a study of the mode asym the site plans for itself; options say how, where it is not as the
    charter says.
    """
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
        skip_broken=skip_broken,
        num_processes=num_processes,
        allow_versions=allow_versions,
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
@click.option("--site", "name", required=True, help="This site's name in the study.")
@click.option("--once", is_flag=True, help="Do what can be done now, then return (for cron).")
@click.option("--device", type=click.Choice(["cuda", "cpu", "mps"]), help="Default: the best.")
@click.option(
    "--num-gpus",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train on so many CUDA devices of this host, as nnU-Net does: each a part of the batch.",
)
@click.option(
    "-np",
    "--num-processes",
    default=8,
    show_default=True,
    help="Workers for fingerprint and preprocessing.",
)
@click.option("--local-minutes", type=float, help="End a round's training after so long.")
@click.option(
    "--keep-versions",
    type=click.IntRange(min=1),
    help="Delete own updates that are older than so many versions and used; default: all.",
)
@click.option(
    "--local-model",
    is_flag=True,
    help="In the end also train on this site's data alone, with the same budget, to compare.",
)
@tracks_option
@allow_trainer_option
@click.option(
    "--skip-broken-cases",
    "skip_broken",
    is_flag=True,
    help="Go on without cases that cannot be used, and list them; default: stop at the first.",
)
@click.option(
    "--allow-versions",
    is_flag=True,
    help="Take part with another nnunetv2 than the charter's; the coordinator has to agree.",
)
@click.option("--poll-interval", default=0.25, show_default=True, help="Shortest wait, seconds.")
@click.option("--max-poll-interval", default=5.0, show_default=True, help="Longest wait, seconds.")
@click.option("--poll-jitter", default=0.2, show_default=True, help="Random share of each wait.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, nnU-Net's output too.")
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
    poll_interval: float,
    max_poll_interval: float,
    poll_jitter: float,
    verbose: bool,
) -> None:
    """Take part: fingerprint, preprocess, train and evaluate until the study is finished."""
    from fedfs.protocol import layout
    from fedfs.protocol.ranges import check_minutes
    from fedfs.roles.polling import WaitSettings
    from fedfs.roles.site.config import SiteConfig
    from fedfs.roles.site.run import run_site
    from fedfs.trust.keyring import default_home

    if num_gpus > 1 and device not in (None, "cuda"):
        raise click.UsageError("--num-gpus is for CUDA devices")
    config = SiteConfig(
        store=store,
        site=layout.check_site(name),
        home=default_home(),
        device=device,
        num_gpus=num_gpus,
        num_processes=num_processes,
        local_minutes=check_minutes(local_minutes),
        keep_versions=keep_versions,
        local_model=local_model,
        tracks=tracks,
        allowed_trainers=allowed_trainers,
        skip_broken=skip_broken,
        allow_versions=allow_versions,
        once=once,
        wait=WaitSettings(poll_interval, max_poll_interval, poll_jitter),
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_site(config, display)
    end_with(outcome, once=once)


def _attendance_command(name: str, word: str, text: str) -> click.Command:
    """Return a command by which a site says whether it takes part."""

    @click.command(name, help=text)
    @store_argument
    @click.option("--site", "site_name", required=True, help="This site's name in the study.")
    @click.option("--reason", default="", help="For the others to read.")
    def command(store: StorePlace, site_name: str, reason: str) -> None:
        from fedfs.protocol import layout
        from fedfs.roles.site.config import SiteConfig
        from fedfs.roles.site.run import attend
        from fedfs.roles.site.step import Wish
        from fedfs.trust.keyring import default_home

        config = SiteConfig(store, layout.check_site(site_name), default_home())
        click.echo(attend(config, Wish(word, reason)))

    return command


for _name, _word, _text in (
    ("pause", "paused", "Let the others go on without this site until `fedfs site resume`."),
    ("leave", "left", "Leave the study for good; what this site has published stays."),
    ("resume", "present", "Take part again, from the newest version."),
):
    site.add_command(_attendance_command(_name, _word, _text))
