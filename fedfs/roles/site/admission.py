"""The time between a site's request to join and its approval by the coordinator."""

import logging

from fedfs.exchange.observer import Observer
from fedfs.roles.loop import Outcome
from fedfs.trust.keyring import Keyring

log = logging.getLogger(__name__)


class Admission:
    """Wait for the coordinator, where a site has asked to join with a key of this host.

    Whoever has not asked, or asked with another key, is not waited for: what a site's process does
    next says what is wrong.

    Args:
        site: its name.
        observer: of any track of the study.
        keyring: of this host.
    """

    def __init__(self, site: str, observer: Observer, keyring: Keyring) -> None:
        self._site = site
        self._observer = observer
        self._keyring = keyring
        self._has_logged = False

    def step(self) -> Outcome:
        """Look once; the outcome is finished when there is nothing to wait for."""
        state = self._observer.refresh()
        request = state.joins.get(self._site)
        if state.charter.entry(self._site) is not None or request is None:
            return Outcome(worked=False, finished=True, text="")
        keys = self._keyring.load_all(f"site-{self._site}")
        if request.public_key not in {key.public for key in keys}:
            return Outcome(worked=False, finished=True, text="")
        text = (
            f"waiting for the coordinator to approve {self._site}, by: "
            f"fedfs approve STORE {self._site}"
        )
        if not self._has_logged:
            log.info(text)
            self._has_logged = True
        return Outcome(worked=False, finished=False, text=text)
