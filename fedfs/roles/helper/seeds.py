"""Seeds of masks, as sites have encrypted them for the helper."""

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence

from fedfs.errors import SealedError, SetupError
from fedfs.protocol.messages import EvaluationMessage, SumRequest, UpdateManifest
from fedfs.protocol.state import StudyState
from fedfs.protocol.sum_rules import helper_number
from fedfs.trust import sealing
from fedfs.trust.masks import SEED_BYTES
from fedfs.trust.sealing import Identity

_MAX_SEALED = 4096
"""Longer text is no seed: age adds about 200 bytes to 32."""


def open_seeds(
    state: StudyState, request: SumRequest, identities: Sequence[Identity]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the seeds of the updates that a request names, by site; and why some cannot be used.

    Args:
        state: has accepted the updates.
        request: names them.
        identities: keys of age of this host, old ones too.

    Raises:
        SetupError: this host lacks a key of the helper's that it should have.
    """
    updates = {one.site: state.updates[one.site, one.base_version] for one in request.updates}
    return _open(state, updates, identities)


def open_score_seeds(
    state: StudyState, request: SumRequest, identities: Sequence[Identity]
) -> tuple[dict[str, dict[str, bytes]], dict[str, str]]:
    """Return the seeds of the scores that a request names: by variant, by site; and why some fail.

    A site of which one seed cannot be used is left out everywhere. See :func:`open_seeds`.
    """
    version, seeds, faults = request.version - 1, {}, {}
    for variant, sites in request.scores.items():
        scored = {site: state.evaluations[site, version, variant] for site in sites}
        seeds[variant], wrong = _open(state, scored, identities)
        faults.update(wrong)
    usable = {
        variant: {site: seed for site, seed in of.items() if site not in faults}
        for variant, of in seeds.items()
    }
    return usable, faults


def _open(
    state: StudyState,
    messages: Mapping[str, UpdateManifest | EvaluationMessage],
    identities: Sequence[Identity],
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return site -> seed, and site -> why there is none, of one masked message of each site."""
    seeds: dict[str, bytes] = {}
    faults: dict[str, str] = {}
    own, rules = {identity.recipient for identity in identities}, state.charter.secure_sums
    for site, message in messages.items():
        if message.seed_for not in own:
            number = helper_number(state, message.seed_for)
            if rules is not None and number == rules.helper_number:
                raise SetupError(
                    f"This host lacks the helper's encryption key {message.seed_for}, for which "
                    f"{site} has encrypted the seed of its mask.",
                    hint="restore its file helper*.age from a backup, or ask the coordinator to "
                    "approve this host as another helper: fedfs helper join STORE --another",
                )
            faults[site] = "the seed of its mask is encrypted for an earlier helper"
            continue
        try:
            seed = _opened(message.seed, identities)
        except (SealedError, binascii.Error, ValueError):
            faults[site] = "the seed of its mask cannot be decrypted by the helper"
            continue
        if len(seed) == SEED_BYTES:
            seeds[site] = seed
        else:
            faults[site] = f"the seed of its mask has {len(seed)} bytes, not {SEED_BYTES}"
    twice = {seed for seed, n in Counter(seeds.values()).items() if n > 1}
    for site in [site for site, seed in seeds.items() if seed in twice]:
        del seeds[site]
        faults[site] = "the seed of its mask is that of another update, too"
    return seeds, faults


def _opened(sealed: str, identities: Sequence[Identity]) -> bytes:
    if len(sealed) > _MAX_SEALED:
        raise SealedError(f"has {len(sealed)} characters, which no seed has")
    return sealing.unseal(base64.b64decode(sealed, validate=True), identities)
