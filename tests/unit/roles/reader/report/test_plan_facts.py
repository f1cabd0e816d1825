"""Facts about the plan on a page, also of a plan that nnU-Net never wrote."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedfs.errors import MalformedError
from fedfs.roles.reader.report.plan_facts import plan_facts
from support.federation import Federation

ODD = (None, 7, "os.system", [], {}, [1, "a"], {"2d": 3}, True)
NNUNETS = {
    "patch_size": [20, 256, 224],
    "batch_size": 2,
    "spacing": [5.0, 0.5625, 0.5625],
    "normalization_schemes": ["ZScoreNormalization"],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {"n_stages": 6},
    },
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("plan"), rounds=1)
    federation.start().run()
    state = federation.observe().state
    return state.plan, state.charter


def with_configuration(planned, content):
    plan, charter = planned
    return replace(plan, plans={"configurations": {charter.configuration: content}}), charter


def test_a_plan_of_nnunet_is_told_in_its_own_terms(planned):
    facts = plan_facts(*with_configuration(planned, NNUNETS))
    assert facts["Patch"] == "20 x 256 x 224 voxels"
    assert facts["Spacing"] == "5 x 0.562 x 0.562 mm"
    assert facts["Network"] == "PlainConvUNet, 6 stages"
    assert facts["Normalization"] == "ZScoreNormalization"


@pytest.mark.parametrize("field", NNUNETS)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_not_as_nnunet_writes_it_ends_no_page(planned, field, odd):
    facts = plan_facts(*with_configuration(planned, {**NNUNETS, field: odd}))
    assert facts["Planned from"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_configuration_that_is_none_is_not_known(planned, odd):
    facts = plan_facts(*with_configuration(planned, odd))
    assert facts.get("Plan") == "not known" or facts["Planned from"]


@pytest.mark.parametrize("odd", [None, 7, "2d", ["2d"], True], ids=repr)
def test_a_plan_whose_configurations_have_no_names_is_refused(planned, odd):
    plan, _ = planned
    with pytest.raises(MalformedError, match="field 'configurations' of the plans is not"):
        replace(plan, plans={"configurations": odd}).check()
