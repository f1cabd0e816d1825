"""Make a version from the updates that a round names: by the aggregator, and by whoever checks it.

The same inputs give the same bits, on any host: what is averaged, in which order and in which
pieces is part of the protocol.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedfs.aggregation import strategies
from fedfs.aggregation.combine import Combination, Outputs, Written, combine
from fedfs.aggregation.local_tensors import withheld_names
from fedfs.aggregation.moving_average import weight_of
from fedfs.aggregation.shared_tensors import shared_by
from fedfs.aggregation.strategies import Strategy
from fedfs.errors import SetupError, UserError
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.payloads import update_encoding
from fedfs.exchange.secure_sum import Summed, summed_encoding
from fedfs.protocol.messages import Charter, UpdateManifest
from fedfs.protocol.state import StudyState
from fedfs.tensors import encodings
from fedfs.tensors.canonical import TensorFile
from fedfs.tensors.encodings import Decoder

_SUM = "sum"
"""Name of the one update that a secure sum is."""


def outputs_in(folder: Path) -> Outputs:
    """Return where a version's files are made."""
    return Outputs(*(folder / f"{name}.safetensors" for name in ("model", "delta", "state", "ema")))


def strategy_of(charter: Charter) -> Strategy:
    """Return the strategy that a charter names.

    Raises:
        SetupError: this host does not have it: it is from a package that is not installed here.
    """
    try:
        return strategies.by_name(charter.strategy.name, charter.strategy.options)
    except UserError as error:
        packages = ", ".join(f"{n} {v}" for n, v in sorted(charter.nnunet.versions.items()))
        raise SetupError(
            f"This host cannot combine updates as the charter says. {error}",
            hint="install the package that has the strategy, in the version of the coordinator's "
            f"host, which had: {packages or 'not known'}",
        ) from error


def make_version(
    state: StudyState,
    weight_files: WeightFiles,
    outputs: Outputs,
    *,
    version: int,
    updates: Sequence[UpdateManifest],
    payloads: Mapping[str, Path],
    weights: Mapping[str, float],
    memory: Path | None,
    ema: Path | None = None,
    summed: Summed | None = None,
) -> Written:
    """Write the files of a version.

    Args:
        state: accepted messages; the charter says how it is made.
        weight_files: where the weights are that updates were trained from.
        outputs: where to.
        version: the version to be made.
        updates: manifests of the updates that it is made from, one of a site.
        payloads: key of a manifest -> local file of its payload, checked.
        weights: site -> weight of its update.
        memory: local file of the optimizer state after the version before; None if there is none.
        ema: likewise of the exponential average of versions.
        summed: the sum of the updates, where it takes their place: payloads are then not read.

    Raises:
        SetupError: this host does not have the strategy.
        StudyError: the strategy needs more updates, or its steps diverge.
        TensorError: a payload is damaged.
        ObjectNotFoundError: a version that an update was trained from is not there.
        StoreError: the store cannot be read.
    """
    charter, base, travels = state.charter, version - 1, state.charter.model_encoding
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> TensorFile:
            return stack.enter_context(TensorFile(path))

        older = {
            number: opened(weight_files.fetch(state.models, number))
            for number in {update.base_version for update in updates} - {base}
        }
        newest = opened(weight_files.fetch(state.models, base))
        combination = Combination(
            base=newest,
            state=opened(memory) if memory else None,
            ema=opened(ema) if ema else None,
            ema_weight=weight_of(version, charter.ema) if charter.ema else None,
            updates={} if summed else {u.site: payloads[u.key] for u in updates},
            weights={} if summed else weights,
            version=version,
            shared_by=shared_by(state) or None,
            withheld=withheld_names(charter, newest.names),
            bases={u.site: older[u.base_version] for u in updates if u.base_version in older},
        )
        encoding: Decoder = update_encoding(charter)
        if summed is not None:
            combination = replace(
                combination,
                updates={_SUM: summed.path},
                weights={_SUM: 1.0},
                shared_by=dict.fromkeys(summed.sharing, (_SUM,)),
                bases={_SUM: older[summed.base_version]} if summed.base_version in older else {},
            )
            encoding = summed_encoding(charter)
        return combine(
            combination,
            strategy=strategy_of(charter),
            update_encoding=encoding,
            model_encoding=encodings.by_name(travels.name, travels.options),
            outputs=outputs,
        )
