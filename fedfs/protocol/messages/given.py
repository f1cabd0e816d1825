"""Models that a study evaluates and does not train, as its charter gives them to the sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfs.errors import MalformedError
from fedfs.protocol.messages.base import Extra, PayloadRef
from fedfs.protocol.values import ClassName, FileName, Fold, SiteName


@dataclass(frozen=True, kw_only=True)
class GivenFold:
    """The network of one fold of a given model."""

    fold: Fold
    payload: PayloadRef
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GivenModel:
    """A trained nnU-Net that every site scores.

    Attributes:
        name: formed as that of a site; scores are of the variant ``of-<name>``.
        trainer: nnU-Net's class that it was trained with, which builds its network.
        configuration: nnU-Net configuration of its plans.
        folds: its networks, whose predictions are averaged as nnU-Net does.
        plans: its nnU-Net plans; empty where they are encrypted.
        sealed: ``plans``, where they are encrypted.
    """

    name: SiteName
    trainer: ClassName
    configuration: FileName
    folds: tuple[GivenFold, ...]
    plans: Mapping[str, Any]
    sealed: str = ""
    extra: Extra = field(default_factory=dict)


def check_given(models: Sequence[GivenModel]) -> None:
    """Check of given models what types do not say.

    Raises:
        MalformedError: one has no network, or a name or fold occurs twice.
    """
    if len({model.name for model in models}) < len(models):
        raise MalformedError("names a model to evaluate twice")
    for model in models:
        if not model.folds or len({one.fold for one in model.folds}) < len(model.folds):
            raise MalformedError("has no fold, or one twice", about=f"the model {model.name!r}")
