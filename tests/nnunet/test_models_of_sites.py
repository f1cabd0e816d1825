"""Models that sites have for themselves, made by the real nnU-Net and loaded by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hospitals import Hospitals
from synthetic import DATASET

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.errors import StudyError
from fedfs.exchange.read import open_study
from fedfs.nnunet.system.environment import HostSettings
from fedfs.roles.site.config import SiteConfig
from fedfs.roles.site.export import export_own
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


def exported(hospitals, site, **options):
    hospitals.at(site)
    config = SiteConfig(
        hospitals.url, site, hospitals.home(site), host=HostSettings(device="cpu", num_processes=1)
    )
    given = {"version": None, "dataset_name": None, **options}
    (made,) = export_own(config, hospitals.folder / f"models-of-{site}", **given)
    return made


@pytest.mark.nnunet
def test_each_site_has_its_own_normalisation_layers(tmp_path, monkeypatch, in_one_process):
    """Batch normalisation, so that running statistics are among them."""
    hospitals = Hospitals(
        tmp_path, monkeypatch, SITES, configuration="2d", gpu_memory_target_gb=0.02,
        keep_local="norm", strategy="FedProx", encoding="int8", trainer="nnUNetTrainerBN",
    ).run()  # fmt: skip
    state = open_study(hospitals.store).state
    models = {site: weights(hospitals.final(site)) for site in SITES}
    norms = {name for name in models["north"] if is_normalisation(name)}
    assert any("running" in name for name in norms)
    for name, value in models["north"].items():
        assert np.array_equal(value, models["east"][name]) != (name in norms), name
    with pytest.raises(StudyError, match="no model is complete without them"):
        hospitals.export()
    for site in SITES:
        made = exported(hospitals, site)
        assert made.folder.parent.name == state.charter.dataset.name != DATASET
        found = loaded(made.folder)
        for name, value in models[site].items():
            np.testing.assert_array_equal(found[name], value)
        assert f"This model is that of {site}" in (made.folder / "MODEL_CARD.md").read_text()
