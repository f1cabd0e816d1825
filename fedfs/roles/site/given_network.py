"""A model that a study's charter gives, fetched and decrypted to be scored at a site."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfs.errors import SealedError
from fedfs.exchange.payloads import MAX_MODEL_BYTES, fetch_payload
from fedfs.learner import GivenNetwork
from fedfs.protocol.messages import Charter, GivenModel, opened
from fedfs.store.base import ReadableStore
from fedfs.trust.recipients import Vault


def fetch_given(
    name: str, charter: Charter, store: ReadableStore, folder: Path, vault: Vault | None
) -> GivenNetwork:
    """Return a given model with the files of its networks.

    Args:
        name: of the model.
        charter: that gives it.
        store: where its networks are.
        folder: that they are written to.
        vault: decrypts them, where they are encrypted.

    Raises:
        SealedError: this host cannot decrypt it.
        MalformedError: what is encrypted is not what belongs there.
        TensorError, ObjectNotFoundError, StoreError: see
            :func:`fedfs.exchange.payloads.fetch_payload`.
    """
    model = next(one for one in charter.given if one.name == name)
    folds = {
        one.fold: fetch_payload(store, one.payload, folder, max_bytes=MAX_MODEL_BYTES, vault=vault)
        for one in model.folds
    }
    return GivenNetwork(
        name=name,
        plans=_plans_of(model, vault),
        trainer=model.trainer,
        configuration=model.configuration,
        folds=folds,
        reference=_plans_of(charter.given[0], vault),
    )


def _plans_of(model: GivenModel, vault: Vault | None) -> Mapping[str, Any]:
    if not model.sealed:
        return model.plans
    unseal = vault.unseal if vault is not None else None
    plans = opened(model.sealed, unseal, names=("plans",)).get("plans")
    if not isinstance(plans, dict) or not plans:
        raise SealedError(
            "is encrypted, and this host holds no key for it",
            about=f"the model {model.name!r}",
            hint="is this the host that the site joined on?",
        )
    return plans
