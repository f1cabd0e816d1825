"""Studies of several configurations and folds, and the cascade, with the real nnU-Net.

See :mod:`hospitals` for what runs where.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hospitals import Hospitals
from synthetic import DATASET, make_paths

from fedfs.errors import UserError
from fedfs.exchange.read import open_study, open_tracks
from fedfs.nnunet.system.environment import set_variables
from fedfs.protocol import participation
from fedfs.roles.reader.export import export_versions
from fedfs.roles.reader.model_kind import Chosen
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.roles.site.run import attend
from support.slow import slow


@pytest.mark.nnunet
def test_two_configurations_and_folds_end_as_an_ordinary_model(
    tmp_path, monkeypatch, in_one_process
):
    """A case of north is broken, and one comes later; its splits name both to the end."""
    hospitals = Hospitals(
        tmp_path,
        monkeypatch,
        {"north": 6, "east": 5},
        configuration="2d,3d_fullres,3d_lowres",
        fold="0,1",
        gpu_memory_target_gb=0.02,
    )
    raw = hospitals.paths["north"].raw / DATASET
    (raw / "labelsTr" / "case_005.nii.gz").write_bytes(b"no image")
    rest = ["case_002", "case_003", "case_004"]
    splits = [
        {"train": ["case_001", *rest], "val": ["case_000", "case_005"]},
        {"train": ["case_000", *rest], "val": ["case_001", "case_006"]},
    ]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    hospitals.run_site("north")  # announces its cases
    for folder, name in (("imagesTr", "{}_0000.nii.gz"), ("labelsTr", "{}.nii.gz")):
        shutil.copy(raw / folder / name.format("case_000"), raw / folder / name.format("case_006"))
    hospitals.run()
    states = {name: one.state for name, one in open_tracks(hospitals.store).items()}
    for fold in (0, 1):  # nnU-Net plans it for larger images only
        assert participation.lacks_configuration(states.pop(f"3d_lowres-{fold}"))
    assert all(state.finished.version == 1 for state in states.values())
    assert len({state.models[1].weights_sha256 for state in states.values()}) == 4
    choice = open_study(hospitals.store).state.choice
    assert choice.n_cases == 4  # one of each fold and site
    assert set(choice.dice) == {"2d", "3d_fullres", "2d+3d_fullres"}

    made = hospitals.export()
    dataset = made.models[0].folder.parent
    assert (dataset / "inference_information.json").exists()
    assert [(m.configuration, m.fold) for m in made.models] == [
        ("2d", "0"),
        ("2d", "1"),
        ("3d_fullres", "0"),
        ("3d_fullres", "1"),
    ]
    for folder in {one.folder for one in made.models}:
        card = (folder / "MODEL_CARD.md").read_text()
        assert "range of 2 folds" in card
        summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
        assert summary["n_cases"] == 2
        assert summary["foreground_mean"]["Dice"] >= 0
    installed = install_elsewhere(tmp_path, made, dataset)
    plans = made.models[0].folder.name.split("__")[1]
    images = [str(hospitals.paths["north"].raw / DATASET / "imagesTr" / "case_000_0000.nii.gz")]
    both, first = (
        predict(installed / f"nnUNetTrainer__{plans}__3d_fullres", images, folds)
        for folds in ((0, 1), (0,))
    )
    assert both.shape == first.shape == (3, 12, 40, 40)
    assert not np.array_equal(both, first)  # of two folds it is the mean


def install_elsewhere(tmp_path, made, dataset):
    """By nnU-Net's own commands: to a zip file, and from it."""
    from nnunetv2.model_sharing.model_export import export_pretrained_model  # noqa: PLC0415
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file  # noqa: PLC0415

    plans = made.models[0].folder.name.split("__")[1]
    zipped, elsewhere = str(tmp_path / "model.zip"), make_paths(tmp_path / "elsewhere")
    with set_variables({**elsewhere.variables(), "nnUNet_results": str(made.root)}):
        export_pretrained_model(
            dataset.name, zipped, ("2d", "3d_fullres"), plans_identifier=plans, folds=(0, 1)
        )
    with set_variables(elsewhere.variables()):
        install_model_from_zip_file(zipped)
    return elsewhere.results / dataset.name


