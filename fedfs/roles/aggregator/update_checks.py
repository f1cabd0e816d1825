"""Checks of what sites announced: is its payload there, can it be read, may it be used?

Rules:
 * Each payload is fetched and read once; what was found out holds for this process only.
 * A payload that is not there, or that this host cannot decrypt, is waited for. One that is damaged
   or claims too much is refused, and its site is named.
"""

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from fedfs.aggregation.shared_tensors import share_of
from fedfs.aggregation.trained_tensors import check_no_frozen
from fedfs.errors import ObjectNotFoundError, RejectedError, SealedError
from fedfs.exchange import payloads, versions
from fedfs.exchange.global_weights import WeightFiles
from fedfs.protocol.messages import PayloadRef, UpdateManifest
from fedfs.protocol.state import Checked, StudyState
from fedfs.roles.aggregator import planning
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.safetensors_layout import file_bytes

log = logging.getLogger(__name__)

# A payload that is slightly too long is fetched all the same, so that its error can be named.
_SLACK_BYTES = 2**16


class UpdateChecks:
    """Results of checks, by the key of what was checked.

    Args:
        weights: the versions that updates were trained from.
        fetch: returns the local file of a payload of at most so many bytes.

    Attributes:
        usable: local file of an update's payload.
        moves: root mean square of what an update changes.
        absent: why a payload is not there.
        sealed: why something cannot be read on this host.
        refused: why something cannot be used.
        seen_s: when an update that waits was first seen here.
    """

    def __init__(self, weights: WeightFiles, fetch: Callable[[PayloadRef, int], Path]) -> None:
        self._weights = weights
        self._fetch = fetch
        self.usable: dict[str, Path] = {}
        self.moves: dict[str, float] = {}
        self.absent: dict[str, str] = {}
        self.sealed: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.seen_s: dict[str, float] = {}

    def note(self, state: StudyState, now_s: float) -> None:
        """Note when updates were first seen, of those that wait."""
        self.seen_s = {key: self.seen_s.get(key, now_s) for key in state.waiting}

    @property
    def results(self) -> Checked:
        """All of it, as decisions take it."""
        absent = {**self.absent, **self.sealed}
        return Checked(self.usable, absent, self.refused, self.seen_s)

    def explain(self, reason: str) -> tuple[str, str]:
        """Return a reason to wait with what is not there or cannot be read; and the former alone.

        What is not there is looked for again from now on.
        """
        absent = " ".join(self.absent.values())
        for text in self.sealed.values():
            reason += f"; {text}"
        if absent:
            reason += f"; payloads that are announced but not there: {absent}"
        self.absent.clear()
        return reason, absent

    def look_again(self, keys: Collection[str]) -> None:
        """Forget why updates were refused that a sum has, as they may be restored."""
        for key in keys:
            self.refused.pop(key, None)

    def check(self, key: str, state: StudyState) -> str:
        """Fetch an update's payload and read it once; note whether it can be used."""
        update = state.waiting[key]
        encoding = payloads.update_encoding(state.charter)
        try:
            base_path = self._weights.fetch(state.models, update.base_version)
        except ObjectNotFoundError:
            if update.base_version == state.newest:
                raise
            return self.refuse(
                update,
                f"the update comes from version {update.base_version}, which is not kept any more",
            )
        if not planning.is_readable(update.site, state):
            return self._wait_for_key(update, "it cannot decrypt the site's announcement")
        try:
            versions.check_claims(update, state)
            with TensorFile(base_path) as base:
                names = share_of(state, update.site, base.names).own
                expected = payloads.update_layout(encoding, base, names)
                path = self._fetch(update.payload, file_bytes(expected) + _SLACK_BYTES)
                with TensorFile(path) as file:
                    check_no_frozen(state.charter, file.names)
                    file.check_layout(expected)
                    if state.charter.secure_sums is None:  # masked values can be anything
                        self.moves[key] = payloads.check_values(encoding, file, base, names)
        except ObjectNotFoundError as error:
            self.absent[key] = str(error)
            return f"the update of {update.site} is announced, its payload is not there"
        except SealedError as error:
            return self._wait_for_key(update, error.reason)
        except RejectedError as error:
            return self.refuse(update, error.reason)
        self.usable[key] = path
        return f"received the update of {update.site} from version {update.base_version}"

    def _wait_for_key(self, update: UpdateManifest, reason: str) -> str:
        """Note an update that this host cannot decrypt, which is no fault of the site's."""
        of = f"the update of {update.site} from version {update.base_version}"
        text = self.sealed[update.key] = unreadable(of)
        log.warning("%s (%s)", text, reason)
        return text

    def refuse(self, update: UpdateManifest, reason: str) -> str:
        """Note that an update cannot be used, and return a sentence for the log."""
        self.refused[update.key] = reason
        return f"refused the update of {update.site}: {reason}"


def unreadable(what: str) -> str:
    """Return a sentence on what this host has no key for."""
    return f"{what} cannot be decrypted on the aggregator's host: {planning.BRING_KEYS}"
