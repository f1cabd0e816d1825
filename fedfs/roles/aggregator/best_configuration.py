"""The aggregator chooses the best configuration once all tracks are done."""

from __future__ import annotations

from fedfs.errors import ObjectExistsError
from fedfs.exchange.choose_configuration import decide
from fedfs.protocol import layout, participation
from fedfs.protocol.messages import Choice
from fedfs.roles.loop import Outcome
from fedfs.roles.step import AfterTracks
from fedfs.trust import key_validity


class AggregatorChoice(AfterTracks):
    """Chooses once all sites that take part have scored.

    Args:
        observer: of what is common to all tracks.
        tracks: observers of the tracks.
        publisher: signs with the aggregator's key, on no track.
        status: tells others what is waited for.
    """

    def step(self) -> Outcome:
        """Choose, as soon as everybody has scored.

        Raises:
            StudyError: what the sites scored does not fit together.
            StoreError: the store refuses.
        """
        state = self._observer.refresh(everything=True)
        if state.choice is not None:
            self._status.say("finished")
            return Outcome(worked=False, finished=True, text=f"chose {state.choice.words}")
        missing = [site for site in self._scoring() if site not in state.cross_validations]
        if missing:
            reason = f"the cross-validation of {', '.join(missing)}"
            self._status.say("wait", waiting_for=reason)
            return Outcome(worked=False, finished=False, text=f"waiting for {reason}")
        self._publisher.use(key_validity.in_force(key_validity.of_aggregator(state.charters), 0))
        self.on_work()
        fields = decide(self._observer, self._tracks)
        try:
            made = self._publisher.message(Choice, layout.choice(), **fields)
        except ObjectExistsError as error:
            self._observer.refuse_foreign(error, writer="the aggregator")
            return Outcome(worked=True, finished=False, text="another aggregator was faster")
        return Outcome(worked=True, finished=False, text=f"chose {made.words}")

    def _scoring(self) -> list[str]:
        """Return the sites that take part in all tracks and are not away."""
        of_each = [set(participation.participants(one.state)) for one in self._tracks.values()]
        return sorted(set.intersection(*of_each))
