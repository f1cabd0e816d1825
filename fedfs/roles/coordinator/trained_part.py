"""The part of a network that a new study trains: from patterns and given weights to the charter."""

from collections.abc import Sequence
from pathlib import Path

from fedfs.aggregation.local_tensors import is_normalisation
from fedfs.aggregation.trained_tensors import GROUPS, is_segmentation_layer, is_trained, matches
from fedfs.errors import UserError
from fedfs.protocol.messages import FFE, TrainOnly
from fedfs.tensors.canonical import TensorFile, weights_sha256

_MAX_PATTERNS = 100


def patterns_of(text: str) -> tuple[str, ...]:
    """Return the patterns in an option's value, which are separated by commas."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def check_train_only(text: str, *, mode: str, ensemble: bool) -> None:
    """Check, without the weights, whether a study can train a part of its network.

    Args:
        text: of the option; "" for all of the network.
        mode: as of the charter.
        ensemble: likewise.

    Raises:
        UserError: it cannot.
    """
    if not text:
        return
    if not 0 < len(patterns_of(text)) <= _MAX_PATTERNS:
        raise UserError(
            f"--train-only {text!r} has no pattern, or more than {_MAX_PATTERNS}.",
            hint="for example norm,heads",
        ).of("train_only")
    if mode != FFE:
        raise UserError(
            "--train-only does not go with the mode asym: every site has a network of its own "
            "there, so that no tensor can be the same at all sites without travelling.",
            hint="leave out --mode",
        ).of("train_only", "mode")
    if ensemble:
        raise UserError(
            "--train-only does not go with --ensemble, whose models travel whole.",
            hint="leave out one of them",
        ).of("train_only", "ensemble")


def trained_part(
    text: str, pretrained: Path | None, *, is_continued: bool, keeps_norm: bool
) -> TrainOnly | None:
    """Return what the charter says of the part that is trained; None for all of the network.

    Args:
        text: of the option.
        pretrained: safetensors file of the canonical tensors that the study begins with.
        is_continued: they are a version of a finished study, of which segmentation layers stay.
        keeps_norm: every site keeps its own normalisation layers.

    Raises:
        UserError: there are no such weights; or they have no such tensors, or no others.
    """
    if not text:
        return None
    if pretrained is None:
        raise UserError(
            "--train-only trains a part of a network whose other weights are there already.",
            hint="give them: --pretrained CHECKPOINT, or --continue STORE",
        ).of("train_only", "pretrained")
    patterns = patterns_of(text)
    with TensorFile(pretrained) as file:
        _check_names(file.names, patterns, is_continued=is_continued, keeps_norm=keeps_norm)
        trained = [name for name in file.names if is_trained(name, patterns)]
        frozen = sorted(set(file.names) - set(trained))
        return TrainOnly(
            patterns=patterns,
            frozen_sha256=weights_sha256(file, frozen),
            n_frozen=sum(file.n_values(name) for name in frozen),
            begins_sha256=weights_sha256(file, trained) if is_continued else "",
        )


def _check_names(
    names: Sequence[str], patterns: Sequence[str], *, is_continued: bool, keeps_norm: bool
) -> None:
    unused = [p for p in patterns if not any(matches(name, p) for name in names)]
    if unused:
        raise UserError(
            f"--train-only: no tensor of the given weights is named by {unused[0]!r}.",
            hint=f"give {' or '.join(GROUPS)}, or a name with *; some names: "
            f"{', '.join(names[:: max(1, len(names) // 4)])}",
        ).of("train_only")
    frozen = [name for name in names if not is_trained(name, patterns)]
    if not frozen:
        text = "--train-only names every tensor of the given weights."
        raise UserError(text, hint="leave it out to train all of them").of("train_only")
    if not is_continued and any(map(is_segmentation_layer, frozen)):
        raise UserError(
            "--train-only would leave segmentation layers as they are drawn: those of --pretrained "
            "are not taken, as in nnU-Net's own fine-tuning.",
            hint="add heads, or go on from a study with --continue",
        ).of("train_only")
    if not keeps_norm:
        return
    if any(map(is_normalisation, frozen)):
        raise UserError(
            "--keep-local norm keeps normalisation layers that --train-only does not train.",
            hint="add norm, or leave out --keep-local",
        ).of("train_only", "keep_local")
    if all(is_normalisation(name) for name in names if is_trained(name, patterns)):
        raise UserError(
            "--train-only trains normalisation layers alone, which --keep-local norm keeps at each "
            "site: nothing would travel.",
            hint="add heads, or leave out --keep-local",
        ).of("train_only", "keep_local")
