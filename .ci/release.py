"""Make the files of a release from the last commit: ``make release``.

::

    dist/fedfs-0.1.0.tar.gz                the source
    dist/fedfs-0.1.0-py3-none-any.whl      the package
    dist/fedfs-0.1.0.cdx.json              what it needs, pinned, as a CycloneDX bill of materials
    dist/constraints.txt                   the same for pip
    dist/SHA256SUMS

Rules:
 * The same commit gives the same bytes: only committed files are built, with the time of the
   commit. The bill of materials is that of a Linux host of the same architecture.
 * Nothing is published, and nothing is fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
GIT = shutil.which("git") or "git"


def main() -> None:
    """Write all files of a release into a folder, and remove those of an earlier one."""
    parser = argparse.ArgumentParser(description="Make the files of a release.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    output = parser.parse_args().output.resolve()
    commit, epoch = git("log", "-1", "--format=%H %ct").split()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "release"
        with tarfile.open(fileobj=io.BytesIO(git_bytes("archive", "HEAD"))) as archive:
            archive.extractall(source, filter="data")
        version = version_of(source)
        check_tag(version)
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
            cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": epoch}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout)
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        pins = pins_of(source / "constraints.txt")
        shutil.copy(source / "constraints.txt", target)
        (wheel,) = target.glob("*.whl")
        bom = bill_of_materials(project, version, pins, wheel)
        bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC)
        bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, commit)
        outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
        bill = target / f"fedfs-{version}.cdx.json"
        bill.write_text(outputter.output_as_string(indent=1) + "\n")
        sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(target.iterdir()))
        (target / "SHA256SUMS").write_text(sums)
        for old in output.glob("fedfs-*"):
            old.unlink()
        shutil.copytree(target, output, dirs_exist_ok=True)
    print(f"fedfs {version} of commit {commit[:12]} is in {output}:\n{sums}", end="")
    if git("status", "--porcelain"):
        print("Changes that are not committed are not in it.")


def sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_bytes(*words: str) -> bytes:
    """Return what a command of git prints."""
    return subprocess.run([GIT, *words], cwd=ROOT, check=True, capture_output=True).stdout


def git(*words: str) -> str:
    """Return what a command of git prints as text."""
    return git_bytes(*words).decode().strip()


def version_of(source: Path) -> str:
    """Return the version that a source tree gives itself."""
    found = re.search(r'__version__ = "(.+)"', (source / "fedfs" / "__init__.py").read_text())
    if found is None:
        sys.exit("fedfs/__init__.py has no __version__.")
    return found[1]


def check_tag(version: str) -> None:
    """Refuse to make a version under the tag of another one."""
    tags = git("tag", "--points-at", "HEAD", "v*").split()
    if tags and f"v{version}" not in tags:
        sys.exit(f"The commit has the tag {', '.join(tags)}, but its version is {version}.")


def pins_of(path: Path) -> dict[str, str]:
    """Return the version of each package in a file of constraints."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


def bill_of_materials(
    project: dict[str, list[str]], version: str, pins: dict[str, str], wheel: Path
) -> Bom:
    """Return fedfs and all packages that it needs at run time, with who needs which."""
    python = ".".join(platform.python_version_tuple()[:2])
    root = Component(
        name="fedfs", version=version, type=ComponentType.APPLICATION, bom_ref="fedfs",
        purl=PackageURL("pypi", name="fedfs", version=version),
        description=f"for {sys.platform} on {platform.machine()}, Python {python}",
        licenses=[LicenseFactory().make_from_string(str(project["license"]))],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(wheel))],
    )  # fmt: skip
    bom = Bom()
    bom.metadata.component = root
    needed = needs_of(project["dependencies"])
    components = {"fedfs": root} | {name: component_of(name, pins) for name in needed if name}
    bom.components.update(c for name, c in components.items() if name != "fedfs")
    for name, others in needed.items():
        bom.register_dependency(components[name or "fedfs"], [components[n] for n in others])
    return bom


def needs_of(requirements: list[str]) -> dict[str, set[str]]:
    """Return the packages that each package needs here, from ``""``, which needs the given ones."""
    needed: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    todo = [("", "", text) for text in requirements]
    while todo:
        name, extra, text = todo.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        other = canonicalize_name(requirement.name)
        needed.setdefault(name, set()).add(other)
        needed.setdefault(other, set())
        for wanted in {"", *requirement.extras}:
            if (other, wanted) not in seen:
                seen.add((other, wanted))
                todo += [(other, wanted, text) for text in distribution(other).requires or []]
    return needed


def component_of(name: str, pins: dict[str, str]) -> Component:
    """Return the entry of an installed package, which has to be the pinned one."""
    found = distribution(name)
    version = found.version.partition("+")[0]
    if pins.get(name) != version:
        sys.exit(f"{name} {version} is installed, but constraints.txt has {pins.get(name)}.")
    licence = licence_of(found)
    return Component(
        name=found.metadata["Name"], version=version, type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}", description=found.metadata["Summary"],
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(
            licence, license_acknowledgement=LicenseAcknowledgement.DECLARED)] if licence else (),
    )  # fmt: skip


def licence_of(found: Distribution) -> str:
    """Return the licence that a package states, in one line."""
    stated = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if not stated or "\n" in stated:
        classifiers = found.metadata.get_all("Classifier") or []
        names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
        stated = ", ".join(names) or stated.partition("\n")[0]
    return "" if stated == "UNKNOWN" else stated.strip()


if __name__ == "__main__":
    main()
