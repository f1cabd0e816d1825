"""Real processes, real nnU-Net, made-up images and a folder: killed, by cron, and used."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fedfs.simulation.cases import read_cases
from fedfs.simulation.hosts import Host, stop
from support import s3_server
from support.one_process import HostHere
from support.phantom_hosts import DATASET, N_CASES, begin, check_study
from support.slow import slow
from support.socket_guard import write_guard

pytestmark = [pytest.mark.nnunet]

TIMEOUT_S = 420.0


@slow
@pytest.mark.xdist_group("federation")
def test_processes_killed_at_random_moments_finish_the_study(
    tmp_path, hosts, phantom_images, record_property, monkeypatch
):
    """SIGKILL at random moments; then the model predicts a case that no site has seen.

    No process connects to anything, though the variables of its host ask nnU-Net's logger to.
    """
    connections = write_guard(tmp_path / "guard")
    path = (str(connections.parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    store, rng = str(tmp_path / "store"), random.Random(7)
    sites = sorted(N_CASES)
    begin(hosts, store, phantom_images, *sites, rounds=2)
    commands = {
        site: (hosts[site], "site", "run", store, "--site", site, "-np", "1") for site in sites
    }
    commands["aggregator"] = (hosts["coordinator"], "aggregate", store)
    running = {name: host.start(*command) for name, (host, *command) in commands.items()}
    deadline_s = time.monotonic() + TIMEOUT_S
    kills: Counter[str] = Counter()
    next_kill_s = time.monotonic() + rng.uniform(2, 6)
    try:
        while running:
            assert time.monotonic() < deadline_s, {n: h[0].log_tail() for n, h in commands.items()}
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(iter(running.values())).wait(timeout=0.2)
            for name, process in list(running.items()):
                host, *command = commands[name]
                code = process.poll()
                if code == 0:
                    del running[name]
                elif code == -signal.SIGKILL:
                    running[name] = host.start(*command)
                elif code is not None:
                    pytest.fail(f"{name} exited with {code}:\n{host.log_tail(40)}")
            if running and kills.total() < 4 and time.monotonic() > next_kill_s:
                victim = rng.choice(sorted(running))
                running[victim].kill()
                kills[victim] += 1
                # Sites take some ten seconds to start: let them get somewhere in between.
                next_kill_s = time.monotonic() + rng.uniform(3, 14)
    finally:
        stop(list(running.values()))
    record_property("kills", dict(kills))
    assert kills.total() >= 3
    check_study(store, rounds=2, sites=sites)
    assert not connections.exists(), connections.read_text()
    lookup = "import socket, wandb; socket.getaddrinfo('127.0.0.1', 1); wandb.init(mode='online')"
    subprocess.run([sys.executable, "-c", lookup], check=True, env=hosts["east"].environment())
    seen = [line.split()[0] for line in connections.read_text().splitlines()]
    assert seen == ["socket.getaddrinfo", "wandb.init"], "the guard does not see connections"
    use_the_model(tmp_path, hosts["coordinator"], store, phantom_images)


def use_the_model(tmp_path: Path, host: Host, store: str, phantom_images: Path) -> None:
    """Export as the user would and let nnU-Net's own command predict."""
    view = json.loads(host.run("status", store, "--json"))
    assert view["phase"] == "finished"
    assert view["waiting_for"] == []
    made = json.loads(host.run("export", store, "-o", str(tmp_path / "model"), "--json"))
    folder = Path(made["models"][0]["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names >= {"plans.json", "dataset.json", "fold_0", "MODEL_CARD.md"}
    assert folder.name.startswith("nnUNetTrainer__")
    case = read_cases(phantom_images)["east"][0]
    images = tmp_path / "new"
    images.mkdir()
    name = f"{case}_0000.nii.gz"
    (images / name).symlink_to(phantom_images / "imagesTr" / name)
    command = made["predict_commands"][0].replace("IMAGES", str(images)).split()
    command[command.index("PREDICTIONS")] = str(tmp_path / "out")
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:],
         "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"],
        env={**host.environment(), "nnUNet_results": str(tmp_path / "model")},
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (tmp_path / "out" / f"{case}.nii.gz").is_file(), done.stdout + done.stderr


@pytest.fixture
def far_away(tmp_path, request, monkeypatch) -> str:
    """A bucket of a real S3 server; a folder where none can be run."""
    if s3_server.missing_programs():
        return str(tmp_path / "store")
    ceph = request.getfixturevalue("ceph")
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{ceph.make_bucket()}/studies/e2e"


@pytest.mark.xdist_group("ceph")
def test_cron_drives_both_sides_of_a_bucket(hosts, phantom_images, far_away, in_one_process):
    """Every call does what can be done now and returns; its exit code says if there was any."""
    hosts = {name: HostHere(name, host.folder) for name, host in hosts.items()}
    store, host, coordinator = far_away, hosts["north"], hosts["coordinator"]
    begin(hosts, store, phantom_images, "north", rounds=1)
    run = ("site", "run", store, "--site", "north", "-np", "1")
    code, text = coordinator.once("aggregate", store)
    assert (code, text.strip()) == (10, "waiting for the fingerprint of north")
    code, text = host.once(*run)
    assert code == 0
    assert "the aggregator's plan" in text
    code, text = coordinator.once("aggregate", store)
    assert code == 0
    assert "the update of north from version 0" in text
    code, text = host.once(*run)
    assert code == 0
    assert "version 1 from the aggregator" in text
    assert host.once(*run)[0] == 10
    code, text = coordinator.once("aggregate", store)
    assert (code, text.strip()) == (0, "finished: version 1 is the last")
    code, text = host.once(*run)
    assert (code, text.strip()) == (0, "finished: version 1 is the final model")
    check_study(store, rounds=1, sites=["north"])
    results = host.results / DATASET
    final = next(results.glob("nnUNetTrainer__*__2d/fold_0/checkpoint_final.pth"))
    assert (final.parent / "validation" / "summary.json").is_file()
    assert code == 0
    assert coordinator.once("aggregate", store)[0] == 11
