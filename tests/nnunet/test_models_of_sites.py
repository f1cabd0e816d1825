"""Models that sites have for themselves, made by the real nnU-Net and loaded by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hospitals import Hospitals
from synthetic import DATASET, Reports
from test_own_life import snapshot

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import StudyError
from fedfs.exchange.read import open_study
from fedfs.nnunet.data.dataset_json import read_json
from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.reader import export
from fedfs.roles.reader.model_kind import Chosen
from fedfs.roles.site import export as site_export
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.export import export_own
from fedfs.roles.site.fine_tuning import FineTuning
from fedfs.roles.site.membership.audit import audit_membership
from fedfs.tensors.canonical import canonical_names

SITES = {"north": 6, "east": 5}


def weights(checkpoint):
    """Canonical name -> values of nnU-Net's checkpoint."""
    state = torch.load(checkpoint, weights_only=False)["network_weights"]
    return {
        name: state[aliases[0]].numpy()
        for name, aliases in canonical_names(state).items()
        if state[aliases[0]].is_floating_point()
    }


def loaded(folder):
    """The same of a model folder, as nnU-Net's predictor has it."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415  heavy

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    state = predictor.network.state_dict()
    return {name: state[aliases[0]].numpy() for name, aliases in canonical_names(state).items()}


def exported_by(hospitals, site, root, *, track=None, **options):
    """Export at a site, in the commands' own words."""
    hospitals.at(site)
    config = SiteConfig(
        hospitals.url, site, hospitals.home(site), host=HostSettings(device="cpu", num_processes=1)
    )
    (made,) = export_own(
        config, hospitals.folder / root, version=None, track=track, dataset_name=None,
        chosen=Chosen(**options),
    )  # fmt: skip
    return made


@pytest.fixture
def hospitals(tmp_path, monkeypatch, in_one_process):
    """A finished study with all the models that a site can have; batch normalisation."""
    monkeypatch.setattr(site_export, "run_isolated", export.run_isolated)
    return Hospitals(
        tmp_path, monkeypatch, SITES, configuration="2d", gpu_memory_target_gb=0.02, rounds=2,
        keep_local="norm", strategy="FedProx", encoding="int8", trainer="nnUNetTrainerBN",
        average_last=2, ema=0.5,
    ).run(personal=FineTuning(share=0.5, learning_rate=1e-3), publish_personal=True)  # fmt: skip


@pytest.mark.nnunet
def test_each_site_has_its_own_models_and_nnunet_loads_them(hospitals):
    state = open_study(hospitals.store).state
    with pytest.raises(StudyError, match="no model is complete without them"):
        hospitals.export()
    models = {site: weights(hospitals.final(site)) for site in SITES}
    norms = {name for name in models["north"] if is_normalisation(name)}
    assert any("running" in name for name in norms)
    for name, value in models["north"].items():
        assert np.array_equal(value, models["east"][name]) != (name in norms), name
    for site in SITES:
        made = exported_by(hospitals, site, f"models-of-{site}")
        assert made.folder.parent.name == state.charter.dataset.name != DATASET
        found = loaded(made.folder)
        for name, value in models[site].items():
            np.testing.assert_array_equal(found[name], value)
        card = (made.folder / "MODEL_CARD.md").read_text()
        assert f"This model is that of {site}, with normalisation layers of its own" in card
    check_other_models(hospitals, state, models["north"], norms)
    check_membership(hospitals)


def check_other_models(hospitals, state, final, norms):
    """Averages and the personal model: scored on the same cases, kept, and exported as they are."""
    folder = f"fedfs/{state.charter.study}/north"
    scores = {v: state.evaluations["north", 2, v] for v in ("full", "average", "ema", "personal")}
    assert {score.n_cases for score in scores.values()} == {2}
    assert scores["personal"].budget == 0.5
    others = {"average": {"average_last": 2}, "ema": {"ema": True}, "personal": {"personal": True}}
    for variant, options in others.items():
        kept = weights(hospitals.final("north", f"{folder}/{variant}-model"))
        made = exported_by(hospitals, "north", f"north-{variant}", **options)
        found = loaded(made.folder)
        for name, value in kept.items():
            np.testing.assert_array_equal(found[name], value)
        equal = {name for name, value in kept.items() if np.array_equal(value, final[name])}
        assert "encoder.stages.0.0.convs.0.conv.weight" not in equal
        assert (norms <= equal) == (variant != "personal")
        card = (made.folder / "MODEL_CARD.md").read_text()
        assert f"| Weights | {made.model} |" in card
        assert f"{scores[variant].mean_dice:.3f}" in card
        assert read_json(made.folder / "fold_0" / "fedfs.json")["variant"] == variant


def check_membership(hospitals):
    """The site tests what it published, with its own normalisation; the store stays as it is."""
    hospitals.at("north")
    before = snapshot(Path(hospitals.url))
    config = SiteConfig(
        hospitals.url, "north", hospitals.home("north"), host=HostSettings(device="cpu")
    )
    (found,) = audit_membership(config)
    assert (found.n_trained, found.n_others) == (4, 2)
    assert [(model.kind, model.version) for model in found.models] == [
        ("version", 0), ("update", 0), ("version", 1), ("update", 1), ("version", 2),
        ("trained", 1), ("personal", 2), ("update", None), ("version", None),
    ]  # fmt: skip
    attacks = [set(model.attacks) for model in found.models]
    assert attacks[:3] == [{"loss"}, {"loss", "change", "contrast"}, {"loss", "change"}]
    assert "tensors of the site's own never leave it" in found.notes[0]
    assert snapshot(Path(hospitals.url)) == before

    again = Reports()
    assert audit_membership(config, on_progress=again) == [found]
    assert {report["done"] for report in again if report["step"] == "membership"} == {
        6 * n for n in range(1, 8)
    }  # all were kept

    folder = next(hospitals.paths["north"].results.glob("fedfs/*/north/tracks/*/membership"))
    kept = read_json(folder / "version-00002.json")["cases"]
    validated = read_json(hospitals.final("north").with_name("validation") / "summary.json")
    for case in validated["metric_per_case"]:
        name = Path(case["reference_file"]).name.removesuffix(".nii.gz")
        dice = [metrics["Dice"] for metrics in case["metrics"].values()]
        assert kept[name]["dice"] == pytest.approx(np.nanmean(dice), abs=0.05)
