"""A site's update under a mask, where the charter asks for secure sums.

Each try to publish an update draws another seed. Nothing of it is kept: a payload whose manifest
never came is hidden by a seed that nobody has, and no seed ever hides two payloads.
"""

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path

from fedfs.aggregation.secure_sums import mask_file
from fedfs.errors import StudyError
from fedfs.exchange.secure_sum import summed_encoding
from fedfs.protocol.messages import Charter, TrackCharter
from fedfs.trust import sealing
from fedfs.trust.masks import SEED_BYTES, MaskContext


@dataclass(frozen=True)
class MaskedUpdate:
    """A payload, and what a manifest says of its mask.

    Attributes:
        path: the payload to publish.
        seed: base64 of the seed, encrypted for the helper; "" where nothing is masked.
        seed_for: the helper's public key of age.
    """

    path: Path
    seed: str = ""
    seed_for: str = ""


@dataclass(frozen=True)
class Seed:
    """A new seed, which nobody keeps.

    Attributes:
        seed: the secret.
        sealed: base64 of it, encrypted for the helper.
        sealed_for: the helper's public key of age.
    """

    seed: bytes
    sealed: str
    sealed_for: str


def mask(path: Path, charter: TrackCharter, site: str, version: int) -> MaskedUpdate:
    """Mask an update, if the charter asks for it; else return it as it is.

    Args:
        path: its payload; a masked one is written beside it.
        charter: in force.
        site: the site's name.
        version: that the update was trained from.

    Raises:
        StudyError: there is no helper, or updates in the charter's encoding cannot be summed.
    """
    if charter.secure_sums is None:
        return MaskedUpdate(path)
    drawn = draw_seed(charter)
    summed_encoding(charter)
    target = path.with_name(f"masked-{path.name}")
    mask_file(path, target, drawn.seed, MaskContext.of_update(charter, site, version))
    return MaskedUpdate(target, drawn.sealed, drawn.sealed_for)


def draw_seed(charter: Charter) -> Seed:
    """Return a new seed, encrypted for the helper.

    Raises:
        StudyError: there is no helper.
    """
    rules = charter.secure_sums
    if rules is None or not rules.helper_encryption_key:
        raise StudyError(
            "There is no helper who could unmask sums.",
            hint="the coordinator approves one: fedfs helper approve STORE",
        )
    seed = secrets.token_bytes(SEED_BYTES)
    sealed = sealing.seal(seed, [rules.helper_encryption_key])
    return Seed(seed, base64.b64encode(sealed).decode(), rules.helper_encryption_key)
