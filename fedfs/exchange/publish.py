"""Sign and publish: payload first, the message that names it last.

Publishing is idempotent as far as a restart needs it: an object that is already there with the same
bytes is success. Different bytes under a key that is ours mean that another process of the same
role was faster, or that somebody put something there; the caller looks again and decides.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedfs.errors import ObjectExistsError, RejectedError, StoreError
from fedfs.exchange.fetching import file_sha256
from fedfs.learner import Progress
from fedfs.protocol import layout
from fedfs.protocol.layout import TrackPlace
from fedfs.protocol.messages import (
    MAX_BYTES,
    Message,
    PayloadRef,
    StatusMessage,
    decode,
    payload_type,
    utc,
)
from fedfs.store.base import Store
from fedfs.trust import sealing
from fedfs.trust.signing import Envelope, SigningKey

log = logging.getLogger(__name__)

Clock = Callable[[], float]
M = TypeVar("M", bound=Message)

_KEPT_STATUSES = 2


class Publisher:
    """Publishes messages of one study under one key.

    Args:
        store: where to.
        key: signs; if there are several, the first one does until :meth:`use` says otherwise.
        study: id of the study.
        clock: POSIX seconds.
        track: that is published on; ``store`` is then the track's.

    Attributes:
        on_message: called with the key and the bytes of every message that was published.
    """

    def __init__(
        self,
        store: Store,
        key: SigningKey | Sequence[SigningKey],
        study: str,
        *,
        clock: Clock,
        track: TrackPlace = layout.NO_TRACK,
    ) -> None:
        self.store = store
        self.study = study
        self.track = track
        self.on_message: Callable[[str, bytes], None] = lambda _key, _data: None
        self._keys = (key,) if isinstance(key, SigningKey) else tuple(key)
        self._key = self._keys[0]
        self._clock = clock

    @property
    def public_key(self) -> str:
        """The public key that verifies what is published now."""
        return self._key.public

    def use(self, public_key: str) -> bool:
        """Sign with the key of this role that has a public key; return whether there is one."""
        found = next((key for key in self._keys if key.public == public_key), None)
        self._key = found or self._key
        return found is not None

    def message(
        self, cls: type[M], key: str, *, sealed_for: Sequence[str] = (), **fields: Any
    ) -> M:
        """Build, sign and create a message.

        Args:
            cls: its class.
            key: where it goes.
            sealed_for: public keys of age of those who may read its hidden fields; empty for all.
            fields: what it says.

        Raises:
            ObjectExistsError: the key holds something else already.
            StoreError: the store refuses.
        """
        message = cls(
            study=self.track.study(self.study, key),
            key=key,
            created_at=utc(self._clock()),
            **fields,
        )
        return self.signed(message, sealed_for=sealed_for)

    def signed(self, message: M, *, sealed_for: Sequence[str] = ()) -> M:
        """Sign and create a message that is complete already."""
        seal = partial(sealing.seal, recipients=sealed_for) if sealed_for else None
        data = self._key.sign(message, seal)
        self.store.create(message.key, data)
        self.on_message(message.key, data)
        return message

    def read_own(self, cls: type[M], key: str) -> M:
        """Return a message that this role has published before.

        Raises:
            RejectedError: what lies there is not signed by its key, or not such a message.
            StoreError: it cannot be read.
        """
        envelope = Envelope(self.store.get(key, max_bytes=MAX_BYTES))
        signers = [
            k.public for k in self._keys if envelope.is_signed_by(k.public, payload_type(cls))
        ]
        payload = envelope.verify((*signers, self.public_key)[0], payload_type(cls))
        return decode(cls, payload, key=key, study=self.track.study(self.study, key))

    def payload(
        self, path: Path, key_for: Callable[[str], str], *, sealed_for: Sequence[str] = ()
    ) -> PayloadRef:
        """Upload a tensor file under the key that the hash of what is uploaded gives.

        Args:
            path: the file.
            key_for: hash -> key.
            sealed_for: public keys of age of those who may read it; empty for all.

        Raises:
            StoreError: the store refuses, or the key holds other bytes than its name says.
        """
        sha256, size = file_sha256(path), path.stat().st_size
        if not sealed_for:
            return self._upload(path, PayloadRef(key=key_for(sha256), sha256=sha256, size=size))
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            sealed = Path(folder) / "sealed"
            with path.open("rb") as reader, sealed.open("wb") as writer:
                sealing.seal_file(reader, writer, sealed_for)
            outer = file_sha256(sealed)
            ref = PayloadRef(
                key=key_for(outer),
                sha256=outer,
                size=sealed.stat().st_size,
                content_sha256=sha256,
                content_size=size,
            )
            return self._upload(sealed, ref)

    def _upload(self, path: Path, ref: PayloadRef) -> PayloadRef:
        try:
            self.store.upload(ref.key, path)
        except ObjectExistsError as error:
            raise StoreError(
                f"{ref.key} holds other bytes than its name says",
                hint="it is damaged, or somebody else can write there: remove the object",
            ) from error
        return ref


class StatusReporter:
    """Publishes what a process is doing, seldom and at no risk: a status that fails is only logged.

    Args:
        publisher: signs and publishes.
        site: the site, or "" for the aggregator.
        interval_s: shortest time between two statuses of the same step.
        clock: POSIX seconds.
        listener: called with every progress, for the terminal.
    """

    def __init__(
        self,
        publisher: Publisher,
        site: str,
        *,
        interval_s: float,
        clock: Clock,
        listener: Callable[[Progress], None] | None = None,
    ) -> None:
        self._publisher = publisher
        self._site = site
        self._interval_s = interval_s
        self._clock = clock
        self._listener = listener
        self._number: int | None = None
        self._last_s = -math.inf
        self._said: tuple[object, ...] = ()
        self._step_began: tuple[str, float] = ("", 0.0)
        self._counting_since = ""
        self._counted_before: dict[str, int] = {}
        self.version = -1
        self.rejected: dict[str, str] = {}

    def progress(self, progress: Progress) -> None:
        """Report progress of a step; a :data:`fedfs.learner.Report`."""
        if self._listener is not None:
            self._listener(progress)
        now_s = self._clock()
        if self._step_began[0] != progress.step:
            self._step_began = (progress.step, now_s)
        elapsed_s = now_s - self._step_began[1]
        eta_s = None
        if progress.done > 0 and progress.total >= progress.done:
            eta_s = round(elapsed_s / progress.done * (progress.total - progress.done), 1)
        said = (progress.step, self.version)
        if said == self._said and now_s - self._last_s < self._interval_s:
            return
        self._publish(
            said, step=progress.step, done=progress.done, total=progress.total, unit=progress.unit,
            eta_s=eta_s, waiting_for="", error="",
        )  # fmt: skip

    def say(self, step: str, *, waiting_for: str = "", error: str = "") -> None:
        """Report a state; the same state again is published only once."""
        said = (step, self.version, waiting_for, error, tuple(sorted(self.rejected)))
        if said != self._said:
            self._publish(
                said, step=step, done=0, total=0, unit="", eta_s=None, waiting_for=waiting_for,
                error=error,
            )  # fmt: skip

    def _publish(self, said: tuple[object, ...], **fields: Any) -> None:
        self._said, self._last_s = said, self._clock()
        try:
            number = self._next_number()
            requests, since = self._count()
            self._publisher.message(
                StatusMessage,
                layout.status(self._site or None, number),
                site=self._site,
                version=self.version,
                rejected=dict(self.rejected),
                requests=requests,
                counting_since=since,
                **fields,
            )
        except StoreError as error:
            self._number = None
            log.warning("could not publish the status: %s", error)

    def _count(self) -> tuple[dict[str, int], str]:
        """Return the requests of this process and of those before it, and since when."""
        self._counting_since = self._counting_since or utc(self._clock())
        counts = dict(self._counted_before)
        for name, n in self._publisher.store.request_counts.items():
            counts[name] = counts.get(name, 0) + n
        return counts, self._counting_since

    def _go_on_counting(self, key: str) -> None:
        """Take over the counts of this role's last process from its last status."""
        try:
            before = self._publisher.read_own(StatusMessage, key)
        except RejectedError as error:
            log.warning("counting of requests starts anew: %s %s", key, error)
            return
        self._counted_before = dict(before.requests)
        self._counting_since = before.counting_since

    def _next_number(self) -> int:
        store = self._publisher.store
        if self._number is None:
            prefix = layout.status(self._site or None, 0).rpartition("/")[0] + "/"
            keys = [layout.parse(entry.key) for entry in store.list(prefix)]
            numbers = sorted(key.number for key in keys if key and key.number is not None)
            self._number = numbers[-1] if numbers else 0
            if numbers and not self._counting_since:
                self._go_on_counting(layout.status(self._site or None, self._number))
            stale = numbers[: 1 - _KEPT_STATUSES]
        else:
            stale = [self._number + 1 - _KEPT_STATUSES]
        for number in stale:
            if number > 0:
                store.delete(layout.status(self._site or None, number))
        self._number += 1
        return self._number
