"""Audit of the tensors that a study leaves as they were given."""

from collections.abc import Iterator
from pathlib import Path

from fedfs.errors import ObjectNotFoundError, RejectedError, SealedError
from fedfs.exchange.frozen_tensors import fetch_frozen
from fedfs.exchange.observer import Observer
from fedfs.protocol.messages import Charter
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding

_SUBJECT = "frozen tensors"


def verify_frozen(observer: Observer, folder: Path) -> Iterator[Finding]:
    """Compare the given weights with the hash of the charter; nothing where all is trained."""
    charter: Charter = observer.state.charter
    if charter.train_only is None:
        return
    try:
        fetch_frozen(charter, observer.store, folder / "frozen", observer.vault)
    except SealedError:
        yield Finding(_SUBJECT, NOTE, "are encrypted for others, and not compared")
    except (RejectedError, ObjectNotFoundError) as error:
        yield Finding(_SUBJECT, PROBLEM, str(error))
    else:
        text = f"{charter.train_only.n_frozen:,} parameters have the bits that the charter names"
        yield Finding(_SUBJECT, OK, text)
