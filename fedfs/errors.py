"""Every error fedfs raises, by who has to act.

::

    FedfsError                      exit 1
    |-- UserError                   exit 2   the person at the keyboard
    |-- SetupError                  exit 3   whoever runs this host: variables, keys, dataset
    |   |-- DatasetError                     a file is missing or disagrees with the charter
    |   `-- KeyFileError                     a private key is missing, or others can read it
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

``exit_code`` is what the command line exits with; ``hint`` says what to do next.
"""

from __future__ import annotations

EXIT_OK = 0
"""Worked, or the study is finished."""
EXIT_WAITING = 10
"""``--once`` had nothing to do now: it waits for somebody else."""
EXIT_NOTHING = 11
"""``--once`` had nothing to do and never will: the study is finished, or this site has left."""


class FedfsError(Exception):
    """Base of all errors; ``str(error)`` is one clear sentence, ``hint`` the advice."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UserError(FedfsError):
    """An option, argument or file given on the command line is unusable."""

    exit_code = 2


class SetupError(FedfsError):
    """This host is not set up: a variable, a key or the dataset."""

    exit_code = 3


class DatasetError(SetupError):
    """The nnU-Net raw dataset is incomplete or disagrees with the charter."""


class KeyFileError(SetupError):
    """A private key is missing, unreadable or readable by others."""


class StoreError(FedfsError):
    """The store cannot be reached or refuses."""

    exit_code = 4


class ObjectNotFoundError(StoreError):
    """There is no object under this key."""


class ObjectExistsError(StoreError):
    """The key already holds different bytes; objects are written once."""


class ObjectTooLargeError(StoreError):
    """The object exceeds the bound the reader set."""


class StoreFullError(StoreError):
    """No space (or quota) is left."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached now, or answers that it is busy; trying again may help."""


class StorePermissionError(StoreError):
    """The store is read-only for us or denies access to this key."""


class RejectedError(FedfsError):
    """Something on the store was published by a peer and cannot be accepted."""

    exit_code = 5


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


class BundleError(RejectedError):
    """A bundle is damaged, incomplete or not meant for this store."""


class TensorError(RejectedError):
    """A payload is corrupt or holds tensors of wrong name, shape, type or value."""


class StudyError(FedfsError):
    """The study does not exist here, exists already, or does not admit this."""

    exit_code = 6


class TrainingError(FedfsError):
    """Training failed at this site; ``kind`` is what goes into the failure record."""

    exit_code = 7

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
