"""A site that pauses because its policy forbids what the charter asks for, and goes on after.

It tells the others as if its operator had paused it, so that nobody waits for it. Once charter and
policy agree, it is present again.
"""

import logging
from collections.abc import Sequence

from fedfs.errors import PolicyError
from fedfs.protocol.messages import SUPPRESSED, Attendance, Charter
from fedfs.protocol.state import StudyState
from fedfs.roles.site.policy.comparison import Comparison, announced_cases, clashes, keys_of
from fedfs.roles.site.policy.file import PolicyInForce

log = logging.getLogger(__name__)


class PolicyHold:
    """Says whether a site has to pause for its policy's sake.

    Args:
        site: its name.
        policy: of the site.
    """

    def __init__(self, site: str, policy: PolicyInForce) -> None:
        self._site, self._policy = site, policy
        self._keys = ""
        self._refused: tuple[int, str] = (0, "")
        """Number of the charter under which the gate refused something, and what."""

    @property
    def reason(self) -> str:
        """Condition that ends the pause, for people; "" if there is none."""
        if not self._keys:
            return ""
        return (
            f"the charter and this site's policy to agree ({self._keys}); until then its updates "
            f"and scores are {SUPPRESSED}"
        )

    def wanted(self, state: StudyState, attendance: Attendance | None) -> Attendance | None:
        """Return the attendance that the site wants.

        Args:
            state: accepted messages.
            attendance: what its operator wants; None to be present.
        """
        is_present = attendance is None or attendance.status == "present"
        found = self._found(state) if is_present else ()
        keys = keys_of(found) or (self._refused_under(state.charter) if is_present else "")
        if keys != self._keys:
            self._keys = keys
            self._log(state.charter, found)
        if not keys:
            return attendance
        return Attendance.wanted(self._site, "paused", f"{SUPPRESSED} ({keys})")

    def refuse(self, error: PolicyError, charter: Charter) -> str:
        """Pause because the gate has refused a message; return a sentence for the log."""
        self._refused = (charter.number, "publication")
        log.warning("%s", error)
        return "the site pauses, as its policy forbids what it was about to publish"

    def _found(self, state: StudyState) -> Sequence[Comparison]:
        return clashes(state.charter, self._policy.policy, announced_cases(state, self._site))

    def _refused_under(self, charter: Charter) -> str:
        number, refused = self._refused
        return refused if number == charter.number else ""

    def _log(self, charter: Charter, found: Sequence[Comparison]) -> None:
        if not self._keys:
            log.info("charter %d and the site's policy agree; the site goes on", charter.number)
            return
        log.warning(
            "paused: charter %d clashes with the site's policy (%s)",
            charter.number, self._policy.source,
        )  # fmt: skip
        for one in found:
            log.warning("%s: %s", one.key, one.text)
