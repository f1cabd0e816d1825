"""A global version, fetched from the store and written as an nnU-Net results folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfs.checkpoint import write_safetensors
from fedfs.errors import StudyError, UserError
from fedfs.learner import Learner
from fedfs.network import SiteNetworks
from fedfs.nnunet.export import ExportRequest
from fedfs.nnunet.process import run_isolated
from fedfs.observe import Observer, newest_charter, open_study
from fedfs.protocol import rounds
from fedfs.protocol.messages import PlanMessage
from fedfs.protocol.state import StudyState
from fedfs.store.base import Store
from fedfs.trust.vault import Vault
from fedfs.weights import WeightFiles


@dataclass(frozen=True)
class Exported:
    """Where a model was written, and how to predict with it."""

    folder: Path
    version: int
    weights_sha256: str
    predict_command: str


def export_version(
    store: Store,
    output: Path,
    *,
    version: int | None = None,
    dataset_name: str | None = None,
    vault: Vault | None = None,
    allowed_trainers: tuple[str, ...] = (),
) -> Exported:
    """Write a global version below ``output``, to be used as ``nnUNet_results``.

    Args:
        store: the study's store.
        output: results folder; made if absent.
        version: global version; None for the newest.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.
        vault: what this host can decrypt.
        allowed_trainers: not nnunetv2's own, but allowed by this host's operator.

    Raises:
        SealedError: it is encrypted, and not for this host.
        StudyError: there is no such version yet, or every site has a model of its own.
        UserError: another model is there already, or the folder cannot be made.
    """
    state = open_study(store, vault=vault).state
    chosen, plan = _find(state, version, store)
    if newest_charter(state).mode == rounds.ASYM:
        raise StudyError(
            "in this study every site has a network of its own, part of which only the site has",
            hint=f"at a site: fedfs export {store.url} --site NAME -o FOLDER",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = WeightFiles(store, Path(folder), vault).fetch(state.models, chosen)
        return _export(
            state, chosen, path, output, dataset_name, plans=plan.plans,
            fingerprint=plan.fingerprint, allowed_trainers=allowed_trainers,
        )  # fmt: skip


def export_site(
    observer: Observer,
    store: Store,
    site: str,
    learner: Learner,
    folder: Path,
    output: Path,
    *,
    version: int | None = None,
    dataset_name: str | None = None,
    allowed_trainers: tuple[str, ...] = (),
) -> Exported:
    """Write a site's own network as it is at the newest version, at the site (mode ``asym``).

    Args:
        observer: has looked at the store.
        store: the study's store.
        site: the site.
        learner: knows the site's plan.
        folder: fedfs's own folder for this site.
        output: results folder; made if absent.
        version: None, or the newest.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.
        allowed_trainers: not nnunetv2's own, but allowed by this host's operator.

    Raises:
        StudyError: there is no such version, or it is not kept at the site.
        UserError: another model is there already, or the folder cannot be made.
    """
    state = observer.state
    chosen, _ = _find(state, version, store)
    if chosen != state.newest:
        raise StudyError(
            f"this site's private tensors of version {chosen} are no longer here",
            hint=f"a site keeps them for the newest version only, which is {state.newest}",
        )
    with tempfile.TemporaryDirectory() as scratch:
        networks = SiteNetworks(
            site, store, learner, folder, cache=Path(scratch) / "models", vault=observer.vault
        )
        network = networks.load(chosen, state)
        path = Path(scratch) / "network.safetensors"
        write_safetensors(path, network.tensors)
        plan = learner.plan(lambda _: None)
        return _export(
            state, chosen, path, output, dataset_name, plans=plan.plans,
            fingerprint=plan.fingerprint, allowed_trainers=allowed_trainers,
        )  # fmt: skip


def _find(state: StudyState, version: int | None, store: Store) -> tuple[int, PlanMessage]:
    chosen = state.newest if version is None else version
    if state.plan is None or chosen not in state.models:
        known = f"versions 0 to {state.newest}" if state.newest >= 0 else "no version yet"
        raise StudyError(
            f"there is no version {max(chosen, 0)} in study {newest_charter(state).name!r}",
            hint=f"it has {known}; see: fedfs status {store.url}",
        )
    return chosen, state.plan


def _export(
    state: StudyState,
    version: int,
    tensors: Path,
    output: Path,
    dataset_name: str | None,
    *,
    plans: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    allowed_trainers: tuple[str, ...],
) -> Exported:
    charter = newest_charter(state)
    spec, name = charter.nnunet, dataset_name or charter.dataset.name
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {output}: {error.strerror}") from error
    request = ExportRequest(
        plans=plans,
        dataset_json=state.plan.dataset_json if state.plan else {},
        fingerprint=fingerprint,
        trainer=spec.trainer,
        configuration=spec.configuration,
        fold=spec.fold,
        tensors=str(tensors),
        output=str(output.resolve()),
        dataset_name=name,
        version=version,
        epochs=max(1, version * charter.schedule.local_epochs),
        allowed_trainers=allowed_trainers,
    )
    made = run_isolated("export", request, workdir=tensors.parent)
    command = (
        f"nnUNetv2_predict -i IMAGES -o PREDICTIONS -d {name} -p {spec.plans_name} "
        f"-tr {spec.trainer} -c {spec.configuration} -f {spec.fold}"
    )
    return Exported(Path(made["model"]), version, state.models[version].weights_sha256, command)
