"""Rules about studies with secure sums: what goes with them, and what would show single updates."""

from __future__ import annotations

from typing import Any

from fedfs.aggregation import strategies
from fedfs.errors import UserError
from fedfs.protocol.messages import SecureSums
from fedfs.tensors import encodings

FEWEST_SITES = 3
"""Fewest sites of a sum: of two, each would learn the other's update."""

_LOWEST_SHARE = 0.5


Choices = Any
"""A :class:`fedfs.roles.coordinator.options.StudyOptions`, which imports this module."""


def check_secure_sums(options: Choices) -> None:
    """Check that a study can have secure sums as its coordinator wants.

    Raises:
        UserError: something else that was chosen does not go with them.
    """
    if not options.secure_sums:
        if options.secure_scores:
            raise UserError(
                "Secure scores are part of secure sums.", hint="give --secure-sums, too"
            ).of("secure_scores")
        return
    _check_values(options)
    encoding = encodings.by_name(options.encoding, options.encoding_options)
    strategy = strategies.by_name(options.strategy, options.strategy_options)
    faults = {
        "encryption": (
            options.encryption != "age",
            "the helper must not read masked updates, nor the aggregator the seeds of masks",
            "give --encryption age",
        ),
        "encoding": (
            not encoding.summable,
            f"payloads as {encoding.name} cannot be added",
            "leave out --encoding, or give fixed or randk",
        ),
        "strategy": (
            not strategies.takes_mean_alone(strategy),
            "it looks at single updates, which nobody sees",
            "give one that takes their mean, such as FedAvg; --site-clip-norm bounds updates",
        ),
        "max_move_ratio": (
            bool(options.max_move_ratio),
            "it looks at single updates, which nobody sees",
            "leave out --max-move-ratio; --site-clip-norm bounds updates",
        ),
        "cross_evaluation": (
            options.cross_evaluation,
            "each site publishes its whole model in the end, with tensors that were never summed",
            "leave out --cross-evaluation",
        ),
        "ensemble": (
            options.ensemble,
            "each site publishes its model, which is its update",
            "leave out --ensemble",
        ),
        "policy": (
            options.policy == "buffer" and options.encoding == "randk",
            "with randk only updates from one version can be added, and it waits for any",
            "give --policy quorum, or --encoding fixed",
        ),
    }
    for name, (is_wrong, why, hint) in faults.items():
        if is_wrong:
            text = f"Secure sums do not go with this {name.replace('_', ' ')}: {why}."
            raise UserError(text, hint=hint).of("secure_sums", name)


def _check_values(options: Choices) -> None:
    if options.min_summed_sites < FEWEST_SITES:
        raise UserError(
            f"A secure sum of {options.min_summed_sites} sites shows what it should hide.",
            hint=f"give {FEWEST_SITES} or more: of two, each would learn the other's update",
        ).of("min_summed_sites")
    if not _LOWEST_SHARE <= options.max_coefficient_share < 1:
        raise UserError(
            f"--max-coefficient-share {options.max_coefficient_share:g} cannot be used.",
            hint=f"give {_LOWEST_SHARE:g} or more, and below 1: then no site is all of a sum",
        ).of("max_coefficient_share")
    if options.site_clip_norm is not None and not options.site_clip_norm > 0:
        raise UserError(
            f"--site-clip-norm {options.site_clip_norm:g} cannot be used.",
            hint="give a number above 0",
        ).of("site_clip_norm")


def set_usual(options: Choices) -> None:
    """Set the options that were not given, where what is usual depends on secure sums."""
    secure = options.secure_sums
    usual: dict[str, object] = {}
    if not options.encoding:
        usual["encoding"] = "fixed" if secure else "fp32"
    if options.max_move_ratio is None:
        usual["max_move_ratio"] = 0.0 if secure else 100.0
    if secure:
        usual["min_sites"] = max(options.min_sites, options.min_summed_sites)
    for name, value in usual.items():
        object.__setattr__(options, name, value)  # as they are made: nobody has seen them yet


def rules_of(options: Choices) -> SecureSums | None:
    """Return what the charter says of secure sums; None where there are none."""
    if not options.secure_sums:
        return None
    clip = options.site_clip_norm
    return SecureSums(
        min_sites=options.min_summed_sites,
        max_share=float(options.max_coefficient_share),
        clip_norm=None if clip is None else float(clip),
        scores=options.secure_scores,
    )
