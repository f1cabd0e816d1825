"""Put a site's or the aggregator's process together from its configuration, and run it.

Here, and only here, the parts meet: store, keys, view, learner or planner, loop.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from fedfs.aggregator import Aggregator
from fedfs.config import AggregatorConfig, JoinConfig, SiteConfig
from fedfs.errors import FedfsError, MisplacedError, StudyError
from fedfs.learner import Learner, Report
from fedfs.loop import Outcome, run
from fedfs.nnunet.dataset import RawDataset, difference
from fedfs.nnunet.environment import NnUNetPaths, from_environment
from fedfs.nnunet.learner import LearnerSettings, NnUNetLearner
from fedfs.nnunet.planner import NnUNetPlanner
from fedfs.observe import newest_charter, open_study
from fedfs.protocol import codec
from fedfs.protocol.messages import Charter, JoinRequest
from fedfs.publish import Publisher, StatusReporter
from fedfs.site import Site
from fedfs.store import open_store
from fedfs.study import join_study
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.signing import key_fingerprint
from fedfs.watch import Waiter

# What neither a site nor the aggregator decides by: they write these, people read them.
_FOR_PEOPLE = ("status", "aggregator-status")


def make_learner(
    charter: Charter,
    site: str,
    dataset: str,
    paths: NnUNetPaths,
    *,
    device: str | None = None,
    num_processes: int = 8,
) -> Learner:
    """Return a site's learner, set as the charter says."""
    return NnUNetLearner(
        LearnerSettings(
            paths=paths,
            dataset=dataset,
            configuration=charter.nnunet.configuration,
            trainer=charter.nnunet.trainer,
            fold=charter.nnunet.fold,
            device=device,
            state_dir=site_folder(paths, charter.study, site) / "training",
            num_processes=num_processes,
        )
    )


def site_folder(paths: NnUNetPaths, study: str, site: str) -> Path:
    """Return fedfs's own folder for a site of a study, beside nnU-Net's models."""
    return paths.results / "fedfs" / study / site


def join(config: JoinConfig) -> tuple[Charter, JoinRequest]:
    """Ask to be admitted to a study; a request that is refused leaves nothing behind.

    Raises:
        SetupError, DatasetError: nnU-Net's folders or the dataset are not as they should be.
        MisplacedError: the study is not led by the expected key.
        StudyError: there is no study, or the name belongs to another key.
    """
    store = open_store(config.store_url)
    paths = from_environment(os.environ)
    raw = RawDataset.open(paths, config.dataset)
    observer = open_study(store, site=config.site, skip=_FOR_PEOPLE)
    charter = newest_charter(observer.state)
    coordinator = key_fingerprint(charter.coordinator_key)
    expected = config.expected_key
    if expected is not None and expected.replace(" ", "") != coordinator.replace(" ", ""):
        raise MisplacedError(
            f"the study at {config.store_url} is led by the key {coordinator}, not by {expected}",
            hint="do not join; tell the coordinator",
        )
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    is_new = not keyring.has(role)
    key = keyring.load_or_create(role)
    try:
        request = join_study(
            observer,
            Publisher(store, key, charter.study, clock=time.time),
            config.site,
            make_learner(charter, config.site, raw.name, paths),
            difference=difference(codec.to_json(charter.dataset), raw.dataset_json),
        )
    except FedfsError:
        if is_new:
            keyring.discard(role)
        raise
    keyring.remember(role, {"dataset": raw.name})
    return charter, request


def run_site(config: SiteConfig, listener: Report) -> Outcome:
    """Run a site until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.site.Site.step`.
    """
    store = open_store(config.store_url)
    observer = open_study(store, site=config.site, skip=_FOR_PEOPLE)
    charter = newest_charter(observer.state)
    keyring, role = Keyring(config.home, charter.study), f"site-{config.site}"
    keyring.note_charter(charter.number, observer.state.digests[charter.key])
    publisher = Publisher(store, keyring.load(role), charter.study, clock=time.time)
    dataset = keyring.recall(role).get("dataset")
    if not dataset:
        raise StudyError(
            f"this host does not know the dataset of site {config.site!r}",
            hint=f"run: fedfs site join {config.store_url} --site {config.site} --dataset ...",
        )
    paths = from_environment(os.environ)
    learner = make_learner(
        charter,
        config.site,
        str(dataset),
        paths,
        device=config.device,
        num_processes=config.num_processes,
    )
    folder = site_folder(paths, charter.study, config.site)
    folder.mkdir(parents=True, exist_ok=True)
    site = Site(
        config.site,
        observer=observer,
        publisher=publisher,
        status=StatusReporter(
            publisher,
            config.site,
            interval_s=config.status_interval_s,
            clock=time.time,
            listener=listener,
        ),
        learner=learner,
        folder=folder,
    )
    try:
        with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
            return run(site.step, wait=waiter.wait, reset=waiter.reset, once=config.once)
    finally:
        learner.close()


def run_aggregator(config: AggregatorConfig, listener: Report) -> Outcome:
    """Run the aggregator until the study is finished, or (``once``) until it has to wait.

    Raises:
        FedfsError: see :meth:`fedfs.aggregator.Aggregator.step`.
    """
    store = open_store(config.store_url)
    observer = open_study(store, skip=(*_FOR_PEOPLE, "join", "evaluation", "failure"))
    charter = newest_charter(observer.state)
    keyring = Keyring(config.home, charter.study)
    keyring.note_charter(charter.number, observer.state.digests[charter.key])
    publisher = Publisher(store, keyring.load("aggregator"), charter.study, clock=time.time)
    folder = config.folder or default_cache() / charter.study
    aggregator = Aggregator(
        observer=observer,
        publisher=publisher,
        status=StatusReporter(
            publisher,
            "",
            interval_s=config.status_interval_s,
            clock=time.time,
            listener=listener,
        ),
        planner=NnUNetPlanner(folder / "plan"),
        folder=folder,
    )
    with Waiter(store.watch_path(), config.wait, rng=random.Random()) as waiter:  # noqa: S311  jitter
        return run(aggregator.step, wait=waiter.wait, reset=waiter.reset, once=config.once)
