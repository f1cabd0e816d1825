"""What processes are put together from, at a site and at the aggregator."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedfs.aggregation.shared_tensors import asym_spec
from fedfs.errors import MisplacedError, SetupError, StudyError
from fedfs.exchange.fetching import MAX_MODEL_BYTES, fetch_payload
from fedfs.exchange.publish import Publisher, StatusReporter
from fedfs.exchange.read import Observer, open_study
from fedfs.learner import Learner
from fedfs.nnunet.data import broken_cases
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.planner import dataset_json
from fedfs.nnunet.settings import LearnerSettings, Planning
from fedfs.nnunet.system.environment import NnUNetPaths, from_environment
from fedfs.protocol import layout
from fedfs.protocol.messages import ASYM, Charter
from fedfs.protocol.state import newest_charter
from fedfs.roles.coordinator.options import AggregatorConfig, JoinConfig, SiteConfig
from fedfs.roles.lock import only_one
from fedfs.roles.logfile import logged_to
from fedfs.roles.loop import Outcome
from fedfs.store.base import Store
from fedfs.store.reporting import ReportingStore
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import Vault

LOG = "log.txt"
"""The log of a process, in fedfs's own folder for its role."""


def look_as_site(store: Store, config: SiteConfig | JoinConfig) -> Observer:
    """Open a study as the site sees it, without what it decides nothing by."""
    return open_study(store, site=config.site, skip=layout.STATUS_KINDS, vault=Vault(config.home))


def make_learner(
    charter: Charter,
    site: str,
    dataset: str,
    paths: NnUNetPaths,
    *,
    device: str | None = None,
    num_gpus: int = 1,
    num_processes: int = 8,
    own_planning: Mapping[str, Any] | None = None,
    pretrained: Path | None = None,
    alone: bool = False,
    allowed_trainers: tuple[str, ...] = (),
    skip_broken: bool = False,
    track: str = "",
) -> NnUNetLearner:
    """Return a site's learner, set as the charter says.

    Args:
        charter: the study, as it reads for the track.
        site: the site's name.
        dataset: ``DatasetXXX_NAME`` or its number.
        paths: nnU-Net's folders.
        device: ``cuda``, ``cpu``, ``mps``; None for the best there is.
        num_gpus: more than one trains each round in so many processes.
        num_processes: for fingerprint, planning and preprocessing.
        own_planning: where the site's own plan is not as the charter says (mode ``asym``).
        pretrained: tensors that the site's own plan starts from.
        alone: its models are of this site's data alone: they lie in a folder of their own, to be
            used as ``nnUNet_results``.
        allowed_trainers: not nnunetv2's own, but allowed by this host's operator.
        skip_broken: go on without cases that cannot be used; else stop at the first.
        track: that is worked on; "" in a study without tracks.
    """
    common, folder = (site_folder(paths, charter.study, site, name) for name in ("", track))
    if alone:
        paths = replace(paths, results=folder / "local-model")
    spec = asym_spec(charter)
    planning = None
    if spec is not None:
        said = {
            "planner": charter.nnunet.planner,
            "gpu_memory_target_gb": charter.nnunet.gpu_memory_target_gb,
            "target_spacing": charter.nnunet.target_spacing,
            "planner_options": charter.nnunet.planner_options,
            **(own_planning or {}),
        }
        planning = Planning(
            dataset_json=dataset_json(charter),
            dataset_name=charter.dataset.name,
            plans_name=charter.nnunet.plans_name,
            seed=charter.schedule.seed,
            pretrained=pretrained,
            alignment=spec.alignment,
            **said,
        )
    return NnUNetLearner(
        LearnerSettings(
            paths=paths,
            dataset=dataset,
            configuration=charter.nnunet.configuration,
            trainer=charter.nnunet.trainer,
            fold=charter.nnunet.fold,
            device=device,
            num_gpus=num_gpus,
            state_dir=folder / ("local-training" if alone else "training"),
            num_processes=num_processes,
            planning=planning,
            allowed_trainers=allowed_trainers,
            broken_list=common / broken_cases.FILE,
            skip_broken=skip_broken,
            next_stages=tuple(t.configuration for t in charter.tracks if track in t.after),
            save_probabilities=charter.chooses and len(charter.configurations) > 1,
        )
    )


def site_folder(paths: NnUNetPaths, study: str, site: str, track: str = "") -> Path:
    """Return fedfs's own folder for a site, or one of its tracks, beside nnU-Net's models."""
    folder = paths.results / "fedfs" / study / site
    return folder / "tracks" / track if track else folder


