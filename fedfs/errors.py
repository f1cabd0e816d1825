"""Every error fedfs raises, by who has to act.

::

    FedfsError                      exit 1
    |-- UserError                   exit 2   the person at the keyboard
    |-- SetupError                  exit 3   whoever runs this host: variables, keys, dataset
    |   |-- DatasetError                     a file is missing or disagrees with the charter
    |   |-- KeyFileError                     a private key is missing, or others can read it
    |   `-- PolicyError                      the site's policy forbids it, or cannot be used
    |-- StoreError                  exit 4   whoever runs the store: unreachable, refused
    |   |-- ObjectNotFoundError              no object under this key
    |   |-- ObjectExistsError                the key is taken by different bytes
    |   |-- ObjectTooLargeError              larger than the reader is willing to read
    |   |-- StoreFullError                   no space left
    |   |-- StoreUnavailableError            not reachable now; trying again may help
    |   `-- StorePermissionError             read-only, or access denied
    |-- RejectedError               exit 5   a peer: what it published cannot be accepted
    |   |-- MalformedError                   not valid JSON, not this schema, not these types
    |   |-- UnsupportedVersionError          written by a newer major protocol version
    |   |-- SignatureError                   unsigned, or not by the key the roster names
    |   |-- MisplacedError                   signed, but for another study, site, round or key
    |   `-- TensorError                      corrupt, or of wrong name, shape, type or value
    |-- StudyError                  exit 6   the coordinator: no study, exists, not approved
    `-- TrainingError               exit 7   this site's training: memory, loss, a broken case

``exit_code`` is what the command line exits with; ``hint`` says what to do next. What the caller
of a function has to know of an error is an attribute: nobody searches its text.
"""

from __future__ import annotations

import copyreg
from typing import Any, ClassVar, Literal, Self

_MAX_FAULT = 500

StandsUntil = Literal["change", "charter", "message"]
"""Change that may make a refused object acceptable: another one under its key, another charter, or
any other message."""

EXIT_OK = 0
"""Worked, or the study is finished."""
EXIT_WAITING = 10
"""``--once`` had nothing to do now: it waits for somebody else."""
EXIT_NOTHING = 11
"""``--once`` had nothing to do and never will: the study is finished, or this site has left."""


class FedfsError(Exception):
    """Base of all errors; ``str(error)`` is one clear sentence, ``hint`` the advice.

    Attributes:
        options: names of the options that are at fault, as the code has them; empty if not known.
    """

    exit_code = 1
    options: tuple[str, ...] = ()

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def of(self, *options: str) -> Self:
        """Name the options that are at fault, unless they are named already; return this error."""
        self.options = self.options or options
        return self

    @property
    def local_text(self) -> str:
        """The sentence with what only this host may know, for its terminal and its log."""
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes, as not all of them are arguments in order."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class UserError(FedfsError):
    """An option, argument or file given on the command line is unusable."""

    exit_code = 2


class SetupError(FedfsError):
    """This host is not set up: a variable, a key or the dataset."""

    exit_code = 3


class DatasetError(SetupError):
    """The nnU-Net raw dataset is incomplete or disagrees with the charter."""


BROKEN_CASE_HINT = "repair the case, or go on without it: --skip-broken-cases"
"""Advice about a case that cannot be read or used."""


class KeyFileError(SetupError):
    """A private key is missing, unreadable or readable by others."""


class PolicyError(SetupError):
    """The site's policy forbids what is asked for, or its file cannot be used."""


class StoreError(FedfsError):
    """The store cannot be reached or refuses.

    Attributes:
        store: URL of the store; "" where it is not known. It may be a path of this host, and the
            text of an error may be published, so it is no part of the text.
    """

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", store: str = "") -> None:
        super().__init__(message, hint=hint)
        self.store = store

    @property
    def local_text(self) -> str:
        """See :attr:`FedfsError.local_text`: it names the store."""
        return f"{self.store}: {self}" if self.store else str(self)


class ObjectNotFoundError(StoreError):
    """There is no object under this key."""


