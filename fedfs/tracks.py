"""Several tracks of a study in one process: one works at a time, and none waits for another.

Rules:
 * The track that worked last goes on as long as it has work, so that its network stays in memory;
   after that the one that is furthest behind is asked first.
 * A track that fails ends the process only once no other has work left now.
 * A track that comes after others is not touched before they are done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from fedfs.errors import FedfsError, StoreUnavailableError
from fedfs.loop import Outcome
from fedfs.protocol.messages import Charter

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Worker(Protocol):
    """A site or an aggregator on one track.

    Attributes:
        on_work: called before every step that is more than a look.
    """

    on_work: Callable[[], None]

    @property
    def version(self) -> int:
        """The newest version of its track, -1 before there is one."""

    def step(self) -> Outcome:
        """Do the next thing, if there is one."""

    def rest(self) -> None:
        """Free the memory that only work needs."""


class Tracks:
    """Steps through the tracks of a study.

    Args:
        workers: by the track's name, in the order in which the charter has them.
        waits_for: name -> which tracks have to be done first, in words; "" if they are.
    """

    def __init__(self, workers: Mapping[str, Worker], waits_for: Callable[[str], str]) -> None:
        self._workers = workers
        self._waits_for = waits_for
        self._current = ""
        self._failed: dict[str, FedfsError] = {}
        for name, worker in workers.items():
            worker.on_work = partial(self._take_up, name)

    def step(self) -> Outcome:
        """Do the next thing on some track, if there is one.

        Raises:
            FedfsError: a track failed, and the others have nothing to do now.
        """
        waits: dict[str, str] = {}
        ends: dict[str, str] = {}
        for name in self._order():
            reason = self._waits_for(name)
            if reason:
                waits[name] = f"waiting for {reason}"
                continue
            try:
                outcome = self._workers[name].step()
            except StoreUnavailableError:
                raise
            except FedfsError as error:
                log.error("track %s failed: %s", name, error)  # noqa: TRY400  it is raised below
                self._failed[name] = error
                continue
            if outcome.worked:
                return outcome
            (ends if outcome.finished else waits)[name] = outcome.text
        if self._failed:
            raise next(iter(self._failed.values()))
        said = {
            name: text for name, text in {**ends, **waits}.items() if name in waits or not waits
        }
        text = "; ".join(
            f"{', '.join(n for n in self._workers if said.get(n) == what)}: {what}"
            for what in dict.fromkeys(said[name] for name in self._workers if name in said)
        )
        return Outcome(worked=False, finished=not waits, text=text)

    def _order(self) -> list[str]:
        names = [name for name in self._workers if name not in self._failed]
        return sorted(names, key=lambda n: (n != self._current, self._workers[n].version))

    def _take_up(self, name: str) -> None:
        if name == self._current:
            return
        for other, worker in self._workers.items():
            if other != name:
                worker.rest()
        log.info("at work on track %s", name)
        self._current = name


def at_once(
    charter: Charter, workers: Mapping[str, Worker], is_done: Callable[[str], bool]
) -> Callable[[], Outcome]:
    """Return a step that works on all tracks of a process, or on the study that has none.

    Args:
        charter: the study.
        workers: by track; one of another name comes after all tracks.
        is_done: whether a track is, so that those after it may begin.
    """
    if "" in workers:
        return workers[""].step
    after = {track.name: track.after for track in charter.tracks}
    every = tuple(after)

    def waits_for(name: str) -> str:
        missing = [track for track in after.get(name, every) if not is_done(track)]
        if name not in after and missing:
            return "all tracks"
        return f"track {', '.join(missing)}" if missing else ""

    return Tracks(workers, waits_for).step


def merged(of: Mapping[str, Sequence[_T]]) -> list[tuple[str, _T]]:
    """Return what is said of all tracks alike once, with "", and the rest with its track."""
    common = [item for item in next(iter(of.values())) if all(item in said for said in of.values())]
    own = [(name, item) for name, said in of.items() for item in said if item not in common]
    return [*(("", item) for item in common), *own]
