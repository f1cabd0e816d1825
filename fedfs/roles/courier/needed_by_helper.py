"""Choice of the objects that a courier carries to the helper of secure sums, and from it.

Rules:
 * To the helper go the messages of federation and aggregator, and of sites only the manifests and
   the evaluations that the request for the next version names. No payload goes there: the helper
   needs the seeds in these messages, and may see no update, masked or not.
 * From it goes what it has published: its request to join, and sums that no version is made of yet.
 * A message of a site that no request names is not read there, and so it is not published there.
"""

from dataclasses import dataclass

from fedfs.protocol import layout
from fedfs.protocol.areas import named_by_request
from fedfs.protocol.layout import Key
from fedfs.roles.courier.needed import FROM, TrackContent, in_order, parsed_keys


@dataclass(frozen=True)
class HelperContent(TrackContent):
    """Objects of one track, as the helper of secure sums or its courier sees them."""

    def for_site(self) -> list[str]:
        """Return the keys that the helper needs and is not known to have, in order."""
        common = {key.text for key in self._messages() if not key.writer}
        return in_order((common | self._named()) - set(self.known))

    def holds(self, direction: str) -> set[str]:
        """Return the keys of the sender's store that the other side need not send."""
        if direction == FROM:
            return {key.text for key in self._messages()} | self._named()
        return super().holds(direction)

    def implied(self) -> set[str]:
        """Return the keys that the helper must have had, as follows from what it has answered."""
        newest = max(self.state.mask_sums, default=-1)
        out = {layout.sum_request(version) for version in range(1, newest + 1)}
        for version in range(max(newest, 0)):
            out |= {layout.model(version), layout.round_record(version)}
        return out

    def missing(self, direction: str) -> set[str]:
        """Return what is named and needed, and not there."""
        if direction == FROM:
            return self._unused_sums() - set(self.keys)
        return set(named_by_request(self.state)) - set(self.state.digests)

    def superseded(self) -> set[str]:
        """Return keys that nobody needs there, or not any more."""
        of_sites = (key.text for key in parsed_keys(self.keys) if key.site is not None)
        return super().superseded() | {key for key in of_sites if key not in self.state.digests}

    def _messages(self) -> list[Key]:
        """Return the keys of all objects but payloads and statuses."""
        return [key for key in parsed_keys(self.keys) if not (key.is_payload or key.is_status)]

    def _named(self) -> set[str]:
        """Return the keys of sites' messages that a request names and that are accepted."""
        return set(named_by_request(self.state)) & set(self.state.digests)