class ObjectExistsError(StoreError):
    """The key already holds different bytes; objects are written once.

    Attributes:
        key: the key, as it is on the store.
    """

    def __init__(self, message: str, *, key: str, hint: str = "", store: str = "") -> None:
        super().__init__(message, hint=hint, store=store)
        self.key = key


class ObjectTooLargeError(StoreError):
    """The object exceeds the bound the reader set."""


class StoreFullError(StoreError):
    """No space (or quota) is left."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached now, or answers that it is busy; trying again may help."""


class StorePermissionError(StoreError):
    """The store is read-only for us or denies access to this key."""


class RejectedError(FedfsError):
    """Something that a peer published cannot be accepted.

    Whoever finds the fault often does not know under which key the object lies; whoever does adds
    the key once, by :meth:`under`.

    What it says may quote the object. It is in one line and of bounded length all the same, as it
    goes to terminals, logs and statuses.

    Args:
        fault: the predicate of a sentence: ``is not valid JSON (line 1, column 1)``.
        about: the part of the object that the fault is of, ``the field name``; "" for all of it.
        key: the object's key; "" where it is not known.
        hint: says what to do.

    Example:
        >>> error = MalformedError("is missing", about="the field site")
        >>> error.reason
        'the field site is missing'
        >>> str(error.under("sites/north/join-0001.json"))
        'The field site in sites/north/join-0001.json is missing.'
    """

    exit_code = 5
    SUBJECT: ClassVar[str] = "the message"
    """Subject of the sentence where neither a part nor a key is known."""

    def __init__(self, fault: str, *, about: str = "", key: str = "", hint: str = "") -> None:
        fault = _escaped(fault)
        super().__init__(fault, hint=hint)
        self.fault = fault
        self.about = _escaped(about)
        self.key = key
        self.stands_until: StandsUntil = "message"

    def under(self, key: str) -> RejectedError:
        """Name the object, unless it is named already, and return this error."""
        self.key = self.key or key
        return self

    def standing_until(self, what: StandsUntil) -> Self:
        """Say what the refusal may depend on, and return this error."""
        self.stands_until = what
        return self

    @property
    def reason(self) -> str:
        """A clause that reads well beside the key: ``the field site is missing``."""
        return f"{self.about or self.SUBJECT} {self.fault}"

    def __str__(self) -> str:
        if self.key and not self.about:
            return f"{self.key} {self.fault}."
        about = self.about or self.SUBJECT
        where = f" in {self.key}" if self.key else ""
        return f"{about[0].upper()}{about[1:]}{where} {self.fault}."


class MalformedError(RejectedError):
    """Not valid JSON, not the schema, or not the types it requires."""


class UnsupportedVersionError(RejectedError):
    """Written by a newer major version of the protocol."""


class SignatureError(RejectedError):
    """Unsigned, or not signed by the key the roster names."""


class MisplacedError(RejectedError):
    """Validly signed, but for another study, site, round or key."""


class SealedError(RejectedError):
    """Encrypted for somebody else, or changed since."""

    SUBJECT: ClassVar[str] = "the content"


class BundleError(RejectedError):
    """A bundle is damaged, incomplete or not meant for this store."""

    SUBJECT: ClassVar[str] = "the bundle"


class TensorError(RejectedError):
    """A payload is corrupt or holds tensors of wrong name, shape, type or value."""

    SUBJECT: ClassVar[str] = "the payload"


class StudyError(FedfsError):
    """The study does not exist here, exists already, or does not admit this."""

    exit_code = 6


class TrainingError(FedfsError):
    """Training failed at this site; ``kind`` is what goes into the failure record."""

    exit_code = 7

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class Terminated(BaseException):
    """SIGTERM asks this process to end; no error, so that nothing that handles errors stops it."""


def _escaped(text: str) -> str:
    """Return text of a peer in one line, not too long, with escapes for what cannot be seen."""
    cut = text if len(text) <= _MAX_FAULT else f"{text[:_MAX_FAULT]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
