"""The wheel, installed where no checkout is: it has all that a host needs."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

import fedfs
from support.installed import InstalledPackage

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return InstalledPackage(tmp_path_factory.mktemp("package") / "new")


@pytest.fixture
def study(tmp_path):
    """A finished study of an earlier version."""
    store = tmp_path / "store"
    golden = ROOT / "tests" / "golden" / "study-1.0.json"
    for key, envelope in json.loads(golden.read_text()).items():
        path = store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(envelope))
    return store


def test_it_is_the_package_that_runs_not_the_checkout(package, tmp_path):
    assert fedfs.__version__ in package.run("fedfs", "--version", cwd=tmp_path)
    code = "import fedfs, sys; print(fedfs.__file__, *sys.path, sep='\\n')"
    file, *path = package.run("python", "-c", code, cwd=tmp_path).splitlines()
    assert file.startswith(str(package.folder))
    assert str(ROOT) not in path


def test_every_file_of_the_package_is_in_the_wheel(package):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "fedfs"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("the files are listed by git")
    with zipfile.ZipFile(package.wheel) as wheel:
        names = set(wheel.namelist())
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert files <= names
    rest = {name for name in names - files if ".dist-info/" not in name}
    assert {name.rpartition("fedfs/roles/deploy/files/")[0] for name in rest} == {""}


def test_the_files_for_a_host_are_those_of_the_checkout(package, tmp_path):
    package.run("fedfs", "deploy", "print", "compose", "-o", "files", cwd=tmp_path)
    written = {p.relative_to(tmp_path / "files") for p in (tmp_path / "files").rglob("*.*")}
    assert Path("compose.yaml") in written
    for path in written:
        assert (tmp_path / "files" / path).read_bytes() == (DEPLOY / "compose" / path).read_bytes()
    unit = package.run("fedfs", "deploy", "print", "systemd", "fedfs-site@.service", cwd=tmp_path)
    assert f"\nExecStart={package.programs}/fedfs site run " in unit


def test_a_policy_is_made_of_the_templates_in_the_package(package, tmp_path):
    words = ("--bucket", "studies", "--sites", "north=arn:aws:iam:::user/north")
    text = package.run("fedfs", "deploy", "print", "s3-policy", *words, cwd=tmp_path)
    assert "sites/north/*" in text


def test_a_report_is_made_with_the_pages_in_the_package(package, study, tmp_path):
    assert "finished" in package.run("fedfs", "status", str(study), cwd=tmp_path)
    package.run("fedfs", "report", str(study), "-o", "report.html", cwd=tmp_path)
    assert "</html>" in (tmp_path / "report.html").read_text()
