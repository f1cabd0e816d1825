"""Models of a membership test: what each is compared with, and what is said of them."""

from __future__ import annotations

import pytest

from fedfs.aggregation.membership import CaseFit, Separation
from fedfs.roles.site.membership.models import TRAINED, UPDATE, VERSION, Target
from fedfs.roles.site.membership.result import (
    AttackedModel,
    MembershipAudit,
    attack_all,
    model_name,
)


def fits(trained, other):
    """Losses of a case that was trained on, and of one that was not."""
    return {
        "a": CaseFit(loss=trained, margin=-trained, dice=0.75),
        "b": CaseFit(loss=other, margin=-other, dice=None),
    }


STUDY = {
    Target(0, VERSION): fits(1.0, 1.0),
    Target(0, UPDATE): fits(0.4, 0.6),
    Target(1, VERSION): fits(0.5, 0.5),
    Target(1, UPDATE): fits(0.1, 0.3),
    Target(2, VERSION): fits(0.2, 0.1),
    Target(1, TRAINED): fits(0.1, 0.4),
    Target(2, "local"): fits(0.0, 0.9),
}


def attacked(versions=(), fits_of=None, references=()):
    found = attack_all(
        STUDY if fits_of is None else fits_of, versions,
        trained={"a"}, references=references, patients={}, seed=1,
    )  # fmt: skip
    return {model_name(model): model for model in found}


def aucs(model):
    return {name: found.auc for name, found in model.attacks.items()}


def test_each_model_is_compared_with_its_neighbours():
    found = attacked()
    assert list(found) == [
        "version 0", "update from version 0", "version 1", "update from version 1", "version 2",
        "trained from version 1", "local model", "these updates together",
        "these versions together",
    ]  # fmt: skip
    assert aucs(found["version 0"]) == {"loss": 0.5}
    assert aucs(found["update from version 0"]) == {"loss": 1.0, "change": 1.0, "contrast": 1.0}
    assert aucs(found["version 1"]) == {"loss": 0.5, "change": 0.5}
    assert aucs(found["version 2"]) == {"loss": 0.0, "change": 0.0}
    assert aucs(found["update from version 1"]) == {"loss": 1.0, "change": 1.0, "contrast": 1.0}
    assert aucs(found["trained from version 1"]).keys() == {"loss", "change", "contrast"}
    assert aucs(found["local model"]) == {"loss": 1.0}
    assert aucs(found["these updates together"]).keys() == {"loss", "change", "contrast"}
    assert aucs(found["these versions together"]) == {"loss": 0.0, "change": 0.0}
    assert (found["version 1"].dice_trained, found["version 1"].dice_others) == (0.75, None)


def test_chosen_versions_are_compared_with_others_that_are_not_shown():
    found = attacked(versions=[1])
    assert list(found) == ["version 1", "update from version 1", "trained from version 1"]
    assert aucs(found["version 1"]).keys() == {"loss", "change"}
    assert aucs(found["update from version 1"]).keys() == {"loss", "change", "contrast"}


def test_references_attack_every_model():
    out = [{"a": fits(0.5, 0.5)["a"]}, {"b": fits(0.5, 0.5)["b"]}]
    found = attacked(versions=[1], references=out)
    assert aucs(found["version 1"])["references"] == 0.5
    assert aucs(found["update from version 1"])["references"] == 1.0


def separation(auc):
    return Separation(
        n_trained=9, n_others=8, auc=auc, auc_low=auc - 0.1, auc_high=auc + 0.1,
        tpr=0.0, tpr_low=0.0, tpr_high=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(("n_others", "bound"), [(8, 0.31), (300, 0.0256)])
def test_sentences_tell_the_best_attack_for_each_reader_and_what_so_few_cases_prove(
    n_others, bound
):
    models = [
        AttackedModel(kind=VERSION, version=0, attacks={"loss": separation(0.9)}),
        AttackedModel(
            kind=UPDATE, version=0, attacks={"loss": separation(0.6), "change": separation(0.7)}
        ),
        AttackedModel(kind=VERSION, version=1, attacks={"loss": separation(0.55)}),
    ]
    found = MembershipAudit(
        track="2d-0", n_trained=9, n_others=n_others, n_references=0, fpr_bound=bound, models=models
    )
    updates, versions, rate = found.sentences()
    assert updates.startswith("Who reads this site's updates finds the case")
    assert "70% (60% to 80%) of pairs" in updates
    assert "by the change, the best of 2 attacks on update from version 0" in updates
    assert "55% (45% to 65%)" in versions
    assert ("None of 8 cases" in rate) == (n_others == 8)
    assert f"{bound:.0%}" in rate or f"{bound:.1%}" in rate
