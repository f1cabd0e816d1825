"""Text from elsewhere: characters that do something to a terminal, a log or a page.

Forbidden are control characters, among them line feeds and tabs; halves of surrogate pairs, which
cannot be written as UTF-8; line separators; and characters that change the direction of writing.
Messages that hold one are refused (:mod:`fedfs.protocol.codec`). What else comes from elsewhere,
such as the answer of a server, is escaped before it is shown.
"""

import re

_BEYOND_ASCII = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"

FORBIDDEN = re.compile(f"[\x00-\x1f{_BEYOND_ASCII}]")
FORBIDDEN_UNESCAPED = re.compile(f"[{_BEYOND_ASCII}]")
"""Forbidden characters that JSON may hold as they are; others it has to escape."""

_FORBIDDEN_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")


def printable(text: str, *, limit: int | None = None) -> str:
    r"""Return text in one line, with escapes in place of forbidden characters.

    Args:
        text: from anywhere.
        limit: characters after which it is cut off; None for all of it.

    Example:
        >>> printable("a\nb\x1b[2J")
        'a\\nb\\x1b[2J'
    """
    cut = text if limit is None or len(text) <= limit else f"{text[:limit]}..."
    return FORBIDDEN.sub(_escape, cut)


def printable_lines(text: str) -> str:
    """Return text in its own lines and columns, with escapes in place of forbidden characters."""
    return _FORBIDDEN_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
