"""One line of an audit, or of the examination of a host."""

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of an audit, or of the examination of a host.

    Attributes:
        subject: the thing that was looked at.
        level: ``ok``, ``note`` (something to know) or ``problem`` (the study is not as it says, or
            the host cannot do its work).
        text: the state in which it is.
        advice: the thing to do; "" for nothing.
    """

    subject: str
    level: str
    text: str
    advice: str = ""
