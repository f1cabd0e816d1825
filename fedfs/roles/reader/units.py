"""Counts, durations and sizes as people read them."""


def format_count(n: int, noun: str) -> str:
    """Return a number of things: ``1 object``, ``1,200 objects``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:  # noqa: PLR2004  one and a half minutes read best in seconds
        return f"{seconds:.0f} s"
    if seconds < 5400:  # noqa: PLR2004  and one and a half hours in minutes
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_size(n_bytes: int) -> str:
    """Return a size in the largest unit that fits: ``812 bytes``, ``4.2 kB``, ``125.3 MB``."""
    if n_bytes < 1000:  # noqa: PLR2004  decimal units
        return f"{n_bytes} bytes"
    for unit, bytes_per_unit in (("kB", 1e3), ("MB", 1e6)):
        if n_bytes / bytes_per_unit < 1000:  # noqa: PLR2004  same
            return f"{n_bytes / bytes_per_unit:.1f} {unit}"
    return f"{n_bytes / 1e9:.2f} GB"
