"""The container files: linted, and what they would do done here as far as it can be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from support import s3_server
from support.command_lines import understood

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "container" / "Dockerfile"
APPTAINER = DEPLOY / "container" / "fedfs.def"
DOCKERFILES = sorted(DEPLOY.rglob("Dockerfile"))
COMPOSE = DEPLOY / "compose" / "compose.yaml"
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
}


def program(name: str) -> str:
    """Return the path of a program of the test tools."""
    return str(Path(sys.executable).with_name(name))


def instructions(path: Path) -> list[tuple[str, str]]:
    parser = DockerfileParser(fileobj=path.open("rb"))
    return [(step["instruction"], step["value"]) for step in parser.structure]


def copied() -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY from the repository."""
    found = [value.split() for name, value in instructions(DOCKERFILE) if name == "COPY"]
    return [(words[:-1], words[-1]) for words in found if not words[0].startswith("--from")]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_the_linter_has_nothing_to_say(path):
    done = subprocess.run(
        [program("hadolint"), str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_nothing_in_an_image_runs_as_root(path):
    last = instructions(path)
    start = max(i for i, (name, _) in enumerate(last) if name == "FROM")
    users = [value for name, value in last[start:] if name == "USER"]
    assert users
    assert users[-1].split(":")[0] not in ("root", "0")


def test_the_image_runs_fedfs():
    found = dict(instructions(DOCKERFILE))
    assert json.loads(found["ENTRYPOINT"]) == ["fedfs"]
    assert json.loads(found["CMD"]) == ["--help"]
    assert "PATH=/opt/fedfs/bin:$PATH" in found["ENV"]


def test_what_the_image_takes_from_the_repository_is_enough_to_install_it(tmp_path):
    """Copy what the first stage copies, leave out what Docker would, and build it."""
    kept = [
        line[1:]
        for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    sources = [source for sources, _ in copied() for source in sources]
    assert sorted(sources) == sorted(kept)
    for source in sources:
        target = tmp_path / "src" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), "."],
        cwd=tmp_path / "src",
        check=True,
    )
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "fedfs = fedfs.cli:main" in file.read(entry_points).decode()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fedfs").rglob("*.py")}
    assert modules <= names


def test_apptainers_image_is_made_of_the_same():
    text = APPTAINER.read_text()
    sections = dict(re.findall(r"(?ms)^%(\w+)\n(.*?)(?=^%|\Z)", text))
    files = [line.split()[0] for line in sections["files"].splitlines() if line.strip()]
    assert sorted(files) == sorted(source for sources, _ in copied() for source in sources)
    base = next(value for name, value in instructions(DOCKERFILE) if name == "FROM").split()[0]
    assert f"From: {base}\n" in text
    assert sections["runscript"].strip() == 'exec fedfs "$@"'
    for name in ("post", "environment", "runscript", "test"):
        subprocess.run(["sh", "-n", "-c", sections[name]], check=True)
    installs = re.findall(r"pip install .*", DOCKERFILE.read_text())
    assert re.findall(r"pip install .*", text) == installs


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


def test_the_services_run_commands_that_fedfs_understands(compose, monkeypatch):
    n_commands = 0

    def set_variables(service):
        monkeypatch.delenv("FEDFS_SITE", raising=False)
        for variable, value in service["environment"].items():
            if variable.startswith("FEDFS_"):
                monkeypatch.setenv(variable, value)

    for name, service in compose["services"].items():
        if "entrypoint" not in service and service.get("image"):
            set_variables(service)
            assert understood(service["command"])["store"] == "s3://fedfs/study", name
            n_commands += 1
    assert n_commands == 4
    by_hand = re.findall(r"docker compose run --rm (\w+) (.*)", COMPOSE.read_text())
    assert len(by_hand) == 5
    for service, words in by_hand:
        assert service in compose["services"]
        set_variables(compose["services"][service])
        if not words.startswith("init"):  # whose options end with "..."
            understood(words.split())


def test_the_services_refer_to_what_is_there(compose):
    services, volumes = compose["services"], set(compose["volumes"])
    used = set()
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        named = {volume.split(":")[0] for volume in service["volumes"]}
        used |= {name for name in named if not name.startswith("${")}
        assert "privileged" not in service
        assert "ports" not in service  # nobody outside has to reach any of them
        build = service["build"]
        context = build if isinstance(build, str) else build["context"]
        folder = DEPLOY / "compose" / re.sub(r"\$\{FEDFS_SOURCE:-(.*)\}", r"\1", context)
        file = "Dockerfile" if isinstance(build, str) else build["dockerfile"]
        assert (folder / file).is_file()
    assert used == volumes


@pytest.mark.skipif(
    not shutil.which("docker")
    or subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    ).returncode,
    reason="no docker compose on this machine",
)
def test_docker_compose_takes_the_file():
    command = ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"]
    subprocess.run(command, check=True)


class Server:
    """The compose file's S3 server, run as its container would run it."""

    def __init__(self, folder: Path, users: list[str]) -> None:
        self.folder, self.users = folder, users
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.port, monitor = one.getsockname()[1], two.getsockname()[1]
        self.environment = {
            **os.environ,
            "S3_DIR": str(folder / "s3"),
            "S3_CREDENTIALS": str(folder / "credentials"),
            "S3_PORT": str(self.port),
            "S3_MONITOR_PORT": str(monitor),
            "S3_BYTES": str(4 << 30),
        }

    def start(self) -> None:
        script = DEPLOY / "compose" / "s3" / "start.sh"
        self.process = subprocess.Popen(
            ["sh", str(script), *self.users],
            env=self.environment,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline_s, (self.folder / "log").read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.mark.xdist_group("ceph")
def test_the_compose_files_server_and_bucket_work_and_survive_a_restart(tmp_path, compose):
    missing = s3_server.missing_programs()
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} not found")
    server = Server(tmp_path, compose["services"]["s3"]["command"])

    def run(service: str, command: list[str]) -> str:
        environment = compose["services"][service]["environment"] | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "FEDFS_HOME": str(tmp_path / "home"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
        }
        command = [word.replace("$$", "$") for word in command]  # as compose reads it
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    bucket = compose["services"]["bucket"]
    try:
        server.start()
        for _ in range(2):  # `up` runs it again each time
            out = run("bucket", [*bucket["entrypoint"], *bucket["command"]])
            assert "bucket fedfs is ready" in out
        init = ["fedfs", "init", "--name", "trial", "--dataset-json", "dataset.json"]
        run("coordinator", init)
        keys = (tmp_path / "credentials").read_text()
        assert keys.count("aws_secret_access_key") == 5
        assert server.stop() == 0
        server.start()
        assert (tmp_path / "credentials").read_text() == keys
        assert "trial" in run("coordinator", ["fedfs", "status"])
    finally:
        server.kill()
