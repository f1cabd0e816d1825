"""Files of ``deploy/`` by kind, with what is known of this host filled in.

Rules:
 * There is one copy, ``deploy/`` at the top of the repository. A wheel holds it as
   ``fedfs/roles/deploy/files`` (``pyproject.toml``); a checkout is read where it lies.
 * Each file works as it is, for a host like the one in ``docs/operations.md``. Filling in replaces
   the values that such a host has by those of this one.
"""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedfs.errors import UserError
from fedfs.protocol.values import check_site
from fedfs.store.local_files import replacing

_PACKAGED = Path(__file__).with_name("files")
_CHECKOUT = Path(__file__).parents[3] / "deploy"

PROGRAM = "/opt/fedfs/bin/fedfs"
USER = "fedfs"
ENVIRONMENT = "fedfs.env"
"""The variables of a host's processes; its passwords are elsewhere, but it names where."""

_EXAMPLE_SITE = "north"
_ASSIGNMENT = re.compile(r"^( *)(# )?([A-Za-z_]+)(=|: )(\S+)$", re.MULTILINE)
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?")
_PLAIN = re.compile(r"[^\s\"'\\$#`]+")
_FOLDERS = ("FEDFS_STORE", "FEDFS_HOME", "nnUNet_")
_OWN = ("FEDFS_", "nnUNet_", "AWS_")  # the address of a proxy may hold a password


@dataclass(frozen=True)
class Kind:
    """Files that belong together: one way to run fedfs.

    Attributes:
        name: what ``fedfs deploy print`` calls it.
        purpose: a noun phrase for lists and helps.
        patterns: files in ``deploy/``; the first part of each is left out of the names.
    """

    name: str
    purpose: str
    patterns: tuple[str, ...]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("systemd", "services and timers of systemd", ("systemd/*", "fedfs.env.example")),
        Kind("cron", "lines for a crontab", ("cron/*", "fedfs.env.example")),
        Kind("slurm", "a job of a site for SLURM", ("slurm/*", "fedfs.env.example")),
        Kind("container", "an image for Docker or Apptainer", ("container/*",)),
        Kind(
            "compose",
            "a study on one machine, by compose",
            ("compose/compose.yaml", "compose/s3/*"),
        ),
        Kind("kubernetes", "manifests for Kubernetes", ("kubernetes/*.yaml",)),
        Kind("token", "a program that signs with a token", ("token/*",)),
    )
}


@dataclass(frozen=True)
class HostValues:
    """Values of a host that its files need.

    Attributes:
        site: the site's name in the study; None leaves the place of a name.
        user: the account that runs fedfs.
        program: path of the command fedfs.
        variables: environment whose values are taken over, such as ``FEDFS_STORE``.
    """

    site: str | None = None
    user: str = USER
    program: str = PROGRAM
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.site is not None:
            check_site(self.site)
        if not _USER.fullmatch(self.user):
            raise UserError(f"{self.user!r} is not a name of an account.", hint="give --user NAME")


def folder() -> Path:
    """Return the folder that holds the files: of this package, or of the checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def installed_program() -> str:
    """Return the path of the command fedfs of this installation, or where it would be."""
    scripts = sysconfig.get_path("scripts")
    return shutil.which("fedfs", path=f"{scripts}{os.pathsep}{os.environ['PATH']}") or PROGRAM


def names_of(kind: Kind) -> list[str]:
    """Return the names of a kind's files, in order."""
    return list(_paths_of(kind))


def files_of(kind: Kind, values: HostValues) -> dict[str, str]:
    """Return the text of each file of a kind, with the values of a host.

    Raises:
        UserError: a variable has a value that its file cannot hold.
    """
    paths = _paths_of(kind)
    return {
        name: _filled(kind, name, path.read_text(encoding="utf-8"), values)
        for name, path in paths.items()
    }


def write_files(texts: Mapping[str, str], target: Path) -> list[Path]:
    """Write files into a folder, all or none; one that is there with the same text stays.

    Raises:
        UserError: there is another file of that name.
        OSError: they cannot be written.
    """
    paths = {target / name: text for name, text in texts.items()}
    for path, text in paths.items():
        if path.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == text):
            raise UserError(
                f"{path} is there already, with another content.",
                hint="give another folder, or remove the file",
            )
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o600 if path.name == ENVIRONMENT else 0o644)
    return list(paths)


def _paths_of(kind: Kind) -> dict[str, Path]:
    """Return the files of a kind by the names that they are printed with."""
    found = {}
    for pattern in kind.patterns:
        base = folder() / pattern.partition("/")[0] if "/" in pattern else folder()
        for path in sorted(folder().glob(pattern)):
            if path.is_file():
                found[str(path.relative_to(base)).removesuffix(".example")] = path
    return found


def _filled(kind: Kind, name: str, text: str, values: HostValues) -> str:
    if kind.name in ("systemd", "cron"):
        text = text.replace(PROGRAM, values.program).replace(
            f"User={USER}\n", f"User={values.user}\n"
        )
    if kind.name == "cron" and values.site:
        text = text.replace("--site NAME", f"--site {values.site}")
    if kind.name == "kubernetes" and values.site:
        text = re.sub(rf"\b{_EXAMPLE_SITE}\b", values.site, text)
    if name in (ENVIRONMENT, "config.yaml"):
        site = {"FEDFS_SITE": values.site} if values.site else {}
        text = _with_variables(name, text, {**values.variables, **site})
    return text


def _with_variables(name: str, text: str, variables: Mapping[str, str]) -> str:
    """Return a list of variables with the values of this host; a comment becomes a line."""
    set_lines = {found[3] for found in _ASSIGNMENT.finditer(text) if not found[2]}

    def line(found: re.Match[str]) -> str:
        indent, comment, variable, sign, _ = found.groups()
        value = variables.get(variable) if variable.startswith(_OWN) else None
        if not value or (comment and variable in set_lines):
            return found.group()
        if variable.startswith(_FOLDERS) and "://" not in value:
            value = str(Path(value).absolute())
        if not _PLAIN.fullmatch(value):
            raise UserError(
                f"The value of {variable} cannot be written into {name}: {value!r}.",
                hint="spaces, quotes, $, # and \\ mean something else to those who read the file",
            )
        return f"{indent}{variable}{sign}{value}"

    return _ASSIGNMENT.sub(line, text)
