"""Makes memory of a virtual machine fast: what its host took back is slow at its first use."""

from __future__ import annotations

from pathlib import Path


def touch_memory(folder: Path, megabytes: int) -> None:
    """Make the machine have so much memory that is free and was used just now."""
    with (folder / "touched").open("wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1_000_000))
    (folder / "touched").unlink()
