"""Members of an ensemble on disk, and the commands for them; nnU-Net itself stands aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfs.errors import StudyError, UserError
from fedfs.roles.reader import export
from fedfs.roles.reader.ensemble_export import export_ensemble
from fedfs.tensors.canonical import TensorFile, weights_sha256
from support.federation import Federation

TWO = {"east": 1.0, "north": 2.0}


@pytest.fixture
def written(monkeypatch):
    """Requests of exports, each of which leaves a folder with its record."""
    seen = []

    def write(function, request, *, workdir):
        assert function == "export"
        folders = []
        for one in request.models:
            seen.append(one)
            folder = Path(one.output, one.dataset_name, f"{one.trainer}__plans__2d")
            (folder / "fold_0").mkdir(parents=True, exist_ok=True)
            with TensorFile(Path(one.tensors)) as tensors:
                record = {"version": one.version, "weights_sha256": weights_sha256(tensors)}
            (folder / "fold_0" / export.RECORD).write_text(json.dumps({**record, **one.kind}))
            folders.append(str(folder))
        return {"models": folders}

    monkeypatch.setattr(export, "run_isolated", write)
    return seen


def finished(folder, **options) -> Federation:
    options = {"targets": TWO, "ensemble": True, "rounds": 1, "configuration": "2d", **options}
    federation = Federation(folder, **options).start()
    federation.run()
    return federation


def test_each_member_has_a_results_folder_and_all_have_one_card(tmp_path, written):
    federation = finished(tmp_path, encryption="age")
    output, home = tmp_path / "members", federation.home("coordinator")
    done = export_ensemble(federation.store, output, home=home)
    assert list(done.members) == ["east", "north"]
    assert [Path(one.output).name for one in written] == ["east", "north"]
    assert done.members["east"].weights_sha256 != done.members["north"].weights_sha256
    dataset = federation.charter.dataset.name
    for site, command in zip(TWO, done.commands, strict=False):
        assert command.startswith(f"nnUNet_results=RESULTS/{site} nnUNetv2_predict -i IMAGES ")
        assert f"-o PREDICTIONS_{site} -d {dataset}" in command
        assert command.endswith("--save_probabilities")
    average = "nnUNetv2_ensemble -i PREDICTIONS_east PREDICTIONS_north -o PREDICTIONS"
    assert done.commands[-1] == average
    card = done.card.read_text()
    assert "the mean of the probabilities of the models of east, north" in card
    assert all(one.weights_sha256 in card for one in done.members.values())
    assert average in card
    done.card.write_text(card + "filled in")
    export_ensemble(federation.store, output, home=home)
    assert done.card.read_text().endswith("filled in")
    done.card.write_text("filled in, of other members")
    export_ensemble(federation.store, output, home=home)
    assert done.card.read_text() == card
    assert done.card.with_suffix(".md.old").read_text() == "filled in, of other members"


def test_studies_without_an_ensemble_that_can_be_exported(tmp_path, written):
    with pytest.raises(StudyError, match="has no ensemble"):
        export_ensemble(finished(tmp_path / "a", ensemble=False).store, tmp_path)
    begun = Federation(tmp_path / "b", targets=TWO, ensemble=True, rounds=1).start()
    with pytest.raises(StudyError, match="has no members yet"):
        export_ensemble(begun.store, tmp_path)
    several = Federation(tmp_path / "c", targets=TWO, ensemble=True, rounds=1, fold="0,1").start()
    with pytest.raises(UserError, match="Each of 2 tracks has an ensemble"):
        export_ensemble(several.store, tmp_path)
    assert not written
