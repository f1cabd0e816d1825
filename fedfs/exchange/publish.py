"""Sign and publish: payload first, the message that names it last, and all of it through a gate.

Publishing is idempotent as far as a restart needs it: an object that is already there with the same
bytes is success. Different bytes under a key that is ours mean that another process of the same
role was faster, or that somebody put something there; the caller looks again and decides.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedfs.errors import ObjectExistsError, StoreError
from fedfs.exchange.gate import Gate
from fedfs.protocol.messages import MAX_BYTES, Message, PayloadRef, decode, payload_type, utc
from fedfs.protocol.track_place import TrackPlace
from fedfs.store.base import Store
from fedfs.store.local_files import file_sha256
from fedfs.trust import sealing
from fedfs.trust.signing import Envelope, SigningKey

log = logging.getLogger(__name__)

Clock = Callable[[], float]
M = TypeVar("M", bound=Message)


class Publisher:
    """Publishes messages of one study under one key.

    Args:
        store: where to.
        key: signs; if there are several, the first one does until :meth:`use` says otherwise.
        study: id of the study.
        clock: POSIX seconds.
        track: that is published on; ``store`` shows it, where its own objects are published.
        gate: passed by everything, before it is signed.
        reload: loads the keys of this role again, as one may have been made meanwhile.

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
        track: TrackPlace,
        gate: Gate,
        reload: Callable[[], Sequence[SigningKey]] = tuple,
    ) -> None:
        self.store = store
        self.study = study
        self.track = track
        self.on_message: Callable[[str, bytes], None] = lambda _key, _data: None
        self._keys = (key,) if isinstance(key, SigningKey) else tuple(key)
        self._key = self._keys[0]
        self._clock = clock
        self._gate = gate
        self._reload = reload

    @property
    def public_key(self) -> str:
        """The public key that verifies what is published now."""
        return self._key.public

    def use(self, public_key: str) -> bool:
        """Sign with the key of this role that has a public key; return whether there is one."""
        found = self._find(public_key)
        if found is None:
            self._keys = tuple(self._reload()) or self._keys
            found = self._find(public_key)
        self._key = found or self._key
        return found is not None

    def _find(self, public_key: str) -> SigningKey | None:
        return next((key for key in self._keys if key.public == public_key), None)

    def publish(self, message: M, *, sealed_for: Sequence[str] = ()) -> M:
        """Stamp a message with study and time, sign it and create it under its key.

        Args:
            message: what to publish, not stamped yet.
            sealed_for: public keys of age of those who may read its hidden fields; empty for all.

        Returns:
            The message as it was published.

        Raises:
            ObjectExistsError: the key holds something else already.
            StoreError: the store refuses.
            PolicyError: the gate does.
        """
        study = self.track.study(self.study, message.key)
        stamped = replace(message, study=study, created_at=utc(self._clock()))
        return self.publish_stamped(stamped, sealed_for=sealed_for)

    def publish_stamped(self, message: M, *, sealed_for: Sequence[str] = ()) -> M:
        """Sign and create a message whose study and time are decided already."""
        message = self._gate.admit(message, is_sealed=bool(sealed_for))
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
        own = [self.public_key, *(other.public for other in self._keys)]
        envelope.signer(own, payload_type(cls))
        return decode(cls, envelope.payload, key=key, study=self.track.study(self.study, key))

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
            PolicyError: the gate refuses.
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
        self._gate.admit_payload(ref.key, is_sealed=ref.is_sealed)
        try:
            self.store.upload(ref.key, path)
        except ObjectExistsError as error:
            raise StoreError(
                f"{ref.key} holds other bytes than its name says.",
                hint="it is damaged, or somebody else can write there: remove the object",
            ) from error
        return ref
