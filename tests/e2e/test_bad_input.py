"""Bad input at the shell: one clear sentence, a documented exit code, and nothing left behind."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fedfs.cli import main
from fedfs.protocol import layout
from fedfs.store.folder import FolderStore
from fedfs.trust.signing import SigningKey
from support.one_process import call
from support.phantom_hosts import DATASET


class Shell:
    """Runs fedfs commands on a host, in this process; remembers what the last one said."""

    def __init__(self, host) -> None:
        self.host = host
        self.environment = host.environment()

    def __call__(self, *arguments: str) -> int:
        variables = {k: v for k, v in self.environment.items() if v is not None}
        code, self.out, self.err = call(main, "fedfs", *arguments, env=variables)
        return code


@pytest.fixture
def coordinator(hosts) -> Shell:
    return Shell(hosts["coordinator"])


@pytest.fixture
def north(hosts) -> Shell:
    return Shell(hosts["north"])


@pytest.fixture
def store(tmp_path) -> str:
    return str(tmp_path / "store")


def init(shell: Shell, store: str, phantom_images: Path, *more: str) -> int:
    return shell(
        "init", store, "--name", "bad-input", "--dataset-json",
        str(phantom_images / "dataset.json"), "-c", "2d", *more,
    )  # fmt: skip


@pytest.fixture
def study(coordinator, store, phantom_images) -> str:
    assert init(coordinator, store, phantom_images) == 0, coordinator.err
    return store


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def edit_dataset(shell: Shell, **changes) -> None:
    path = shell.host.raw / DATASET / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def join(shell: Shell, store: str) -> int:
    return shell("site", "join", store, "--site", "north", "--dataset", DATASET)


def test_labels_that_disagree_with_the_charter_are_shown(study, north):
    before = files(Path(study))
    edit_dataset(north, labels={"background": 0, "organ": 2, "tumour": 1})
    assert join(north, study) == 3
    for line in (
        "label 'lesion' (2) is missing in the dataset",
        "label 'organ' is 1 in the charter and 2 in the dataset",
        "label 'tumour' (1) is not in the charter",
    ):
        assert line in north.err
    assert files(Path(study)) == before
    assert not (north.host.folder / "fedfs").exists() or not list(
        (north.host.folder / "fedfs").rglob("*.key")
    )


def test_channels_that_disagree_with_the_charter_are_shown(study, north):
    edit_dataset(north, channel_names={"0": "CT"})
    assert join(north, study) == 3
    assert "channel" in north.err
    assert "'CT'" in north.err
    assert "'MRI'" in north.err


@pytest.mark.parametrize("what", ["imagesTr", "labelsTr"])
def test_a_missing_file_is_named(study, north, what):
    victim = min((north.host.raw / DATASET / what).iterdir())
    victim.unlink()
    assert join(north, study) == 3
    assert victim.name.removesuffix("_0000.nii.gz").removesuffix(".nii.gz") in north.err


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("value", [None, "/does/not/exist"])
def test_an_nnunet_variable_that_is_missing_or_wrong_is_named(study, north, variable, value):
    north.environment[variable] = value
    assert join(north, study) == 3
    assert variable in north.err
    assert "hint:" in north.err


def test_a_dataset_that_does_not_exist_is_named(study, north):
    assert north("site", "join", study, "--site", "north", "--dataset", "Dataset555_No") == 3
    assert "Dataset555_No" in north.err


def test_an_unapproved_site_is_told_whom_to_ask(study, north):
    run = ("site", "run", study, "--site", "north", "--once")
    assert north(*run, "--expect-key", "0000") == 2
    assert north(*run, "--dataset", DATASET, "--expect-key", "0000") == 5
    assert north(*run, "--dataset", DATASET) == 10
    assert "compare the coordinator key" in north.out
    assert "waiting for the coordinator to approve north, by: fedfs approve" in north.out
    assert north(*run, "--dataset", DATASET) == 10
    assert "compare the coordinator key" not in north.out
    shutil.copytree(north.host.raw / DATASET, north.host.raw / "Dataset077_Other")
    assert north(*run, "--dataset", "77") == 2
    assert f"has asked to join with {DATASET}, not with Dataset077_Other" in north.err


def test_a_site_that_never_joined_is_told_to_join(study, north):
    assert north("site", "run", study, "--site", "north", "--once") == 3
    assert "holds no site-north key" in north.err


def test_approving_who_has_not_asked_says_who_has(study, coordinator, north):
    assert join(north, study) == 0
    assert coordinator("approve", study, "nrth") == 6
    assert "asked so far: north" in coordinator.err


def test_only_the_coordinators_host_can_approve(study, north):
    assert join(north, study) == 0
    assert north("approve", study, "--all") == 3
    assert "no coordinator key" in north.err


def test_only_the_aggregators_host_can_aggregate(study, north):
    assert north("aggregate", study, "--once") == 3
    assert "no aggregator key" in north.err


@pytest.mark.parametrize("command", ["status", "export", "join", "run", "aggregate"])
def test_a_folder_that_is_no_federation_says_so(tmp_path, north, command):
    (tmp_path / "empty").mkdir()
    place = str(tmp_path / "empty")
    arguments = {
        "status": ["status", place],
        "export": ["export", place, "-o", str(tmp_path / "out")],
        "join": ["site", "join", place, "--site", "north", "--dataset", DATASET],
        "run": ["site", "run", place, "--site", "north"],
        "aggregate": ["aggregate", place],
    }[command]
    assert north(*arguments) == 6
    assert "holds no federation" in north.err
    assert not list((tmp_path / "empty").iterdir())


def test_a_store_that_does_not_exist_asks_whether_the_share_is_mounted(tmp_path, north):
    assert north("status", str(tmp_path / "nowhere")) == 4
    assert "mounted" in north.err


def test_a_second_init_on_the_same_store_changes_nothing(study, coordinator, phantom_images):
    before = {name: (Path(study) / name).read_bytes() for name in files(Path(study))}
    keys = files(coordinator.host.folder)
    assert init(coordinator, study, phantom_images) == 6
    assert "holds a federation already" in coordinator.err
    assert {name: (Path(study) / name).read_bytes() for name in files(Path(study))} == before
    assert files(coordinator.host.folder) == keys


def test_a_store_of_a_newer_major_version_asks_to_upgrade(study, north):
    path = Path(study) / layout.charter(1)
    envelope = json.loads(path.read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["schema"] = "fedfs/2.0"
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.unlink()
    path.write_text(json.dumps(envelope))
    assert north("status", study) == 5
    assert "protocol version 2.0" in north.err
    assert "upgrade fedfs" in north.err


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "Bad Name"], ["--configuration", "4d"], ["--fold", "9"], ["--rounds", "0"],
        ["--local-epochs", "1", "--local-iterations", "5"], ["--weighting", "best"],
        ["--trainer", "os.system"], ["--dataset-name", "../x"], ["--planner-option", "x"],
        ["--pretrained", "nowhere.pth"],
    ],
)  # fmt: skip
def test_unusable_options_of_init_leave_nothing_behind(
    tmp_path, coordinator, store, phantom_images, options
):
    assert init(coordinator, store, phantom_images, *options) == 2, coordinator.err
    assert not files(tmp_path / "coordinator")
    assert not Path(store).exists() or not files(Path(store))


def test_a_dataset_json_without_labels_is_refused(tmp_path, coordinator, store):
    path = tmp_path / "dataset.json"
    path.write_text('{"channel_names": {"0": "MRI"}}')
    assert coordinator("init", store, "--name", "x", "--dataset-json", str(path)) == 2
    assert "'labels'" in coordinator.err


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB, where this user may mount one."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_behind(coordinator, tiny_disk, phantom_images):
    (tiny_disk / "filler").write_bytes(b"x" * (60 * 1024))
    with (tiny_disk / "more").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            pass
    assert init(coordinator, str(tiny_disk), phantom_images) == 4
    assert "space" in coordinator.err
    assert files(tiny_disk) == {"filler", "more"}
    assert not files(coordinator.host.folder)


def test_a_read_only_folder_is_said_and_leaves_nothing_behind(
    coordinator, tiny_disk, phantom_images
):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert init(coordinator, str(tiny_disk), phantom_images) == 4
    assert "read-only" in coordinator.err.lower()
    assert not files(coordinator.host.folder)


def test_a_home_that_cannot_be_written_is_named(tmp_path, study, north):
    (tmp_path / "home").write_text("a file where a folder should be")
    north.environment["FEDFS_HOME"] = str(tmp_path / "home")
    assert join(north, study) == 3
    assert "FEDFS_HOME" in north.err
    assert not (Path(study) / layout.join("north", 1)).exists()


def test_a_key_that_others_can_read_is_refused(study, coordinator):
    key = next((coordinator.host.folder / "fedfs").rglob("coordinator.key"))
    key.chmod(0o644)
    assert coordinator("approve", study, "--all") == 3
    assert "chmod 600" in coordinator.err


def test_objects_that_cannot_be_trusted_are_named_in_status_and_otherwise_ignored(
    study, coordinator, north
):
    assert join(north, study) == 0
    folder = FolderStore(Path(study))
    good = (Path(study) / layout.join("north", 1)).read_bytes()
    folder.create(layout.join("east", 1), good)  # moved to another place
    folder.create(layout.join("north", 2), good[: len(good) // 2])  # truncated
    folder.create(layout.charter(2), b"{}")  # unsigned
    folder.create(layout.plan(), good.replace(b"north", b"soutH"))
    (Path(study) / "Thumbs.db").write_bytes(b"foreign")
    assert coordinator("status", study, "--json") == 0, coordinator.err
    view = json.loads(coordinator.out)
    assert set(view["rejected"]) == {
        layout.join("east", 1),
        layout.join("north", 2),
        layout.charter(2),
        layout.plan(),
    }
    assert [(s["site"], s["state"]) for s in view["sites"]] == [("north", "asks to join")]
    assert coordinator("status", study) == 0
    for key in view["rejected"]:
        assert key in coordinator.out


def test_a_wrong_coordinator_key_stops_the_join(study, north):
    other = SigningKey.generate()
    assert other.public
    assert (
        north("site", "join", study, "--site", "north", "--dataset", DATASET,
              "--expect-key", "0000 1111 2222 3333 4444 5555 6666 7777") == 5
    )  # fmt: skip
    assert "do not join" in north.err
