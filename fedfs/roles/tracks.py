"""Several tracks of a study in one process: one works at a time, and none waits for another.

Rules:
 * The track that worked last goes on as long as it has work, so that its network stays in memory;
   after that the one that is furthest behind is asked first.
 * A track that fails ends the process only once no other has work left now.
 * A track that comes after others is not touched before they are done.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from fedfs.errors import FedfsError, StoreUnavailableError
from fedfs.protocol.messages import Charter
from fedfs.roles.log_format import set_log_fields
from fedfs.roles.loop import Outcome
from fedfs.roles.step import AFTER_TRACKS, Role

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Tracks:
    """Steps through the tracks of a study.

    Args:
        workers: by the track's name, in the order in which the charter has them.
        after: name -> tracks that have to be done before its worker is asked.
        is_done: tells whether a track is done, also one that another process works on.
    """

    def __init__(
        self,
        workers: Mapping[str, Role[Any]],
        after: Mapping[str, Sequence[str]],
        is_done: Callable[[str], bool],
    ) -> None:
        self._workers = workers
        self._after = after
        self._is_done = is_done
        self._current: str | None = None
        self._failed: dict[str, FedfsError] = {}
        for name, worker in workers.items():
            worker.on_work = partial(self._take_up, name)

    def step(self) -> Outcome:
        """Do the next thing on a track, if there is one.

        Raises:
            FedfsError: a track failed, and the others have nothing to do now.
        """
        waits: dict[str, str] = {}
        until_s = math.inf
        ends: dict[str, str] = {}
        blocked: dict[str, list[str]] = {}
        for name in self._order():
            missing = [track for track in self._after.get(name, ()) if not self._is_done(track)]
            if missing:
                blocked[name] = missing
                continue
            set_log_fields(track=name if name != AFTER_TRACKS else "")
            try:
                outcome = self._workers[name].step()
            except StoreUnavailableError:
                raise
            except FedfsError as error:
                log.error("track %s failed: %s", name, error)  # noqa: TRY400  it is raised below
                self._failed[name] = error
                continue
            finally:
                set_log_fields(track="")
            if outcome.worked:
                return outcome
            (ends if outcome.finished else waits)[name] = outcome.text
            until_s = min(until_s, outcome.until_s)
        if self._failed:
            raise next(iter(self._failed.values()))
        if any(all(map(self._is_done, missing)) for missing in blocked.values()):
            return self.step()  # a worker that was asked later has seen that they are
        for name, missing in blocked.items():
            if not all(track in ends for track in missing):  # else they ended without being done
                waits[name] = f"waiting for track {', '.join(missing)}"
        text = self._summarize(waits or ends)
        return Outcome(worked=False, finished=not waits, text=text, until_s=until_s)

    def _summarize(self, texts: Mapping[str, str]) -> str:
        """Return the texts of tracks in one line; tracks with the same text are named together."""
        names: dict[str, list[str]] = {}
        for name in self._workers:
            if name in texts:
                names.setdefault(texts[name], []).append(name)
        return "; ".join(f"{', '.join(tracks)}: {text}" for text, tracks in names.items())

    def _order(self) -> list[str]:
        names = [name for name in self._workers if name not in self._failed]
        return sorted(names, key=lambda n: (n != self._current, self._workers[n].version))

    def _take_up(self, name: str) -> None:
        if name == self._current:
            return
        for other, worker in self._workers.items():
            if other != name:
                worker.rest()
        log.info("track %s taken up", name)
        self._current = name


def at_once(
    charter: Charter, workers: Mapping[str, Role[Any]], is_done: Callable[[str], bool]
) -> Callable[[], Outcome]:
    """Return a step that works on all tracks of a process.

    Of a study of one track it is that of its worker, and no outcome names the track.

    Args:
        charter: the study.
        workers: by track; one of another name comes after all tracks.
        is_done: whether a track is, so that those after it may begin.
    """
    if len(charter.tracks) == 1:
        (worker,) = workers.values()
        return worker.step
    after = {track.name: track.after for track in charter.tracks}
    every = tuple(after)
    return Tracks(workers, {name: after.get(name, every) for name in workers}, is_done).step


def merged(of: Mapping[str, Sequence[_T]]) -> list[tuple[str | None, _T]]:
    """Return items that all tracks have once, with None, and the others with their track."""
    in_all = set.intersection(*(set(items) for items in of.values()))
    first = next(iter(of.values()))
    common: list[tuple[str | None, _T]] = [(None, item) for item in first if item in in_all]
    own = [(name, item) for name, items in of.items() for item in items if item not in in_all]
    return [*common, *own]
