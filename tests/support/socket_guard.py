"""A guard that notes every connection which a Python process and its children ask for.

``sitecustomize`` is imported by every interpreter that has its folder on ``PYTHONPATH``, spawned
children included; forked ones keep the hook. Sockets of the operating system's own files
(``AF_UNIX``), by which processes of one host talk to each other, are not noted.
"""

import os
from pathlib import Path

_CUSTOMIZE = """
import os, sys

def _note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = arguments[1]
        if where is None or isinstance(where, (str, bytes)):
            return
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "wandb.init"):
        return
    file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{event} {arguments!r}\\n".encode())
    os.close(file)

sys.addaudithook(_note)
os.environ["nnUNet_wandb_enabled"] = "1"
"""

_WANDB = """
import sys

def init(**options):
    sys.audit("wandb.init", options)
"""


def write_guard(folder: Path) -> Path:
    """Write the guard into ``folder``, which is to be put on ``PYTHONPATH``; return its log.

    With it comes a stand-in for ``wandb``, whose runs are noted too, and the variable that has
    nnU-Net begin one.
    """
    folder.mkdir()
    log = folder / "connections.txt"
    (folder / "sitecustomize.py").write_text(f"LOG = {os.fspath(log)!r}\n{_CUSTOMIZE}")
    (folder / "wandb.py").write_text(_WANDB)
    return log
