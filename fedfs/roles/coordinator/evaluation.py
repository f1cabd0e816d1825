"""A study that trains nothing: models that its coordinator has, to be scored at every site.

Rules:
 * A model is read in a process of its own, as data: see :mod:`fedfs.nnunet.plan.trained_model`.
 * All models of a study are for the same channels and labels, which are the study's.
 * Their networks and plans are encrypted like pretrained weights: whoever joins later can read
   them, too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fedfs.errors import UserError
from fedfs.exchange.publish import Publisher
from fedfs.nnunet.data.dataset_json import difference
from fedfs.nnunet.plan.trained_model import ReadRequest, TrainedModel
from fedfs.nnunet.system.environment import HostSettings
from fedfs.nnunet.system.isolated import run_isolated
from fedfs.protocol import layout
from fedfs.protocol.messages import (
    EVALUATE,
    Charter,
    GivenFold,
    GivenModel,
    PayloadRef,
    Track,
    closed,
)
from fedfs.protocol.values import SITE
from fedfs.store.local_files import file_sha256
from fedfs.trust import sealing

TRACK = "evaluation"
"""Name of the only track of such a study."""

CHOICES = ("name", "dataset_name", "min_sites", "minimum_cases", "encryption")
"""Options of a new study that mean something where nothing is trained."""

_MOST_OF_A_NAME = 32


@dataclass(frozen=True)
class NamedModel:
    """A model and the name that scores call it by."""

    name: str
    model: TrainedModel


def read_models(
    texts: Sequence[str], folder: Path, *, allowed_trainers: Sequence[str] = ()
) -> tuple[NamedModel, ...]:
    """Return the models at ``[NAME=]PLACE``, in this order.

    Args:
        texts: places of model folders or zips.
        folder: that their networks are written to.
        allowed_trainers: trainers below ``nnUNet_extTrainer`` that this host may import.

    Raises:
        UserError: a name cannot be used or occurs twice, a place holds no model, or two models are
            for other channels or labels.
        SetupError: nnunetv2 has no such trainer, or not for this host.
    """
    host = HostSettings(device="cpu", allowed_trainers=tuple(allowed_trainers))
    places: dict[str, Path] = {}
    for text in texts:
        name, place = _name_and_place(text)
        if name in places:
            raise UserError(
                f"Two models are called {name!r}: {places[name]} and {place}.",
                hint=f"give each a name of its own: --evaluate NAME={place}",
            )
        places[name] = place
    models = []
    for number, (name, place) in enumerate(places.items()):
        room = folder / f"model-{number}"
        room.mkdir()
        request = ReadRequest(path=str(place.absolute()), output=str(room), host=host)
        found = NamedModel(name, TrainedModel(**run_isolated("read_model", request, workdir=room)))
        models.append(found)
        differs = difference(models[0].model.dataset_json, found.model.dataset_json)
        if differs:
            raise UserError(
                f"The models {models[0].name} and {name} are not for the same images:\n  "
                + "\n  ".join(differs),
                hint="evaluate them in a study each",
            )
    return tuple(models)


def check_choices(given: Iterable[str]) -> None:
    """Check that a coordinator has chosen nothing about training.

    Args:
        given: names of what is chosen; of nothing that is only a default.

    Raises:
        UserError: something is.
    """
    for name in given:
        if name not in CHOICES:
            raise UserError(
                f"With --evaluate nothing is trained, so that {name} has no meaning.",
                hint=f"leave it out; what there is to choose: {', '.join(CHOICES)}",
            ).of(name)


def evaluation_options(models: Sequence[NamedModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return :class:`~fedfs.roles.coordinator.options.StudyOptions` of a study of these models.

    Args:
        models: at least one.
        given: what the coordinator has chosen; see :func:`check_choices`.
    """
    first = models[0].model
    return {
        "dataset_name": str(first.plans["dataset_name"]),
        **given,
        "dataset_json": first.dataset_json,
        "trainer": first.trainer,
        "fold": "all",
    }


def evaluating(charter: Charter, given: Sequence[GivenModel]) -> Charter:
    """Return a charter of which sites score given models; the same one where none is given."""
    if not given:
        return charter
    track = Track(name=TRACK, configuration=given[0].configuration, fold="all")
    return replace(charter, mode=EVALUATE, tracks=(track,), given=tuple(given))


def drafted(models: Sequence[NamedModel]) -> tuple[GivenModel, ...]:
    """Return what a charter says of models that are not published."""

    def name_file(path: Path) -> PayloadRef:
        sha256 = file_sha256(path)
        return PayloadRef(key=layout.given_model(sha256), sha256=sha256, size=path.stat().st_size)

    return tuple(_given(one, {f: name_file(Path(p)) for f, p in one.model.folds.items()})
                 for one in models)  # fmt: skip


def publish_models(
    models: Sequence[NamedModel], publisher: Publisher, readers: Sequence[str]
) -> tuple[GivenModel, ...]:
    """Publish the networks of models, and return what a charter says of them.

    Args:
        models: as read.
        publisher: signs nothing here, and writes.
        readers: public keys of age of those who may read them; empty for all.

    Raises:
        StoreError: the store refuses.
    """
    out = []
    for one in models:
        refs = {
            fold: publisher.payload(Path(path), layout.given_model, sealed_for=readers)
            for fold, path in one.model.folds.items()
        }
        given = _given(one, refs)
        if readers:
            seal = partial(sealing.seal, recipients=readers)
            given = replace(given, plans={}, sealed=closed({"plans": given.plans}, seal))
        out.append(given)
    return tuple(out)


def _given(one: NamedModel, refs: Mapping[str, PayloadRef]) -> GivenModel:
    return GivenModel(
        name=one.name,
        trainer=one.model.trainer,
        configuration=one.model.configuration,
        folds=tuple(GivenFold(fold=fold, payload=ref) for fold, ref in refs.items()),
        plans=one.model.plans,
    )


def _name_and_place(text: str) -> tuple[str, Path]:
    """Split ``[NAME=]PLACE``; without a name it is made of the place's own."""
    name, sign, place = text.partition("=")
    if sign and "/" not in name:
        if name not in SITE:
            raise UserError(
                f"A model cannot be called {name!r}.",
                hint="use 1 to 32 of a-z, 0-9 and -, starting and ending with a letter or digit",
            )
        return name, Path(place)
    path = Path(text)
    words = path.stem if path.suffix == ".zip" else path.name.rpartition("__")[2]
    made = re.sub("[^a-z0-9]+", "-", words.lower())[:_MOST_OF_A_NAME].strip("-")
    if made not in SITE:
        raise UserError(f"{text} gives no name to a model.", hint=f"give --evaluate NAME={text}")
    return made, path
