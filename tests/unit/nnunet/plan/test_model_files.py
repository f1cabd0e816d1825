"""Model folders and zips of them, read without nnU-Net: what is taken, and what is refused."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import pytest

from fedfs.errors import UserError
from fedfs.nnunet.plan import model_files
from fedfs.nnunet.plan.model_files import find_model

NAME = "nnUNetTrainer__nnUNetPlans__2d"
PLANS = json.dumps({"plans_name": "nnUNetPlans"})
DATASET = json.dumps(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "b": 1, "a": 2},
     "file_ending": ".nii.gz"}
)  # fmt: skip


def files(*folds: str, model: str = NAME) -> dict[str, str]:
    found = {f"{model}/plans.json": PLANS, f"{model}/dataset.json": DATASET}
    return found | {f"{model}/{fold}/checkpoint_final.pth": f"weights of {fold}" for fold in folds}


def write_folder(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / NAME


def write_zip(path: Path, content: dict[str, str] | list[tuple[str, str]]) -> Path:
    pairs = content.items() if isinstance(content, dict) else content
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        for name, text in pairs:
            archive.writestr(name, text)
    return path


@pytest.fixture
def room(tmp_path):
    made = tmp_path / "room"
    made.mkdir()
    return made


def test_a_folder_and_a_zip_of_it_hold_the_same(tmp_path, room):
    content = {**files("fold_0", "fold_1"), f"{NAME}/fold_1/progress.png": "a picture"}
    folder = write_folder(tmp_path, content)
    path = write_zip(tmp_path / "x.zip", {f"Dataset042_Organ/{n}": t for n, t in content.items()})
    for found in (find_model(folder, room), find_model(path, room)):
        assert found.plans == {"plans_name": "nnUNetPlans"}
        assert found.dataset_json["label_order"] == ["background", "b", "a"]
        assert {fold: one.read_text() for fold, one in found.checkpoints.items()} == {
            "0": "weights of fold_0", "1": "weights of fold_1",
        }  # fmt: skip
    assert not list(room.rglob("progress.png"))


def test_the_fold_all_counts_where_there_is_no_other(tmp_path, room):
    folder = write_folder(tmp_path, files("fold_all"))
    assert list(find_model(folder, room).checkpoints) == ["all"]
    write_folder(tmp_path, files("fold_3"))
    (folder / "fold_4").mkdir()  # not trained to the end
    assert list(find_model(folder, room).checkpoints) == ["3"]


FOLDERS = {
    "no plans.json": ({f"{NAME}/dataset.json": DATASET}, "it has no plans.json"),
    "no dataset.json": ({f"{NAME}/plans.json": PLANS}, "it has no dataset.json"),
    "no fold": (files(), "has no fold with a checkpoint_final.pth"),
    "plans that are no JSON": ({**files("fold_0"), f"{NAME}/plans.json": "{"}, "not valid JSON"),
    "plans that are a list": ({**files("fold_0"), f"{NAME}/plans.json": "[]"}, "not a JSON object"),
    "no labels": ({**files("fold_0"), f"{NAME}/dataset.json": "{}"}, "cannot be used"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_model(tmp_path, room, name):
    content, says = FOLDERS[name]
    with pytest.raises(UserError, match=says):
        find_model(write_folder(tmp_path, content), room)


ZIPS = {
    "a way out": ({**files("fold_0"), "../evil/plans.json": "{}"}, "a file outside of it"),
    "an absolute name": ({**files("fold_0"), "/etc/plans.json": "{}"}, "a file outside of it"),
    "a way out by backslashes": ({**files("fold_0"), "..\\plans.json": "{}"}, "outside of it"),
    "two models": (
        {**files("fold_0"), **files("fold_0", model="T__P__3d_fullres")}, "holds 2 models, not one",
    ),
    "no model": ({"readme.txt": "hello"}, "holds 0 models"),
    "no fold": (files(), "has no fold"),
    "a file twice": (
        [*files("fold_0").items(), (f"{NAME}/plans.json", "{}")], "plans.json twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ZIPS)
def test_a_zip_that_is_refused_writes_nothing_elsewhere(tmp_path, room, name):
    content, says = ZIPS[name]
    path = write_zip(tmp_path / "x.zip", content)
    with pytest.raises(UserError, match=says):
        find_model(path, room)
    assert {one.name for one in tmp_path.iterdir()} == {"x.zip", "room"}


def test_sizes_are_bounded(tmp_path, room, monkeypatch):
    monkeypatch.setattr(model_files, "MAX_JSON_BYTES", 10)
    for path in (write_folder(tmp_path, files("fold_0")),
                 write_zip(tmp_path / "x.zip", files("fold_0"))):  # fmt: skip
        with pytest.raises(UserError, match="larger than any of nnU-Net"):
            find_model(path, room)
    monkeypatch.setattr(model_files, "MAX_CHECKPOINT_BYTES", 5)
    monkeypatch.setattr(model_files, "MAX_JSON_BYTES", 10_000)
    with pytest.raises(UserError, match="larger than any of nnU-Net"):
        find_model(write_zip(tmp_path / "x.zip", files("fold_0")), room)
    assert not list(room.iterdir())


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_zip(tmp_path, room, content):
    path = tmp_path / "x.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="x.zip"):
        find_model(path, room)


def test_a_damaged_zip_is_no_model(tmp_path, room):
    path = write_zip(tmp_path / "x.zip", files("fold_0"))
    data = bytearray(path.read_bytes())
    data[data.index(b"weights of")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a zip that can be read"):
        find_model(path, room)
