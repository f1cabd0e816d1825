"""A global version, fetched from the store and written as an nnU-Net results folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedfs.errors import StudyError, UserError
from fedfs.nnunet.export import ExportRequest
from fedfs.nnunet.process import run_isolated
from fedfs.observe import MAX_MODEL_BYTES, fetch_payload, newest_charter, open_study
from fedfs.store.base import Store


@dataclass(frozen=True)
class Exported:
    """Where a model was written, and how to predict with it."""

    folder: Path
    version: int
    weights_sha256: str
    predict_command: str


def export_version(
    store: Store, output: Path, *, version: int | None = None, dataset_name: str | None = None
) -> Exported:
    """Write a global version below ``output``, to be used as ``nnUNet_results``.

    Args:
        store: the study's store.
        output: results folder; made if absent.
        version: global version; None for the newest.
        dataset_name: ``DatasetXXX_NAME``; None for the charter's.

    Raises:
        StudyError: there is no such version yet.
        UserError: another model is there already, or the folder cannot be made.
    """
    state = open_study(store).state
    charter = newest_charter(state)
    chosen = state.newest if version is None else version
    if state.plan is None or chosen not in state.models:
        known = f"versions 0 to {state.newest}" if state.newest >= 0 else "no version yet"
        raise StudyError(
            f"there is no version {max(chosen, 0)} in study {charter.name!r}",
            hint=f"it has {known}; see: fedfs status {store.url}",
        )
    model, schedule = state.models[chosen], charter.schedule
    name = dataset_name or charter.dataset.name
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {output}: {error.strerror}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_payload(store, model.payload, Path(folder), max_bytes=MAX_MODEL_BYTES)
        request = ExportRequest(
            plans=state.plan.plans,
            dataset_json=state.plan.dataset_json,
            fingerprint=state.plan.fingerprint,
            trainer=charter.nnunet.trainer,
            configuration=charter.nnunet.configuration,
            fold=charter.nnunet.fold,
            tensors=str(path),
            output=str(output.resolve()),
            dataset_name=name,
            version=chosen,
            epochs=max(1, chosen * schedule.local_epochs),
        )
        made = run_isolated("export", request, workdir=Path(folder))
    spec = charter.nnunet
    command = (
        f"nnUNetv2_predict -i IMAGES -o PREDICTIONS -d {name} -p {spec.plans_name} "
        f"-tr {spec.trainer} -c {spec.configuration} -f {spec.fold}"
    )
    return Exported(Path(made["model"]), chosen, model.weights_sha256, command)
