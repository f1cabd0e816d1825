"""Commands of a site: ``site join`` and ``site run``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli import options
from fedfs.cli.attendance import leave, pause, resume
from fedfs.cli.cases import cases
from fedfs.cli.command import HOST, NETWORK, SCORES, TRAINING, group, option
from fedfs.cli.exit_codes import end_with
from fedfs.cli.membership import audit
from fedfs.cli.progress import ProgressDisplay
from fedfs.cli.scores import scores
from fedfs.cli.site_policy import policy
from fedfs.cli.terminal import (
    show_event,
    show_facts,
    show_pairs,
    start_logging,
)
from fedfs.roles.log_format import is_json_log
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.store import StorePlace

if TYPE_CHECKING:
    from fedfs.nnunet.system.environment import HostSettings
    from fedfs.protocol.messages import Charter, JoinRequest

_COMPARE = "Tell the coordinator the site key by telephone, and compare the coordinator key."


@group(example="fedfs site run /mnt/share/organ --site north")
def site() -> None:
    """Take part in a study as a hospital."""


_expect_key_option = option(
    "--expect-key",
    metavar="FINGERPRINT",
    help="Fingerprint of the coordinator's key, as told by telephone.",
)


@site.command(example="fedfs site join /mnt/share/organ --site north -d Dataset042_Organ")
@options.store_argument
@options.this_site_option
@option(
    "-d", "--dataset", required=True, metavar="NAME", help="DatasetXXX_NAME (or id) in nnUNet_raw."
)
@_expect_key_option
@option(
    "--gpu-memory-target",
    "gpu_memory_target_gb",
    type=float,
    metavar="GB",
    section=NETWORK,
    help="GPU memory that this site's own plan is for (mode asym).",
)
@option(
    "--target-spacing",
    type=float,
    nargs=3,
    metavar="MM MM MM",
    section=NETWORK,
    help="Target spacing of this site's own plan (mode asym).",
)
@option("--planner", section=NETWORK, help="nnU-Net planner of this site's own plan (mode asym).")
@options.numbers_option(
    "--planner-option", "planner_options", "As of fedfs init, for this site's own plan (mode asym)."
)
@options.skip_broken_option(help="Read all cases now, and count only those that can be used.")
@options.num_processes_option(help="Workers for --skip-broken-cases.")
@options.allow_versions_option
@options.policy_option
@options.json_option
@options.takes_host
def join(
    store: StorePlace,
    name: str,
    dataset: str,
    *,
    expect_key: str | None,
    policy: Path | None,
    host: HostSettings,
    as_json: bool,
    **planning: Any,
) -> None:
    """Ask to join a study.

    Asks the coordinator of the study at STORE to admit this site. In a study of the mode asym the
    site plans for itself; options say how, where it is not as the charter says.
    """
    from fedfs.roles.site.config import JoinConfig
    from fedfs.roles.site.join import join as join_study
    from fedfs.trust.keyring import default_home

    planning = {key: value for key, value in planning.items() if value not in (None, (), {})}
    config = JoinConfig(
        store, name, dataset, default_home(), expect_key, planning=planning, host=host,
        policy=policy,
    )  # fmt: skip
    with ProgressDisplay() as display:
        charter, request = join_study(config, display)
    show_facts(_facts_of(charter, request), as_json=as_json)
    if not as_json:
        click.echo(f"\n{_COMPARE}")
        click.echo(f"Once approved:  fedfs site run {store} --site {name}")


def _facts_of(charter: Charter, request: JoinRequest) -> dict[str, Any]:
    """Return what the operator of a site that has asked to join needs to know."""
    from fedfs.trust.signing import key_fingerprint

    return {
        "study": charter.study,
        "site": request.site,
        "cases": request.n_cases,
        "site key": key_fingerprint(request.public_key),
        "coordinator key": key_fingerprint(charter.coordinator_key),
    }


@site.command(example="fedfs site run /mnt/share/organ --site north --once")
@options.store_argument
@options.this_site_option
@option("-d", "--dataset", help="Where this site has not asked to join, do so with this dataset.")
@_expect_key_option
@options.once_option
@options.device_option
@options.default_option(
    "--num-gpus",
    section=HOST,
    type=click.IntRange(min=1),
    default=1,
    help="Train on so many CUDA devices of this host, as nnU-Net does: each a part of the batch.",
)
@options.num_processes_option(help="Workers for fingerprint and preprocessing.")
@option(
    "--local-minutes",
    type=float,
    section=TRAINING,
    help="End a round's training after so many minutes.",
)
@options.keep_versions_option(
    help="Delete own updates that are older than so many versions and used; default: all."
)
@option(
    "--local-model",
    is_flag=True,
    section=TRAINING,
    help="In the end also train on this site's data alone, with the same budget, to compare.",
)
@option(
    "--personal",
    is_flag=True,
    section=TRAINING,
    help="In the end also fine-tune the last version on this site's data, and keep it here.",
)
@option(
    "--publish-personal",
    is_flag=True,
    section=TRAINING,
    help="Publish the scores of the personal model, and nothing else of it.",
)
@options.default_option(
    "--personal-share",
    section=TRAINING,
    default=FineTuning.share,
    help="Budget of the personal model, as a share of the study's.",
)
@option(
    "--personal-learning-rate",
    type=float,
    section=TRAINING,
    help="Learning rate that the personal model's schedule begins with; default: the trainer's.",
)
@option(
    "--no-final-validation",
    is_flag=True,
    section=TRAINING,
    help="Do not validate the last version on whole cases; no score of it is published.",
)
@option(
    "--nsd-tolerance",
    "nsd_tolerance_mm",
    type=float,
    metavar="MM",
    section=SCORES,
    help="Distance between surfaces that NSD takes for none; default: one voxel of the plan.",
)
@option(
    "--calibration",
    is_flag=True,
    section=SCORES,
    help="Also compute the calibration error, which takes room for probabilities.",
)
@option(
    "--publish-cases",
    is_flag=True,
    section=SCORES,
    help="Publish scores of single cases, too, without names.",
)
@options.policy_option
@options.tracks_option
@options.allow_trainer_option
@options.skip_broken_option(
    help="Go on without cases that cannot be used, and list them; default: stop at the first."
)
@options.allow_versions_option
@option(
    "--wandb",
    is_flag=True,
    section=HOST,
    help="Let nnU-Net tell Weights & Biases about the training; default: off, whatever its "
    "variables say.",
)
@options.wait_options
@options.verbose_option(help="Log everything, nnU-Net's output too.")
@options.log_format_option
@options.json_option
@options.takes_host
def run(
    store: StorePlace,
    name: str,
    *,
    dataset: str | None,
    expect_key: str | None,
    once: bool,
    host: HostSettings,
    local_minutes: float | None,
    personal: bool,
    personal_share: float,
    personal_learning_rate: float | None,
    publish_personal: bool,
    no_final_validation: bool,
    nsd_tolerance_mm: float | None,
    calibration: bool,
    verbose: bool,
    log_format: str,
    as_json: bool,
    **others: Any,
) -> None:
    """Train on this site's data.

    Waits to be approved, publishes the fingerprint, preprocesses, then trains and evaluates each
    version, until the study is finished.
    """
    from fedfs.nnunet.settings import ScoreOptions
    from fedfs.protocol.ranges import check_minutes
    from fedfs.roles.site.config import JoinConfig, SiteConfig
    from fedfs.roles.site.join import join_once
    from fedfs.roles.site.run import run_site
    from fedfs.trust.keyring import default_home

    if host.num_gpus > 1 and host.device not in (None, "cuda"):
        raise click.UsageError("--num-gpus is for CUDA devices.")
    if expect_key is not None and dataset is None:
        raise click.UsageError("--expect-key is for a site that joins: also give --dataset.")
    if publish_personal and not personal:
        raise click.UsageError("--publish-personal is for --personal.")
    minutes = check_minutes(local_minutes)
    tuning = FineTuning(personal_share, personal_learning_rate)
    config = SiteConfig(
        store, name, default_home(), host,
        local_minutes=minutes, personal=tuning if personal else None,
        publish_personal=publish_personal,
        final_validation=not no_final_validation, once=once,
        scores=ScoreOptions(nsd_tolerance_mm=nsd_tolerance_mm, calibration=calibration), **others,
    )  # fmt: skip
    start_logging(verbose=verbose, log_format=log_format)
    if dataset is not None:
        joins = JoinConfig(
            store, name, dataset, config.home, expect_key, host=host, policy=config.policy
        )
        with ProgressDisplay() as display:
            joined = join_once(joins, display)
        if joined is not None:
            _show_joined(_facts_of(*joined), to_stderr=as_json)
    with ProgressDisplay() as display:
        outcome = run_site(config, display)
    end_with(outcome, once=once, as_json=as_json)


def _show_joined(facts: Mapping[str, Any], *, to_stderr: bool) -> None:
    """Print what the operator has to compare; in the log, where that is JSON."""
    if is_json_log():
        pairs = ", ".join(f"{name} {value}" for name, value in facts.items())
        show_event(f"asked to join: {pairs}. {_COMPARE}")
        return
    show_pairs(facts, to_stderr=to_stderr)
    click.echo(_COMPARE, err=to_stderr)


for _command in (policy, audit, cases, scores, pause, leave, resume):
    site.add_command(_command)
