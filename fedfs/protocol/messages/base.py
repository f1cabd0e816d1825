"""The base class of messages, parts that several of them hold, and their encoding as bytes."""

import base64
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from fedfs.errors import MalformedError, MisplacedError, SealedError, UnsupportedVersionError
from fedfs.protocol import codec
from fedfs.protocol.codec import JSON
from fedfs.protocol.values import (
    Count,
    Hash,
    HashOrNone,
    Seconds,
    Sender,
    SiteName,
    Time,
    TimeOrNever,
    Version,
)

SCHEMA = "fedfs/1.0"
MAJOR = 1
MAX_BYTES = 32 * 2**20
"""Largest message a reader accepts; a fingerprint of 10,000 cases takes 2 MB."""

Extra = Mapping[str, Any]
_STAMPED = {codec.REQUIRED: True}
"""Metadata of a field that its writer leaves to the publisher; what is read has to have it."""

M = TypeVar("M", bound="Message")


@dataclass(frozen=True, kw_only=True)
class PayloadRef:
    """A tensor file on the store.

    Attributes:
        key: where it is.
        sha256, size: of what lies there.
        content_sha256, content_size: of the tensor file, where that is encrypted; "" and 0 where
            it is not.
    """

    key: str
    sha256: Hash
    size: Count
    content_sha256: HashOrNone = ""
    content_size: Count = 0
    extra: Extra = field(default_factory=dict)

    @property
    def is_sealed(self) -> bool:
        """True where it is encrypted."""
        return bool(self.content_sha256)

    @property
    def tensors_sha256(self) -> str:
        """Hash of the tensor file, encrypted or not."""
        return self.content_sha256 or self.sha256

    @property
    def tensors_size(self) -> int:
        """Size of the tensor file, encrypted or not."""
        return self.content_size if self.is_sealed else self.size


@dataclass(frozen=True, kw_only=True)
class Message:
    """A signed message of a study; :class:`~fedfs.exchange.publish.Publisher` stamps and signs it.

    Attributes:
        study: id of the study, and the track if it is a track's; "" until it is stamped.
        key: the key that this message is published under.
        created_at: UTC time at the writer; "" until it is stamped.
    """

    TYPE: ClassVar[str]
    HIDDEN: ClassVar[Mapping[str, Any]] = {}
    """Fields that only some may read where the charter asks for encryption, and what others see."""
    study: str = field(default="", metadata=_STAMPED)
    key: str
    created_at: Time = field(default="", metadata=_STAMPED)
    extra: Extra = field(default_factory=dict)

    def check(self) -> None:
        """Check of what somebody else wrote all that types do not say.

        Raises:
            MalformedError: no honest writer can have written it.
        """


