"""Memory of a helper's host: which updates and scores were in a sum, and in which request.

The store says it too, but may be rolled back, and two sums that differ in one update would show
that one. Noted before an answer is published; the same request may be answered again.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

from fedfs.trust.host_memory import HostMemory

ROLE = "helper"


class AnsweredUpdates:
    """Updates and evaluations of one track that were in a request which this host has answered.

    Args:
        memory: of this host and study.
        track: name of the track.
    """

    def __init__(self, memory: HostMemory, track: str) -> None:
        self._memory = memory
        self._name = f"answered {track}"

    def read(self) -> Mapping[str, str]:
        """Return key of a message -> hash of the request that it was in.

        Raises:
            SetupError: the file cannot be read; without it, nothing may be answered.
        """
        return dict(self._memory.recall(ROLE).get(self._name, {}))

    def alone(self) -> AbstractContextManager[None]:
        """Let helpers of other tracks on this host wait, between a decision and its note.

        Raises:
            SetupError: the folder cannot be written.
        """
        return self._memory.alone(ROLE)

    def elsewhere(self, tracks: Iterable[str]) -> list[str]:
        """Return the keys of messages of other tracks that this host has answered for.

        Raises:
            SetupError: the file cannot be read.
        """
        answered = self._memory.recall(ROLE)
        return [key for track in tracks for key in answered.get(f"answered {track}", {})]

    def note(self, keys: Iterable[str], sha256: str) -> None:
        """Note messages in a request that is about to be answered.

        Raises:
            SetupError: the file cannot be written.
        """
        self._memory.remember(ROLE, {self._name: {**self.read(), **dict.fromkeys(keys, sha256)}})
