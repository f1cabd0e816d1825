"""Forms of the log of a process: lines for people, or a JSON object on each line for programs.

Fields of the process, such as its study, are in every line of the second form once they are known.
"""

import datetime
import json
import logging

from fedfs.protocol.text import printable_lines

TEXT, JSON = LOG_FORMATS = ("text", "json")

_fields: dict[str, str] = {}


def set_log_fields(**fields: str) -> None:
    """Add fields to all further JSON lines of this process; an empty one is left out.

    They belong to the process and not to a thread, as transfers log from threads of their own.
    """
    _fields.update(fields)


class LogFormatter(logging.Formatter):
    """Writes a line for each record; what could move a terminal's cursor is escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record; tracebacks have lines of their own."""
        return printable_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """Writes a JSON object in one line of ASCII for each record; times are UTC.

    Example:
        >>> record = logging.LogRecord("fedfs", logging.INFO, "", 0, "version %d", (7,), None)
        >>> json.loads(JsonFormatter().format(record))["event"]
        'version 7'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, with its traceback and its hint if it has them."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_fields,
            "event": record.getMessage(),
            "hint": getattr(record, "hint", ""),
            "traceback": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in line.items() if value})


def is_json_log() -> bool:
    """Return whether this process logs JSON."""
    return any(isinstance(one.formatter, JsonFormatter) for one in logging.getLogger().handlers)
