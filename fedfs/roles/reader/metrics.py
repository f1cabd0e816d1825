"""The status of a study as metrics of Prometheus, for node_exporter's textfile collector.

Pure: text is returned, and the caller writes it to a file.

Rules:
 * What is not known has no sample, and neither has a site of which this host may read nothing.
 * A point in time is a metric of its own, in POSIX seconds; its age is for the query.
 * No two files share a sample: all have the label ``study``, or the label ``store``.
"""

from collections.abc import Iterator, Mapping, Sequence

from fedfs.protocol.messages import from_utc
from fedfs.roles.reader.status import APPROVAL, ASKS, SiteStatus, StudyStatus, has_failed

METRICS = {
    "status_timestamp_seconds": "When fedfs status last looked at the store.",
    "status_exit_code": "Exit code of fedfs status; anything but 0 comes without other metrics.",
    "version": "Newest global version; -1 before there is one.",
    "rounds": "Versions that the study is to make.",
    "finished": "1 once the last version is made.",
    "waited_for": "1 if this party is waited for.",
    "waiting_since_timestamp_seconds": "Since when anybody is waited for.",
    "round_updates": "Updates that were trained from the newest version.",
    "last_seen_timestamp_seconds": "Last sign of life.",
    "failed": "1 if the process of this party stopped with an error.",
    "failures_total": "Failures that the site has published.",
    "cases": "Cases that the site announced.",
    "update_base_version": "Newest version that the site has trained from.",
    "pseudo_dice": "Pseudo Dice of the newest version that the site has evaluated.",
    "asking_to_join": "Sites that wait for the coordinator's approval.",
    "refused_objects": "Objects on the store that nobody accepts.",
    "store_bytes": "Bytes on the store.",
    "requests_total": "Requests to a bucket, where they are counted.",
}
"""Name without the prefix ``fedfs_`` -> meaning."""

_PREFIX = "fedfs_"
_Sample = tuple[str, Mapping[str, str], float]


def metrics_text(views: Mapping[str, StudyStatus], *, store: str, now_s: float) -> str:
    """Return the metrics of a study.

    Args:
        views: the status of each track, by name.
        store: place of the study.
        now_s: POSIX seconds of the look.
    """
    samples = list(_of_look(store, now_s, 0))
    for track, view in views.items():
        labels = {"study": view.study, "track": track}
        samples += _of_track(view, labels)
        for site in view.sites:
            if site.site not in view.hidden and site.state != ASKS:
                samples += _of_site(site, view, labels)
    return _text(samples)


def failure_text(*, store: str, now_s: float, exit_code: int) -> str:
    """Return the metrics of a look that failed: no others, as nothing else is known now."""
    return _text(list(_of_look(store, now_s, exit_code)))


def _of_look(store: str, now_s: float, exit_code: int) -> Iterator[_Sample]:
    yield "status_timestamp_seconds", {"store": store}, now_s
    yield "status_exit_code", {"store": store}, exit_code


def _of_track(view: StudyStatus, labels: Mapping[str, str]) -> Iterator[_Sample]:
    coordinator, aggregator = ({**labels, "role": name} for name in ("coordinator", "aggregator"))
    waiting = _waiting(view)
    yield "version", labels, view.version
    yield "rounds", labels, view.rounds
    yield "finished", labels, view.phase == "finished"
    yield "asking_to_join", labels, sum(site.state == ASKS for site in view.sites)
    yield "refused_objects", labels, len(view.rejected)
    yield "waited_for", coordinator, APPROVAL in waiting
    yield "waited_for", aggregator, "aggregator" in waiting
    yield "failed", aggregator, has_failed(view.aggregator)
    if view.aggregator_since:
        yield "last_seen_timestamp_seconds", aggregator, from_utc(view.aggregator_since)
    if waiting and view.waiting_since:
        yield "waiting_since_timestamp_seconds", labels, from_utc(view.waiting_since)
    if not view.hidden and view.version >= 0:
        updates = sum(site.last_update == view.version for site in view.sites)
        yield "round_updates", labels, updates
    for what, n_bytes in view.n_bytes.items():
        yield "store_bytes", {**labels, "kind": what}, n_bytes
    for name, counts in view.requests.items():
        who = aggregator if name == "aggregator" else {**labels, "role": "site", "site": name}
        for kind, number in counts.items():
            yield "requests_total", {**who, "kind": kind}, number


def _of_site(site: SiteStatus, view: StudyStatus, labels: Mapping[str, str]) -> Iterator[_Sample]:
    of_site = {**labels, "role": "site", "site": site.site}
    yield "waited_for", of_site, site.site in _waiting(view)
    yield "failed", of_site, has_failed(site.activity)
    yield "failures_total", of_site, site.failures
    if site.since:
        yield "last_seen_timestamp_seconds", of_site, from_utc(site.since)
    known = {
        "cases": site.n_cases,
        "update_base_version": site.last_update,
        "pseudo_dice": site.mean_dice,
    }
    for name, value in known.items():
        if value is not None:
            yield name, of_site, value


def _waiting(view: StudyStatus) -> set[str]:
    return {*view.waiting_for, *view.choice_waits_for}


def _text(samples: Sequence[_Sample]) -> str:
    """Return samples in the text format, those of a metric together, below what it means."""
    lines = []
    for name, meaning in METRICS.items():
        found = [(labels, value) for of, labels, value in samples if of == name]
        if found:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {_PREFIX}{name} {meaning}", f"# TYPE {_PREFIX}{name} {kind}"]
        for labels, value in found:
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{_PREFIX}{name}{{{pairs}}} {float(value)!r}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