def predict(model, images, folds):
    import torch  # noqa: PLC0415
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO  # noqa: PLC0415
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    image, properties = SimpleITKIO().read_images(images)
    return predictor.predict_single_npy_array(image, properties, save_or_return_probabilities=True)[
        1
    ]


@slow
@pytest.mark.nnunet
def test_the_cascade_is_federated_after_its_first_stage(tmp_path, monkeypatch, in_one_process):
    hospitals = Hospitals(
        tmp_path,
        monkeypatch,
        {"north": 3},
        fold="all",
        configuration="3d_lowres,3d_cascade_fullres",
        gpu_memory_target_gb=0.001,
        ema=0.5,
        learning_rate=0.03,
    )
    hospitals.run_site("north")
    hospitals.run_aggregator()
    one_track = hospitals.run_site("north", tracks=("3d_cascade_fullres-all",))
    assert one_track.text.endswith("waiting for track 3d_lowres-all")
    hospitals.run(local_model=True, personal=FineTuning(learning_rate=1e-4))
    states = {name: one.state for name, one in open_tracks(hospitals.store).items()}
    second = states["3d_cascade_fullres-all"]
    assert second.finished.version == 1
    assert second.rounds[0].created_at >= states["3d_lowres-all"].finished.created_at
    models = hospitals.paths["north"].results / DATASET
    plans = second.plan.plans["plans_name"]
    passed_on = models / f"nnUNetTrainer__{plans}__3d_lowres" / "predicted_next_stage"
    cases = {path.stem for path in (passed_on / "3d_cascade_fullres").glob("*.b2nd")}
    assert cases == {"case_000", "case_001", "case_002"}
    final = models / f"nnUNetTrainer__{plans}__3d_cascade_fullres" / "fold_all"
    assert (final / "validation" / "summary.json").exists()
    assert {("north", 1, "local"), ("north", 1, "ema")} <= set(second.evaluations)
    (alone,) = hospitals.paths["north"].results.glob("fedfs/*/north/local-model")
    assert (alone / final.relative_to(models.parent) / "checkpoint_final.pth").exists()
    personal = alone.with_name("personal-model") / final.relative_to(models.parent)
    tuned = torch.load(personal / "checkpoint_final.pth", weights_only=False)
    assert tuned["optimizer_state"]["param_groups"][0]["initial_lr"] == 1e-4
    untuned = torch.load(final / "checkpoint_final.pth", weights_only=False)
    assert untuned["optimizer_state"]["param_groups"][0]["initial_lr"] == 0.03
    assert untuned["logging"]["lrs"] == [0.03]
    local = torch.load(
        alone / final.relative_to(models.parent) / "checkpoint_final.pth", weights_only=False
    )
    assert local["logging"]["lrs"][0] == 0.03
    assert open_study(hospitals.store).state.choice is None  # no case that was not trained on
    network = second.models[1].weights_sha256
    assert [m.weights_sha256 for m in hospitals.export().models][1] == network
    average = export_versions(hospitals.store, tmp_path / "ema", chosen=Chosen(ema=True))[1]
    assert average.weights_sha256 == network  # version 0 is no part of it
    card = (average.folder / "MODEL_CARD.md").read_text()
    assert "| Weights | the exponential average of versions 1 to 1, decay 0.5 |" in card


def test_a_site_that_pauses_does_so_on_all_tracks(tmp_path, monkeypatch):
    hospitals = Hospitals(tmp_path, monkeypatch, {"north": 3}, configuration="2d", fold="0,1")
    config = SiteConfig(hospitals.url, "north", hospitals.home("north"))
    assert attend(config, "paused", "holiday")
    assert not attend(config, "paused", "holiday")
    states = [one.state for one in open_tracks(hospitals.store).values()]
    assert [state.attendance("north") for state in states] == ["paused", "paused"]


def test_a_track_that_is_not_there_is_named(tmp_path, monkeypatch):
    hospitals = Hospitals(tmp_path, monkeypatch, {"north": 3}, configuration="2d", fold="0,1")
    with pytest.raises(UserError, match="no track '2d-2'") as caught:
        hospitals.run_site("north", tracks=("2d-2",))
    assert "2d-0, 2d-1" in caught.value.hint
