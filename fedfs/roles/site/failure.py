"""The record of a failure at a site, which names no case and no path."""

import logging
from collections.abc import Iterable

from fedfs.errors import FedfsError
from fedfs.exchange.publish import Publisher
from fedfs.protocol import layout, messages
from fedfs.protocol.state import StudyState

log = logging.getLogger(__name__)


def publish_failure(
    publisher: Publisher, site: str, state: StudyState, keys: Iterable[str], *, step: str, kind: str
) -> str:
    """Publish a failure record of work on the data; return the status's text.

    Args:
        publisher: signs with the site's key.
        site: its name.
        state: accepted messages.
        keys: of all objects that the site sees.
        step: that failed.
        kind: of failure.
    """
    version = max(state.newest, 0)
    prefix = layout.failure(site, version, 0).rpartition("-")[0]
    number = 1 + sum(key.startswith(prefix) for key in keys)
    record = messages.FailureMessage(
        key=layout.failure(site, version, number),
        site=site,
        version=version,
        step=step,
        kind=kind,
        message=f"{step} failed at {site}: {kind}",
    )
    try:
        publisher.publish(record)
    except FedfsError as refused:
        log.warning("could not publish the failure record: %s", refused)
    return f"{step}: {kind}"
