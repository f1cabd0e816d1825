"""The examples do what they say: each is run as a user would run it, on a tiny budget.

The paper's comparison is run in ``tests/e2e/test_simulate.py``, the strategy in
``test_my_strategy.py``.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import SimpleITK
from hospitals import Hospitals
from synthetic import DATASET, LABELS

from fedfs.exchange.read import open_study
from fedfs.protocol.state import StudyState
from fedfs.store import S3Options, StorePlace, open_store
from fedfs.trust.keyring import Keyring
from support import s3_server
from support.one_process import call, fork_pools, run_children_here
from support.slow import slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 600.0
BUDGET = {
    "CASES": "2",
    "FOLD": "all",
    "ROUNDS": "1",
    "ITERATIONS": "2",
    "DEVICE": "cpu",
    "NET": "--gpu-memory-target 0.02 --planner-option UNet_base_num_features=8 "
    "--planner-option UNet_max_features_2d=16",
}

pytestmark = pytest.mark.nnunet
by_itself = pytest.mark.xdist_group("examples")


def environment(**more: str) -> dict[str, str]:
    """That of a user's shell in which fedfs is installed."""
    ours = ("nnUNet_", "FEDFS_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def bash(script: str, *arguments: str | Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_finished(state: StudyState, sites: set[str]) -> None:
    assert state.finished is not None
    assert not state.rejected
    assert {update.site for update in state.rounds[1].updates} == sites
    assert all(state.is_validated(site, 1) for site in sites)


@slow
@pytest.mark.xdist_group("ceph")
def test_two_hospitals_and_a_bucket(ceph, tmp_path, monkeypatch):
    """Every party with credentials of its own, under the policies of deploy/s3."""
    parties = ("coordinator", "aggregator", "north", "east")
    users = {party: ceph.add_user(f"example-{party}") for party in parties}
    owner = environment(**ceph.environment())
    user = "arn:aws:iam:::user/example-"
    bash("two-hospitals-and-a-bucket/bucket.sh", "example", "studies/organ", user, env=owner)
    profiles = "".join(
        f"[{party}]\naws_access_key_id = {user.access_key}\n"
        f"aws_secret_access_key = {user.secret_key}\n"
        for party, user in users.items()
    )
    credentials = tmp_path / "credentials"
    credentials.write_text(profiles)
    env = environment(
        AWS_SHARED_CREDENTIALS_FILE=str(credentials),
        AWS_REGION=s3_server.REGION,
        AWS_EC2_METADATA_DISABLED="true",
        S3_ENDPOINT=ceph.endpoint,
        PROFILES="yes",
        **BUDGET,
    )
    folder, url = tmp_path / "hosts", "s3://example/studies/organ"
    said = bash("two-hospitals-and-a-bucket/run.sh", url, folder, env=env)
    assert "nnUNetv2_predict" in said
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION"):
        monkeypatch.setenv(name, env[name])
    place = StorePlace(url, S3Options(endpoint_url=ceph.endpoint, profile="coordinator"))
    state = open_study(open_store(place)).state
    check_finished(state, {"north", "east"})
    key = Keyring(folder / "aggregator" / "fedfs", state.charter.study).load("aggregator")
    assert state.charter.aggregator_key == key.public
    assert state.charters[1].aggregator_key != key.public
    (fold,) = (folder / "model").glob("Dataset042_Organ/*/fold_all")
    assert (fold / "checkpoint_final.pth").is_file()


@pytest.fixture(scope="module")
def by_usb(tmp_path_factory) -> Path:
    """What the example with the stick leaves behind."""
    folder = tmp_path_factory.mktemp("usb")
    said = bash("hospital-by-usb/run.sh", folder, env=environment(**BUDGET))
    assert said.count("encrypted for south") >= 3
    return folder


@slow
@by_itself
def test_one_hospital_by_usb(by_usb):
    state = open_study(open_store(str(by_usb / "share"))).state
    check_finished(state, {"north", "south"})
    outpost = open_study(open_store(str(by_usb / "south" / "store")), site="south").state
    assert outpost.finished is not None
    assert outpost.models[1].weights_sha256 == state.models[1].weights_sha256
    assert not [entry for entry in outpost.digests if entry.startswith("sites/north/")]


def python(*words: str | Path, cwd: Path | None = None, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment(**more), cwd=cwd,
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory) -> Iterator[Hospitals]:
    """A finished study of one hospital."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        run_children_here(patch)
        fork_pools(patch)
        folder = tmp_path_factory.mktemp("study")
        yield Hospitals(folder, patch, {"north": 2}, configuration="2d", fold="all").run()


@pytest.fixture(scope="module")
def predicted(hospitals, tmp_path_factory) -> tuple[Path, str]:
    """Folder with an image and its segmentation by predict.py, and what that printed.

    The model is that which a site has in its own nnUNet_results. The program is run in this process
    and does not spawn: each process of it imports nnU-Net for seconds.
    """
    model = hospitals.final("north").parents[1]
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "images").mkdir()
    source = hospitals.paths["north"].raw / DATASET / "imagesTr"
    (folder / "images" / "case_0000.nii.gz").symlink_to(min(source.iterdir()))
    script = runpy.run_path(str(EXAMPLES / "predict.py"))
    words = (str(model), str(folder / "images"), str(folder / "out"), "--fold", "all")
    code, said, err = call(script["main"], "predict.py", *words, "--device", "cpu", env=os.environ)
    assert code == 0, said + err
    return folder, said


@by_itself
def test_a_model_is_used_in_python(predicted):
    folder, said = predicted
    assert (folder / "out" / "case.nii.gz").is_file()
    (from_file,) = [line for line in said.splitlines() if line.startswith("case: ")]
    (from_array,) = [line for line in said.splitlines() if line.startswith("case, as")]
    assert from_file.partition(": ")[2] == from_array.partition(": ")[2]
    assert set(LABELS) & set(from_file.split())


@slow
@by_itself
def test_a_monai_bundle_predicts_as_nnunet_does(hospitals, predicted, tmp_path):
    folder, _ = predicted
    said = python("-m", "fedfs", "export", hospitals.url, "-o", tmp_path / "model", "--json",
                  FEDFS_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT))  # fmt: skip
    (model,) = json.loads(said)["models"]
    bundle = tmp_path / "bundle"
    python(EXAMPLES / "monai-bundle" / "convert.py", model["folder"], bundle, "--fold", "all")
    assert "# Model card: " in (bundle / "docs" / "README.md").read_text()
    python(
        "-m", "monai.bundle", "run", "--config_file", "configs/inference.json",
        "--meta_file", "configs/metadata.json", "--dataset_dir", folder / "images",
        "--output_dir", tmp_path / "out", "--device", "$torch.device('cpu')", cwd=bundle,
    )  # fmt: skip
    ours = SimpleITK.ReadImage(str(tmp_path / "out" / "case_0000.nii.gz"))
    theirs = SimpleITK.ReadImage(str(folder / "out" / "case.nii.gz"))
    assert ours.GetSpacing() == theirs.GetSpacing()
    same = SimpleITK.GetArrayFromImage(ours) == SimpleITK.GetArrayFromImage(theirs)
    assert same.all()


def test_gains_are_read_from_the_numbers_of_a_comparison(tmp_path):
    row = {"dice_sd": None, "hd95_mm": 1.0, "n_cases": 1}
    dice = {"local": {"east": 0.5, "mean": 0.5}, "ffe": {"east": 0.75, "mean": 0.625}}
    cells = {arm: {site: {"dice": d, **row} for site, d in of.items()} for arm, of in dice.items()}
    result = {"cells": cells, "n_training_cases": {"east": 6}, "external": None}
    (tmp_path / "result.json").write_text(json.dumps(result))
    said = subprocess.run(
        [sys.executable, str(EXAMPLES / "paper-comparison" / "gains.py"), tmp_path / "result.json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split() for line in said.splitlines()[1:]] == [
        ["site", "local", "ffe", "ffe-local"],
        ["east", "0.500", "0.750", "+0.250"],
        ["mean", "0.500", "0.625", "+0.125"],
    ]


def test_every_example_is_in_the_table():
    table = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.is_dir() or path.name == "predict.py":
            assert f"]({path.name}" in table, path.name
