"""Checks of a dataset against a study, before a site asks to join.

Every case is read, as ``fedfs site run`` will read it. Names of cases stay on this host.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from fedfs.errors import FedfsError
from fedfs.learner import OnProgress
from fedfs.nnunet.allowed import classes
from fedfs.nnunet.data.dataset import RawDataset
from fedfs.nnunet.data.dataset_json import difference
from fedfs.nnunet.data.fingerprint import find_broken
from fedfs.nnunet.system.environment import from_environment
from fedfs.protocol import codec
from fedfs.protocol.messages import Charter
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.roles.reader.units import format_count, format_duration, format_size

_NAMED_AT_MOST = 5
_PREPROCESSED_PER_RAW = 4
"""Preprocessed cases take about so many times the space of the images, in all configurations."""
_ENOUGH = 0.9
"""Share of the memory that a GPU is sold with: it shows a little less."""


def check_new_dataset(
    name: str,
    charter: Charter,
    num_processes: int,
    on_progress: OnProgress,
    *,
    joined: str | None,
) -> Iterator[Finding]:
    """Compare a dataset with the charter, read all its cases, and look for space for them.

    Args:
        name: ``DatasetXXX_NAME`` or its number.
        charter: of the study.
        num_processes: that read cases.
        on_progress: called after every case.
        joined: dataset that the site has joined with; None for none yet.
    """
    try:
        paths = from_environment(os.environ)
    except FedfsError:
        return  # check_nnunet has told it
    try:
        raw = RawDataset.listed(paths, name)
        disagreement = difference(codec.to_json(charter.dataset), raw.dataset_json)
    except FedfsError as error:
        yield Finding("dataset", PROBLEM, str(error), error.hint)
        return
    if joined is not None and joined != raw.name:
        yield Finding("dataset", NOTE, f"this site has joined with {joined}", "is the name right?")
    for line in disagreement:
        advice = "map your labels and channels to the study's, or talk to the coordinator"
        yield Finding("dataset", PROBLEM, f"{raw.name}: {line}", advice)
    if not disagreement:
        yield Finding("dataset", OK, f"{raw.name} has the channels and labels of the charter")
    ending, expected = str(raw.dataset_json["file_ending"]), charter.dataset.file_ending
    if ending != expected:
        text = f"files end with {ending}, those of the study's dataset.json with {expected}"
        yield Finding("file ending", NOTE, text, "both work; the final model expects the study's")
    yield from _check_cases(raw, charter, num_processes, on_progress)
    yield _check_space(raw, paths.preprocessed)


def check_gpu_memory(charter: Charter) -> Iterator[Finding]:
    """Compare the memory of this host's GPU with what the study's plan is made for."""
    import torch  # noqa: PLC0415  takes seconds

    if not torch.cuda.is_available():
        return  # check_nnunet has told it
    planner, target_gb = charter.nnunet.planner, charter.nnunet.gpu_memory_target_gb
    try:
        needed_gb = target_gb or classes.usual_gpu_memory_gb(planner)
    except FedfsError as error:
        yield Finding("planner", PROBLEM, str(error), error.hint)
        return
    has_gb = torch.cuda.get_device_properties(0).total_memory / 2**30
    text = f"{has_gb:.0f} GB; the study's {planner} plans for {needed_gb:g} GB"
    if has_gb < _ENOUGH * needed_gb:
        advice = "training may run out of memory: talk to the coordinator about a smaller target"
        yield Finding("GPU memory", PROBLEM, text, advice)
    else:
        yield Finding("GPU memory", OK, text)


def _check_cases(
    raw: RawDataset, charter: Charter, num_processes: int, on_progress: OnProgress
) -> Iterator[Finding]:
    began_s = time.monotonic()
    try:
        broken = find_broken(raw, num_processes=num_processes, on_progress=on_progress)
    except FedfsError as error:
        yield Finding("cases", PROBLEM, str(error), error.hint)
        return
    n_usable, n_least = len(raw.cases) - len(broken), charter.minimum_cases
    for reason in list(broken.values())[:_NAMED_AT_MOST]:
        advice = "repair it, or leave it out with: fedfs site join --skip-broken-cases"
        yield Finding("case", PROBLEM, reason, advice)
    if len(broken) > _NAMED_AT_MOST:
        more = format_count(len(broken) - _NAMED_AT_MOST, "more case")
        yield Finding("case", PROBLEM, f"{more} cannot be used", "repair those above first")
    counted = f"{n_usable} of {format_count(len(raw.cases), 'case')} can be used"
    if n_usable < max(1, n_least):
        advice = "the study does not take so few; talk to the coordinator"
        yield Finding("cases", PROBLEM, f"{counted}; the study asks for {n_least}", advice)
    else:
        duration = format_duration(time.monotonic() - began_s)
        yield Finding("cases", OK, f"{counted}, read in {duration}; the study asks for {n_least}")


def _check_space(raw: RawDataset, folder: Path) -> Finding:
    files = [path for case in raw.cases for path in case.images if path.is_file()]
    needed = _PREPROCESSED_PER_RAW * sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(folder).free
    text = f"{format_size(free)} free at {folder}; the cases may take {format_size(needed)} there"
    if free < needed:
        return Finding("space", NOTE, text, "make room before the study begins")
    return Finding("space", OK, text)
