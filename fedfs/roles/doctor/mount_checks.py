"""The kind of mount that a store's folder lies on, and what follows from it."""

import re
from collections.abc import Iterator
from pathlib import Path

from fedfs.roles.reader.finding import NOTE, OK, Finding

_MOUNTS = Path("/proc/self/mountinfo")
_ONE_PROCESS = "run one aggregator, and one process for each site"
_NETWORK = {"nfs": "NFS", "nfs4": "NFS", "cifs": "SMB", "smb3": "SMB"}
_ADVICE = {
    "fuse.sshfs": (
        "SSH; what other hosts write is seen late where it keeps listings",
        "mount it with -o cache=no,reconnect",
    ),
    "fuse.rclone": (
        "rclone: no links, and two writers may both win; what other hosts write is seen late",
        f"{_ONE_PROCESS}; mount it with --dir-cache-time 5s --vfs-write-back 0, or use s3://",
    ),
    "fuse.davfs": ("WebDAV: two writers may both win", _ONE_PROCESS),
    "tmpfs": ("memory, gone with the next start of this host", "use a folder on a disk"),
    "overlay": ("a container's own files, gone with it", "mount a volume there"),
}


def check_mount(root: Path | None, mounts: Path = _MOUNTS) -> Iterator[Finding]:
    """Yield the kind of mount of a store's folder; nothing where it is not known.

    Args:
        root: the store's folder; None where a store has none.
        mounts: the kernel's list of mounts; only Linux has one.
    """
    kind = None if root is None else mount_kind(root, mounts)
    if kind is None:
        return
    if kind in _ADVICE:
        yield Finding("mount", NOTE, *_ADVICE[kind])
    elif kind in _NETWORK:
        text = f"{_NETWORK[kind]}; what other hosts write is found by looking, not by a notice"
        yield Finding("mount", OK, text)
    elif kind.startswith("fuse") or kind in {"9p", "virtiofs", "vboxsf"}:
        text = f"{kind}, a kind that nobody has tried with fedfs"
        yield Finding("mount", NOTE, text, "look at what is said of atomic create and listing")
    else:
        yield Finding("mount", OK, f"{kind}, a disk of this host")


def mount_kind(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system that a path lies on, as the kernel calls it."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real, found = path.resolve(), None
    for line in lines:
        fields, _, source = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        if real.is_relative_to(place) and (found is None or len(place) >= len(found[0])):
            found = (place, source.split()[0])  # of two at one place the later one counts
    return None if found is None else found[1]
