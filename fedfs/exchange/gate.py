"""The gate that everything passes before a publisher writes it to the store.

A site's gate holds the site's policy (:mod:`fedfs.roles.site.policy.gate`). The other roles publish
nothing of a site: their gate lets no object of a site through, so that there is no way around the
first one.
"""

from typing import Protocol, TypeVar

from fedfs.errors import PolicyError
from fedfs.protocol import layout
from fedfs.protocol.messages import Message

M = TypeVar("M", bound=Message)


class Gate(Protocol):
    """Decides what a publisher may write."""

    def admit(self, message: M, *, is_sealed: bool) -> M:
        """Return what may be published of a message.

        Args:
            message: stamped and not signed yet.
            is_sealed: whether its hidden fields are encrypted.

        Raises:
            PolicyError: nothing of it.
        """
        ...

    def admit_payload(self, key: str, *, is_sealed: bool) -> None:
        """Let a tensor file pass.

        Args:
            key: it will have.
            is_sealed: whether it is encrypted.

        Raises:
            PolicyError: it may not be published.
        """
        ...


class OtherRolesGate:
    """The gate of coordinator, aggregator and helper: nothing that a site publishes."""

    def admit(self, message: M, *, is_sealed: bool) -> M:  # noqa: ARG002  see Gate
        """See :meth:`Gate.admit`."""
        _refuse_of_sites(message.key)
        return message

    def admit_payload(self, key: str, *, is_sealed: bool) -> None:  # noqa: ARG002  see Gate
        """See :meth:`Gate.admit_payload`."""
        _refuse_of_sites(key)


OTHER_ROLES = OtherRolesGate()


def _refuse_of_sites(text: str) -> None:
    key = layout.parse(text)
    if key is None or key.site:
        raise PolicyError(
            f"{text} would be published past the policy of a site.",
            hint="publish it as the site, on the site's own host",
        )
