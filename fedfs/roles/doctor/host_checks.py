"""Checks of a host: nnU-Net and its device, key, software, dataset and disk."""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping

from fedfs.errors import DatasetError, FedfsError
from fedfs.exchange.make_version import strategy_of
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import difference
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import codec, software
from fedfs.protocol.messages import Charter
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.trust.keyring import Keyring, default_cache
from fedfs.trust.signing import key_fingerprint

_MIN_FREE_BYTES = 2_000_000_000


def check_key(keyring: Keyring, role: str, charter: Charter, site: str | None) -> Finding:
    """Compare the key of this host with the one that the charter names."""
    if is_stranger(keyring, charter, site):
        known = ", ".join(entry.site for entry in charter.roster) or "nobody yet"
        text = f"site {site!r} has not joined from this host; approved are: {known}"
        return Finding("key", NOTE, text, "check the name; then run: fedfs site join")
    try:
        public = keyring.load(role).public
    except FedfsError as error:
        return Finding("key", PROBLEM, str(error), error.hint)
    expected = charter.aggregator_key
    if site is not None:
        entry = charter.entry(site)
        if entry is None:
            advice = f"ask the coordinator to run: fedfs approve STORE {site}"
            return Finding("key", PROBLEM, f"site {site!r} is not approved yet", advice)
        if entry.state != "active":
            return Finding("key", NOTE, f"site {site!r} is {entry.state}", "ask the coordinator")
        expected = entry.public_key
    if public != expected:
        return Finding("key", PROBLEM, "the study names another key", "is this the right host?")
    return Finding("key", OK, key_fingerprint(public))


def is_stranger(keyring: Keyring, charter: Charter, site: str | None) -> bool:
    """Return whether a site is neither approved nor has a key here: it may be mistyped."""
    return site is not None and charter.entry(site) is None and not keyring.has(f"site-{site}")


def check_nnunet() -> Iterator[Finding]:
    """Look for nnU-Net's folders and for a CUDA device."""
    try:
        paths = from_environment(os.environ)
    except FedfsError as error:
        yield Finding("nnU-Net", PROBLEM, str(error), error.hint)
        return
    yield Finding("nnU-Net", OK, f"raw {paths.raw}, results {paths.results}")
    import torch  # noqa: PLC0415  takes seconds

    if torch.cuda.is_available():
        yield Finding("device", OK, torch.cuda.get_device_name(0))
    else:
        yield Finding("device", NOTE, "no CUDA device", "training on the CPU takes much longer")
    workers = os.environ.get("nnUNet_n_proc_DA", "nnU-Net's choice")  # noqa: SIM112  nnU-Net's name
    yield Finding("workers", OK, f"{workers} for augmentation, {os.cpu_count()} processors")


def check_software(charter: Charter, site: str | None) -> Iterator[Finding]:
    """Compare nnU-Net and torch with the charter's versions."""
    if not charter.nnunet.versions:
        return
    found = software.differences(charter.nnunet.versions, classes.versions())
    for one in found:
        level = PROBLEM if one.matters and site is not None else NOTE
        yield Finding("versions", level, str(one), one.advice)
    if not found:
        yield Finding("versions", OK, "nnU-Net and torch are the charter's")


def check_strategy(charter: Charter) -> Finding:
    """Look for the strategy of the charter."""
    try:
        strategy_of(charter)
    except FedfsError as error:
        return Finding("strategy", PROBLEM, str(error), error.hint)
    return Finding("strategy", OK, f"{charter.strategy.name} is installed")


def check_trainer(name: str) -> Finding:
    """Look for the trainer among nnU-Net's own."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what nnU-Net imports
            classes.trainer_class(name)
    except FedfsError as error:
        return Finding("trainer", NOTE, str(error), error.hint)  # this host may allow it
    return Finding("trainer", OK, f"{name} is one of nnU-Net's own")


def check_dataset(
    remembered: Mapping[str, object], charter: Charter, announced: int | None
) -> Finding:
    """Compare the dataset that this site joined with, and the charter's.

    Args:
        remembered: what this host knows of the site.
        charter: of the study.
        announced: how many cases the site has announced to the study; None for none yet.
    """
    name = remembered.get("dataset")
    if not name:
        return Finding("dataset", PROBLEM, "this site has not joined", "run: fedfs site join")
    try:
        raw = RawDataset.open(from_environment(os.environ), str(name))
        disagreement = difference(codec.to_json(charter.dataset), raw.dataset_json)
    except FedfsError as error:
        skips = isinstance(error, DatasetError) and remembered.get("skip_broken")
        return Finding("dataset", NOTE if skips else PROBLEM, str(error), error.hint)
    if disagreement:
        return Finding("dataset", PROBLEM, "; ".join(disagreement), "talk to the coordinator")
    if announced is not None and len(raw.cases) > announced:
        text = f"{name} holds {len(raw.cases)} cases; the study knows {announced} of them"
        return Finding(
            "dataset", NOTE, text, "cases added later, or left out as broken, take no part"
        )
    return Finding("dataset", OK, f"{name} agrees with the charter")


def check_disk(model_bytes: int, *, is_site: bool) -> Iterator[Finding]:
    """Compare the free space with what a site or the aggregator needs."""
    folder = default_cache()
    if is_site:
        try:
            folder = from_environment(os.environ).results
        except FedfsError:
            return  # check_nnunet has told it
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    needed = max(_MIN_FREE_BYTES, 4 * model_bytes)
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < needed:
        yield Finding("disk", PROBLEM, text, f"at least {needed / 1e9:.1f} GB are needed")
    else:
        yield Finding("disk", OK, text)
