"""The image built for real, and a study by containers that may do next to nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fedfs.simulation import phantoms
from support.phantom_hosts import BUDGET, check_study
from support.podman import PACKAGES, Compose, Podman, missing_parts
from support.servers import skip_without, wait_for
from support.slow import slow

pytestmark = [pytest.mark.nnunet, pytest.mark.xdist_group("podman"), slow]

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"
IMAGE = "localhost/fedfs:0.1.0"
BASES = ("docker.io/library/python:3.11-slim-bookworm", "docker.io/library/debian:bookworm-slim")
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
DATASET = "Dataset007_Phantom"
GROUP = "4700"
SITE, OTHER = f"4711:{GROUP}", f"4712:{GROUP}"
CONFINED = (
    "--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=ALL",
    "--security-opt=no-new-privileges", "--shm-size=1g", "--umask=0002",
)  # fmt: skip


@pytest.fixture(scope="module")
def podman():
    with tempfile.TemporaryDirectory(prefix="fedfs-podman-") as name:
        folder = Path(name)
        skip_without(missing_parts(folder), on="CONTAINERS", packages=PACKAGES)
        engine = Podman(folder)
        try:
            yield engine
        finally:
            engine.remove()


@pytest.fixture(scope="module")
def image(podman, tmp_path_factory):
    """The image of the Dockerfile, of packages that pip fetches here, as its settings say."""
    folder = tmp_path_factory.mktemp("image")
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*command, *constraints, str(ROOT), "hatchling"], check=True)
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    packages = ("python3", "python3-venv", "python-is-python3", "ca-certificates")
    podman.make_base(*BASES, packages=packages)
    mounts = (f"--volume={wheels}:/wheels:ro", f"--volume={folder}/pip.conf:/etc/pip.conf:ro")
    build = ("build", "--pull-never", "--network=host", *mounts, "--tag", IMAGE)
    podman.call(*build, "--file", str(DOCKERFILE), str(ROOT), timeout_s=3000.0)
    shutil.rmtree(wheels)
    return IMAGE


class Party:
    """A host of a study that is nothing but containers of one user."""

    def __init__(self, podman: Podman, image: str, folder: Path, user: str, store: Path) -> None:
        self._podman, self._image, self._user = podman, image, user
        self.log = folder / "log"
        volumes = {folder / "home": "/var/lib/fedfs", folder / "data": "/data", store: "/store"}
        for path in (folder / "home", folder / "data"):
            path.mkdir(parents=True, exist_ok=True)
            for part in (path, *path.rglob("*")):
                os.chown(part, *map(int, user.split(":")))
        self._volumes = [f"--volume={path}:{place}" for path, place in volumes.items()]

    def _words(self, *arguments: str) -> list[str]:
        own = [*CONFINED, *self._volumes, f"--user={self._user}", "--env=FEDFS_STORE=/store"]
        return [*own, self._image, *arguments]

    def run(self, *arguments: str) -> str:
        return self._podman.call("run", *self._words(*arguments))

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._podman.start(self.log, "run", f"--name={name}", *self._words(*arguments))


def test_the_image_is_for_any_user_and_says_its_version(podman, image):
    run = ("run", "--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=ALL")
    assert podman.call(*run, image, "--version").startswith("fedfs")
    assert podman.call(*run, "--entrypoint=id", image, "-u").strip() == "1000"
    words = "import os; print(os.getuid(), open('/proc/self/status').read())"
    said = podman.call(*run, "--user=4711", "--entrypoint=python", image, "-c", words)
    assert said.startswith("4711 ")
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0" * 16}


def test_a_study_of_confined_containers_is_finished(podman, image, tmp_path):
    """No network, no capability, nothing to write but volumes; the site is stopped once."""
    store = tmp_path / "store"
    store.mkdir()
    os.chown(store, 0, int(GROUP))
    store.chmod(0o2775)
    images = tmp_path / "north" / "data" / "nnUNet_raw" / DATASET
    phantoms.write_dataset(images, n_cases={"north": 7}, seed=1)
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        (images.parents[1] / name).mkdir()
    (tmp_path / "other" / "data").mkdir(parents=True)
    shutil.copy(images / "dataset.json", tmp_path / "other" / "data")
    north = Party(podman, image, tmp_path / "north", SITE, store)
    other = Party(podman, image, tmp_path / "other", OTHER, store)

    init = ("init", "--name", "boxes", "--dataset-json", "/data/dataset.json", "--min-sites", "1")
    other.run(*init, "--rounds", "1", *BUDGET)
    north.run("site", "join", "--site", "north", "-d", DATASET)
    other.run("approve", "--all")
    checked = north.run("doctor", "--site", "north")
    assert "problem" not in checked, checked

    site = ("site", "run", "--site", "north", "-np", "1", "--device", "cpu")
    processes = [other.start("aggregator", "aggregate"), north.start("north", *site)]
    try:
        plan = store / "tracks" / "2d-0" / "aggregator" / "models"
        wait_for(plan.exists, at_most_s=200, explain=north.log.read_text)
        podman.call("stop", "--time=30", "north")
        processes[1].wait(30)
        assert "The command was terminated" in north.log.read_text()
        processes[1] = north.start("north", *site)
        for process in processes:
            assert process.wait(300) == 0, north.log.read_text() + other.log.read_text()
    finally:
        for process in processes:
            process.terminate()
            process.wait(60)
    check_study(str(store), rounds=1, sites=["north"])
    owners = {str(path.stat().st_uid) for path in (store / "sites").rglob("*.json")}
    assert owners == {SITE.partition(":")[0]}
    assert "finished" in other.run("status")


@pytest.fixture
def compose(podman, image, tmp_path):
    """The compose file with a dataset at each site; its S3 server runs."""
    for number, site in enumerate(("north", "east")):
        raw = tmp_path / "data" / site / DATASET
        phantoms.write_dataset(raw, n_cases={site: 7}, seed=number)
        shutil.copy(raw / "dataset.json", tmp_path / "data")
    made = Compose(podman, tmp_path / "tool", COMPOSE, {"FEDFS_DATA": str(tmp_path / "data")})
    try:
        made.build("s3")
        made.call("up", "-d", "--no-build", "s3")
        wait_for(lambda: is_healthy(made, "fedfs_s3_1"))
        yield made
    finally:
        made.stop()


def is_healthy(compose, container):
    """Look as the file says; podman itself looks only where there is systemd."""
    try:
        compose.podman("healthcheck", "run", container)
    except RuntimeError:
        return False
    return True


def test_the_compose_file_brings_a_study_to_its_end(compose):
    compose.call("up", "-d", "--no-build", "bucket")
    assert compose.podman("wait", "fedfs_bucket_1").strip() == "0"
    run = ("run", "-T", "--rm")
    init = ("init", "--name", "trial", "--dataset-json", "/data/dataset.json", "--min-sites", "2")
    compose.call(*run, "coordinator", *init, "--rounds", "1", *BUDGET)
    sites = ("north", "east")
    for site in sites:
        compose.call(*run, site, "site", "join", "-d", DATASET)
    compose.call(*run, "coordinator", "approve", "--all")
    # podman 4.3 does not start what depends on a container that depends on another.
    compose.call("up", "-d", "--no-build", "--no-deps", "aggregator", *sites)

    def logs(*names: str) -> str:
        return "\n".join(compose.log(f"fedfs_{name}_1") for name in names)

    def is_over() -> bool:
        return all("version 1 is the final model" in logs(site) for site in sites)

    wait_for(is_over, at_most_s=600, explain=lambda: logs("aggregator", *sites))
    assert "closed the study with version 1" in logs("aggregator")
    assert "version 1" in compose.call(*run, "coordinator", "status")
