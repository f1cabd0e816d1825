"""Models that an export can write: a version, an average of versions, a site's personal model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.errors import StudyError
from fedfs.exchange.averages import fetch_ema, last_versions, write_mean
from fedfs.exchange.frozen_tensors import complete
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.observer import Observer
from fedfs.protocol.messages import ASYM, Charter


@dataclass(frozen=True)
class ModelKind:
    """Kind of an exported model.

    Attributes:
        variant: of the evaluations that are about it.
        text: for people, as the end of a sentence; "" for a version itself.
    """

    variant: str = "full"
    text: str = ""

    @property
    def in_record(self) -> dict[str, str]:
        """Fields of the record in the model's folder; none for a version itself."""
        return {"variant": self.variant, "model": self.text} if self.text else {}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelKind:
        """Return the kind of a model whose record was read."""
        if "variant" not in record:
            return VERSION
        return cls(str(record["variant"]), str(record["model"]))


VERSION = ModelKind()
"""A version itself, or at a site its own model at that version."""


@dataclass(frozen=True)
class Chosen:
    """Choice between the models of a study; at most one of them.

    Attributes:
        average_last: the mean of so many versions.
        ema: the exponential average.
        personal: the site's personal model.
    """

    average_last: int | None = None
    ema: bool = False
    personal: bool = False


NO_CHOICE = Chosen()
"""The version itself."""


def require_common_model(charter: Charter, url: str) -> None:
    """Check that versions of a study are models for others than its sites.

    Args:
        charter: the study.
        url: of its store, for advice.

    Raises:
        StudyError: they are not.
    """
    at_site = f"at a site: fedfs export {url} --site NAME -o FOLDER"
    if charter.mode == ASYM:
        raise StudyError(
            "In this study every site has a network of its own, part of which only the site has.",
            hint=at_site,
        )
    if charter.withholds:
        raise StudyError(
            "In this study every site keeps its own normalisation layers, and no model is complete "
            "without them.",
            hint=at_site,
        )
    if charter.evaluates:
        raise StudyError(
            "This study trains nothing, and makes no model.",
            hint="the models that it evaluates are where its coordinator has them",
        )


def fetch_model(
    observer: Observer, version: int, chosen: Chosen, folder: Path
) -> tuple[Path, ModelKind]:
    """Return a file of the tensors that a choice stands for, and what they are.

    Args:
        observer: of the track.
        version: the last that counts.
        chosen: no personal model, which is not on the store.
        folder: for what is downloaded and made.

    Raises:
        UserError: there are not as many versions.
        StudyError: there is no such average.
        FedfsError: it cannot be read.
    """
    path, kind = _fetch(observer, version, chosen, folder)
    state, store = observer.state, observer.store
    return complete(state.charter, path, store, folder, observer.vault), kind


def _fetch(
    observer: Observer, version: int, chosen: Chosen, folder: Path
) -> tuple[Path, ModelKind]:
    """Return what of it is in versions."""
    state, weights = observer.state, WeightFiles(observer.store, folder, observer.vault)
    if chosen.average_last is not None:
        versions = last_versions(version, chosen.average_last)
        path = folder / "mean.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        write_mean(state, weights, versions, path)
        return path, ModelKind("average", f"the mean of versions {versions[0]} to {version}")
    if chosen.ema:
        path = fetch_ema(state, observer.store, version, folder, observer.vault)
        decay = f"the exponential average of versions 1 to {version}, decay {state.charter.ema:g}"
        return path, ModelKind("ema", decay)
    return weights.fetch(state.models, version), VERSION
