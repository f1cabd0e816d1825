"""One step of a role: observe, decide, act, publish. What differs is ``decide`` and ``act``.

Rules:
 * A decision is a pure function of :mod:`fedfs.protocol.decide`; acting does not decide.
 * A step may be killed at any instant and taken again; what it publishes counts once.
 * Of two processes of the same role one is faster; the other looks again and goes on from there.
 * A payload that is announced but missing or damaged ends nothing: it is waited for, as restoring
   the file is enough.
 * An error of the store passes, and is not published. Any other error is told to the other parties
   as a status before it ends the process.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

from fedfs.errors import (
    FedfsError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    StudyError,
    TensorError,
)
from fedfs.exchange.observer import Observer
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.protocol import participation
from fedfs.protocol.actions import Done, Wait
from fedfs.protocol.messages import FAILED
from fedfs.protocol.state import StudyState
from fedfs.roles.loop import Outcome

log = logging.getLogger(__name__)

AFTER_TRACKS = "choice"
"""Name of the worker behind all tracks, where tracks have theirs."""

_Action = TypeVar("_Action")


class Role(ABC, Generic[_Action]):
    """A party at work on one track, or on what is common to all of them.

    Args:
        name: of the role, in sentences.
        observer: looks at the store as this role may.
        publisher: signs with the role's key.
        status: tells others what this process does.

    Attributes:
        on_work: called before every step that is more than a look.
    """

    LOOKS_EVERYWHERE: ClassVar[bool] = False
    """True where each look lists all that this role may see."""

    def __init__(
        self, name: str, observer: Observer, publisher: Publisher, status: StatusReporter
    ) -> None:
        self._role_name = name
        self._observer = observer
        publisher.on_message = observer.note
        self._publisher = publisher
        self._status = status
        self.on_work: Callable[[], None] = lambda: None

    @property
    def version(self) -> int:
        """The newest version that this role knows, -1 before there is one."""
        return self._observer.state.newest

    def rest(self) -> None:
        """Free the memory that only work needs."""

    @abstractmethod
    def decide(self, state: StudyState) -> _Action | Wait | Done:
        """Return the next action."""

    @abstractmethod
    def act(self, action: _Action, state: StudyState) -> str:
        """Carry an action out and publish its result; return a sentence for the log."""

    @abstractmethod
    def keys(self, state: StudyState, action: _Action) -> Sequence[str]:
        """Return the public keys that may sign the result, the best first."""

    def step(self) -> Outcome:
        """Do the next thing, if there is one.

        Raises:
            StudyError: the charter cannot be carried out, or names another key for this role.
            StoreError: the store refuses.
            FedfsError: the work failed; a status says so.
        """
        state = self._observer.refresh(everything=self.LOOKS_EVERYWHERE)
        self._status.version = state.newest
        self._status.rejected = {**state.rejected, **self.refused}
        action = self.decide(state)
        if isinstance(action, Wait):
            outcome = self._wait(*self.explain_wait(action, state))
            return replace(outcome, until_s=action.until_s)
        if isinstance(action, Done):
            self._status.say(action.step)
            return Outcome(worked=False, finished=True, text=action.reason)
        if not any(self._publisher.use(key) for key in self.keys(state, action)):
            raise StudyError(
                f"The charter names another key for {self._role_name} than this host holds.",
                hint="work on the host that has it; fedfs key show STORE lists keys",
            )
        self.on_work()
        try:
            text = self.act(action, state)
        except ObjectExistsError as error:
            self._observer.refuse_foreign(error, writer=self._role_name)
            text = f"another process of {self._role_name} was faster"
            return Outcome(worked=True, finished=False, text=text)
        except (ObjectNotFoundError, TensorError) as error:
            reason = f"a payload to be restored on the store, as it is missing or damaged: {error}"
            log.warning("waiting for %s", reason)
            return self._wait(reason, str(error))
        except StoreError:
            raise
        except FedfsError as error:
            self._status.say(FAILED, error=self.tell_failure(error, action, state))
            raise
        log.info("%s", text)
        self.tidy(action, state)
        return Outcome(worked=True, finished=False, text=text)

    @property
    def refused(self) -> Mapping[str, str]:
        """Key -> why it cannot be used, of what this process has found out itself."""
        return {}

    def explain_wait(self, action: Wait, state: StudyState) -> tuple[str, str]:  # noqa: ARG002  others use it
        """Return what is waited for, and the last error ("" if none)."""
        return action.reason, ""

    def tell_failure(self, error: FedfsError, action: _Action, state: StudyState) -> str:  # noqa: ARG002  others use them
        """Publish more of a failure than a status; return the status's text.

        Errors of training name cases and paths of the host, which the status must not.
        """
        return "its log on that host says why"

    def tidy(self, action: _Action, state: StudyState) -> None:
        """Delete what nobody needs after an action."""

    def _wait(self, reason: str, error: str) -> Outcome:
        self._status.say("wait", waiting_for=reason, error=error)
        return Outcome(worked=False, finished=False, text=f"waiting for {reason}")


class AfterTracks(Role[_Action]):
    """A role behind all tracks of its process, whose messages belong to the whole study.

    Args:
        observer: of what is common to all tracks.
        tracks: observers of the tracks.
        publisher: signs with the role's key, on no track.
    """

    LOOKS_EVERYWHERE = True

    def __init__(
        self,
        name: str,
        observer: Observer,
        tracks: Mapping[str, Observer],
        publisher: Publisher,
        status: StatusReporter,
    ) -> None:
        super().__init__(name, observer, publisher, status)
        self._observers = tracks

    @property
    def _tracks(self) -> Mapping[str, StudyState]:
        """State of each track that has a model."""
        return participation.active_tracks(
            {name: observer.state for name, observer in self._observers.items()}
        )