@dataclass(frozen=True, kw_only=True)
class Named:
    """A rule chosen by name, with its numbers: policy, strategy, weighting, encoding."""

    name: str
    options: Mapping[str, float] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Canonical tensors and the sites that share them, or that took part in them; ascending."""

    sites: tuple[SiteName, ...]
    tensors: tuple[str, ...]
    extra: Extra = field(default_factory=dict)


FAILED = "failed"
"""Step of the status of a process that stopped with an error."""


@dataclass(frozen=True, kw_only=True)
class StatusMessage(Message):
    """Present activity of a process. Small; old ones are pruned by their writer.

    Attributes:
        site: the site, or "" for the aggregator.
        step: e.g. ``fingerprint``, ``preprocess``, ``train``, ``evaluate``, ``wait``, ``finished``.
        version: the global version it concerns, -1 before there is one.
        done: progress of the step, out of ``total`` ``unit``s.
        eta_s: estimated seconds to the end of the step, if known.
        waiting_for: a person or an object that is waited for, as text for people.
        error: the last error as a sentence; "" if none.
        rejected: key -> reason, of the objects that this process refused to accept.
        requests: kind of request -> how many this role has made of the store.
        counting_since: since when they are counted.
    """

    TYPE: ClassVar[str] = "status"
    site: Sender
    step: str
    version: Version
    done: Count
    total: Count
    unit: str
    eta_s: Seconds | None
    waiting_for: str
    error: str
    rejected: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Count] = field(default_factory=dict)
    counting_since: TimeOrNever = ""


def payload_type(cls: type[Message]) -> str:
    """DSSE payload type of a message class."""
    return f"application/vnd.fedfs.{cls.TYPE}+json"


def encode(message: Message, seal: Callable[[bytes], bytes] | None = None) -> bytes:
    """Return the exact bytes that are signed.

    Args:
        message: the message.
        seal: encrypts the fields that are hidden; None to leave all in the open.
    """
    value = {**codec.to_json(message), "schema": SCHEMA, "type": message.TYPE}
    if seal is not None and message.HIDDEN:
        hidden = {name: value.pop(name) for name in message.HIDDEN}
        value["sealed"] = closed(hidden, seal)
    return codec.dumps(value)


def decode(
    cls: type[M],
    data: bytes,
    *,
    key: str,
    study: str | None,
    unseal: Callable[[bytes], bytes] | None = None,
) -> M:
    """Parse a payload whose signature has been verified.

    Args:
        cls: the message class that the key calls for.
        data: payload bytes.
        key: the key it was read from.
        study: the study it has to belong to; None where that is what is being found out.
        unseal: decrypts hidden fields; without it, or where it cannot, they are empty.

    Raises:
        UnsupportedVersionError: the major version is newer than this software.
        MisplacedError: the message was written for another study or key.
        MalformedError: anything else that is wrong, by field.
    """
    value = codec.loads(data)
    if not isinstance(value, dict):
        raise MalformedError("is not a JSON object")
    _check_schema(value.pop("schema", None))
    kind = value.pop("type", None)
    if kind != cls.TYPE:
        raise MisplacedError(f"holds a {kind!r} message where a {cls.TYPE!r} message belongs")
    if "sealed" in value and cls.HIDDEN:
        found = opened(value.pop("sealed"), unseal, names=cls.HIDDEN)
        value = {**cls.HIDDEN, **found, **value}
    message = codec.from_json(cls, value)
    message.check()
    if message.key != key:
        raise MisplacedError(f"was signed for the key {message.key!r}")
    if study is not None and message.study != study:
        raise MisplacedError(f"belongs to another study ({message.study!r})")
    return message


def closed(hidden: Mapping[str, JSON], seal: Callable[[bytes], bytes]) -> str:
    """Return fields encrypted, as text; see :func:`opened`."""
    return base64.b64encode(seal(codec.dumps(hidden))).decode()


def opened(
    sealed: JSON, unseal: Callable[[bytes], bytes] | None, *, names: Collection[str]
) -> dict[str, JSON]:
    """Return fields that were encrypted; none where this reader cannot decrypt them.

    Args:
        sealed: what :func:`closed` returned.
        unseal: decrypts, or raises :class:`~fedfs.errors.SealedError`.
        names: of the fields that there may be.

    Raises:
        MalformedError: they are not base64, no JSON, or others.
    """
    if unseal is None:
        return {}
    try:
        text = unseal(base64.b64decode(sealed, validate=True))
    except SealedError:
        return {}
    except (TypeError, ValueError) as error:
        raise MalformedError("is not base64", about="the encrypted part") from error
    hidden = codec.loads(text)
    if not isinstance(hidden, dict) or not set(hidden) <= set(names):
        raise MalformedError("holds fields that do not belong there", about="the encrypted part")
    return hidden


def _check_schema(schema: JSON) -> None:
    name, _, version = schema.partition("/") if isinstance(schema, str) else ("", "", "")
    major = version.split(".")[0]
    if name != "fedfs" or not major.isdecimal() or len(major) > 4:  # noqa: PLR2004  a sane bound
        raise MalformedError(f"has the schema {schema!r}, which is not a fedfs schema")
    if int(major) > MAJOR:
        raise UnsupportedVersionError(
            f"was written with protocol version {version}; this software reads up to {MAJOR}.x",
            hint="upgrade fedfs on this host",
        )
    if int(major) < MAJOR:
        raise UnsupportedVersionError(f"was written with the outdated protocol version {version}")
