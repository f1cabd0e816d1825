"""Commands of a site: ``site join`` and ``site run``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfs.cli.terminal import ProgressDisplay, show_json, show_pairs, start_logging
from fedfs.errors import EXIT_WAITING, FedfsError, MisplacedError, StudyError

if TYPE_CHECKING:
    from fedfs.observe import Observer
    from fedfs.protocol.messages import Charter
    from fedfs.trust.keyring import Keyring


@click.group()
def site() -> None:
    """What a hospital does: join a study, take part in it."""


@site.command()
@click.argument("store")
@click.option("--site", "name", required=True, help="This site's name in the study.")
@click.option("-d", "--dataset", required=True, help="DatasetXXX_NAME (or id) in nnUNet_raw.")
@click.option("--expect-key", help="Fingerprint of the coordinator's key, as told by telephone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def join(store: str, name: str, dataset: str, *, expect_key: str | None, as_json: bool) -> None:
    """Ask the coordinator of the study at STORE to admit this site."""
    from fedfs.nnunet.dataset import RawDataset, difference
    from fedfs.nnunet.environment import from_environment
    from fedfs.observe import newest_charter, open_study
    from fedfs.protocol import codec, layout
    from fedfs.publish import Publisher
    from fedfs.store import open_store
    from fedfs.study import join_study
    from fedfs.trust.keyring import Keyring, default_home
    from fedfs.trust.signing import key_fingerprint

    layout.check_site(name)
    place = open_store(store)
    paths = from_environment(os.environ)
    raw = RawDataset.open(paths, dataset)
    observer = open_study(place, site=name)
    charter = newest_charter(observer.state)
    coordinator = key_fingerprint(charter.coordinator_key)
    if expect_key is not None and expect_key.replace(" ", "") != coordinator.replace(" ", ""):
        raise MisplacedError(
            f"the study at {store} is led by the key {coordinator}, not by {expect_key}",
            hint="do not join; tell the coordinator",
        )
    disagreements = difference(codec.to_json(charter.dataset), raw.dataset_json)
    learner = _learner(charter, name, raw.name, device="cpu", num_processes=1)
    keyring, role = Keyring(default_home(), charter.study), f"site-{name}"
    had_key = keyring.has(role)
    key = keyring.load_or_create(role)
    try:
        request = join_study(
            observer, Publisher(place, key, charter.study, clock=time.time), name, learner,
            difference=disagreements,
        )  # fmt: skip
    except FedfsError:
        if not had_key:  # a refused request leaves no key behind
            keyring.discard(role)
        raise
    keyring.remember(role, {"dataset": raw.name})
    facts = {
        "study": charter.study,
        "site": name,
        "cases": request.n_cases,
        "this site's key": key_fingerprint(key.public),
        "coordinator's key": coordinator,
    }
    if as_json:
        show_json({k.replace(" ", "_").replace("'s", ""): v for k, v in facts.items()})
        return
    show_pairs(facts)
    click.echo(
        "\nTell the coordinator this site's key by telephone, and compare the coordinator's."
    )
    click.echo(f"Once approved:  fedfs site run {store} --site {name}")


@site.command()
@click.argument("store")
@click.option("--site", "name", required=True, help="This site's name in the study.")
@click.option("--once", is_flag=True, help="Do what can be done now, then return (for cron).")
@click.option(
    "--device", type=click.Choice(["cuda", "cpu", "mps"]), help="Default: the best there is."
)
@click.option("-np", "--num-processes", default=8, show_default=True,
              help="Workers for fingerprint and preprocessing.")  # fmt: skip
@click.option("--poll-interval", default=0.25, show_default=True, help="Shortest wait, seconds.")
@click.option("--max-poll-interval", default=5.0, show_default=True, help="Longest wait, seconds.")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, nnU-Net's output too.")
def run(store: str, name: str, *, once: bool, device: str | None, num_processes: int,
        poll_interval: float, max_poll_interval: float, verbose: bool) -> None:  # fmt: skip
    """Take part: fingerprint, preprocess, train and evaluate until the study is finished."""
    from fedfs.config import SiteConfig
    from fedfs.protocol import layout
    from fedfs.trust.keyring import default_home
    from fedfs.watch import WaitSettings

    config = SiteConfig(
        store_url=store,
        site=layout.check_site(name),
        home=default_home(),
        device=device,
        num_processes=num_processes,
        once=once,
        wait=WaitSettings(interval_s=poll_interval, max_interval_s=max_poll_interval),
    )
    start_logging(verbose=verbose)
    with ProgressDisplay() as display:
        outcome = run_site(config, display)
    click.echo(outcome.text)
    if once and not outcome.worked and not outcome.finished:
        raise click.exceptions.Exit(EXIT_WAITING)


def run_site(config: Any, listener: Any) -> Any:
    """Build a site from its configuration and run it."""
    import random

    from fedfs.loop import run
    from fedfs.observe import newest_charter, open_study
    from fedfs.publish import Publisher, StatusReporter
    from fedfs.site import Site
    from fedfs.store import open_store
    from fedfs.trust.keyring import Keyring
    from fedfs.watch import Waiter

    store = open_store(config.store_url)
    observer = open_study(store, site=config.site, skip=("aggregator-status", "status"))
    charter = newest_charter(observer.state)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    _check_known(observer, keyring, charter)
    key = keyring.load(role)
    dataset = keyring.recall(role).get("dataset")
    if not dataset:
        raise StudyError(
            f"this host does not know the dataset of site {config.site!r}",
            hint=f"run: fedfs site join {config.store_url} --site {config.site} --dataset ...",
        )
    learner = _learner(
        charter, config.site, str(dataset), device=config.device, num_processes=config.num_processes
    )
    publisher = Publisher(store, key, charter.study, clock=time.time)
    status = StatusReporter(
        publisher, config.site, interval_s=config.status_interval_s, clock=time.time,
        listener=listener,
    )  # fmt: skip
    folder = _site_folder(charter, config.site)
    folder.mkdir(parents=True, exist_ok=True)
    member = Site(
        config.site, observer=observer, publisher=publisher, status=status, learner=learner,
        folder=folder,
    )  # fmt: skip
    try:
        with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
            return run(member.step, wait=waiter.wait, reset=waiter.reset, once=config.once)
    finally:
        learner.close()


def _check_known(observer: Observer, keyring: Keyring, charter: Charter) -> None:
    keyring.note_charter(charter.number, observer.state.digests[charter.key])


def _site_folder(charter: Charter, name: str) -> Path:
    from fedfs.nnunet.environment import from_environment

    return from_environment(os.environ).results / "fedfs" / charter.study / name


def _learner(charter: Charter, name: str, dataset: str, *, device: str | None,
             num_processes: int) -> Any:  # fmt: skip
    from fedfs.nnunet.environment import from_environment
    from fedfs.nnunet.learner import LearnerSettings, NnUNetLearner

    return NnUNetLearner(
        LearnerSettings(
            paths=from_environment(os.environ),
            dataset=dataset,
            configuration=charter.nnunet.configuration,
            trainer=charter.nnunet.trainer,
            fold=charter.nnunet.fold,
            device=device,
            state_dir=_site_folder(charter, name) / "training",
            num_processes=num_processes,
        )
    )
