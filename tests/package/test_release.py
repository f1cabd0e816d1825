"""The files of a release: the same bytes from the same commit, and nothing in them of the host."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedfs

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a release needs git")


def make_release(target: Path, **environment: str) -> Path:
    command = [sys.executable, str(ROOT / ".ci" / "release.py"), "-o", str(target)]
    subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, umask=0o077
    )
    return target


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("release") / "dist")


@pytest.fixture(scope="module")
def bill(release):
    (path,) = release.glob("*.cdx.json")
    return path.read_text()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_commit_gives_the_same_bytes(release, tmp_path):
    again = make_release(tmp_path / "again", PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="C")
    assert digests(again) == digests(release)


def test_the_sums_are_those_of_the_files(release):
    lines = (release / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = digests(release)
    del found["SHA256SUMS"]
    assert listed == found
    version = fedfs.__version__
    assert set(found) == {
        f"fedfs-{version}.tar.gz",
        f"fedfs-{version}-py3-none-any.whl",
        f"fedfs-{version}.cdx.json",
        "constraints.txt",
    }


def test_the_source_is_what_is_committed(release):
    (path,) = release.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert names - {"PKG-INFO"} == set(listed.stdout.splitlines())


def test_the_wheel_has_what_the_index_asks_for(release):
    (path,) = release.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    folder = metadata.rpartition("/")[0]
    assert {"fedfs/py.typed", f"{folder}/licenses/LICENSE"} <= names
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert "\nAuthor: fedfs developers\n" in text
    assert "\nClassifier: Typing :: Typed\n" in text


def test_the_bill_of_materials_is_valid_and_names_nothing_of_this_host(bill):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    here = ("file:", ROOT, sys.prefix, sys.base_prefix, tempfile.gettempdir(), Path.home())
    assert not [place for place in map(str, here) if place in bill]
    assert set(re.findall(r"https?://[^/\"]+", bill)) == {"http://cyclonedx.org"}


def test_the_bill_of_materials_has_what_the_wheel_needs_in_the_pinned_versions(bill):
    content = json.loads(bill)
    found = {canonicalize_name(c["name"]): c["version"] for c in content["components"]}
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {canonicalize_name(pair[0]): pair[1] for pair in pins if len(pair) == 2}
    assert found.items() <= pinned.items()
    direct = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert direct <= found.keys()
    assert not {"pytest", "ruff", "mkdocs"} & found.keys()
    (needs,) = [d["dependsOn"] for d in content["dependencies"] if d["ref"] == "fedfs"]
    assert {ref.partition("@")[0] for ref in needs} == direct
    root = content["metadata"]["component"]
    assert (root["name"], root["version"]) == ("fedfs", fedfs.__version__)


def test_every_file_that_names_the_version_names_this_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fedfs.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["abstract"] == PROJECT["description"]
    files = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    tags = re.findall(r"fedfs:(\d[\w.]*)|newTag: (\S+)", "\n".join(p.read_text() for p in files))
    assert {one or other for one, other in tags} == {fedfs.__version__}


def test_actionlint_has_nothing_to_say_about_the_workflow():
    program = Path(sys.executable).with_name("actionlint")
    done = subprocess.run([program, WORKFLOW], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_workflow_calls_the_commands_of_a_contributor_with_few_rights():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    test, release = workflow["jobs"]["test"], workflow["jobs"]["release"]
    assert test["strategy"]["matrix"]["command"] == ["make demo", "make test"]
    assert "make release" in [step.get("run") for step in release["steps"]]
    assert release["needs"] == "test"
    used = [step["uses"] for job in (test, release) for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)