def site_parts(
    config: SiteConfig, store: Store, charter: Charter, *, alone: bool = False, track: str = ""
) -> tuple[Learner, Path]:
    """Return a site's learner, as it joined, and fedfs's folder for it."""
    remembered = Keyring(config.home, charter.study).recall(f"site-{config.site}")
    dataset = remembered.get("dataset")
    if not dataset:
        raise StudyError(
            f"this host does not know the dataset of site {config.site!r}",
            hint="is this the host of that site? It remembers the dataset from: fedfs site join",
        )
    paths = from_environment(os.environ)
    folder = site_folder(paths, charter.study, config.site, track)
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(
        charter,
        config.site,
        str(dataset),
        paths,
        device=config.device,
        num_gpus=config.num_gpus,
        num_processes=config.num_processes,
        own_planning=remembered.get("planning"),
        pretrained=_pretrained(store, charter, folder, Vault(config.home)),
        alone=alone,
        allowed_trainers=config.allowed_trainers,
        skip_broken=config.skip_broken,
        track=track,
    )
    return learner, folder


def _pretrained(store: Store, charter: Charter, folder: Path, vault: Vault) -> Path | None:
    """Return the weights that a site's own plan starts from; None if there are none."""
    if charter.pretrained is None or charter.mode != ASYM:
        return None
    cache = folder / "pretrained"
    vault.learn(charter)
    return fetch_payload(store, charter.pretrained, cache, max_bytes=MAX_MODEL_BYTES, vault=vault)


def start_status(
    publisher: Publisher, config: SiteConfig | AggregatorConfig, store: ReportingStore, site: str
) -> StatusReporter:
    """Return what tells others, and the terminal, what a process does; transfers included.

    Args:
        publisher: signs with the role's key.
        config: of the process.
        store: reports to the terminal so far.
        site: the site's name, or "" for the aggregator.
    """
    status = StatusReporter(
        publisher, site, interval_s=config.status_interval_s, clock=time.time,
        listener=store.report,
    )  # fmt: skip
    store.report = status.progress
    return status


@contextlib.contextmanager
def remembering(
    keyring: Keyring, role: str, observers: Mapping[str, Observer], names: Sequence[str]
) -> Iterator[None]:
    """Notice a store that was rolled back, and remember in the end how far it is.

    What is remembered then may be less than another process of this host has seen meanwhile.

    Args:
        keyring: of this host.
        role: of this process.
        observers: of each track.
        names: of the tracks of this process.

    Raises:
        MisplacedError: the store was rolled back.
    """
    for name in names:
        try:
            _note_seen(keyring, role, observers[name])
        except MisplacedError:  # or another process has looked since this one did
            observers[name].refresh(everything=True)
            _note_seen(keyring, role, observers[name])
    try:
        yield
    finally:
        for name in names:
            with contextlib.suppress(MisplacedError):
                _note_seen(keyring, role, observers[name])


def _note_seen(keyring: Keyring, role: str, observer: Observer) -> None:
    state, track = observer.state, observer.track.name
    charter, newest = newest_charter(state), state.newest
    keyring.note_charter(charter.number, state.digests[charter.key])
    sha256 = state.models[newest].weights_sha256 if newest >= 0 else ""
    keyring.note_version(f"{role} {track}" if track else role, newest, sha256)


@contextlib.contextmanager
def at_work(
    who: str, folders: Mapping[str, Path], base: Path, *, once: bool
) -> Iterator[Outcome | None]:
    """Hold the tracks of a process on this host, and log to a file.

    Yields None; or, where cron made the start while the one before is still at work, its outcome.

    Args:
        who: works here.
        folders: of each track of the process, by name.
        base: folder of the study, for the log of several tracks.
        once: cron makes the starts.

    Raises:
        SetupError: a service was started twice.
    """
    with contextlib.ExitStack() as stack:
        for name, folder in folders.items():
            holder = stack.enter_context(only_one(folder / "lock"))
            if holder:
                where = f" on track {name}" if name else ""
                text = f"{holder} on this host is at work as {who}{where} already"
                if not once:
                    raise SetupError(text, hint="stop it first, or let it work")
                yield Outcome(worked=True, finished=False, text=text)
                return
        own = next(iter(folders.values())) if len(folders) == 1 else base
        stack.enter_context(logged_to(own / LOG))
        yield None
