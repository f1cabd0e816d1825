"""Gradient inversion: an image patch, found again from the gradient of one training step.

An upper bound of what an update may show. The attacker of this test knows the gradient of a single
step on a single patch, exactly, and the segmentation of the patch. The update of a round is the sum
of many steps, on many patches, each augmented.

Rules:
 * The patch that is searched has a gradient of the same direction (Geiping et al., "Inverting
   gradients", 2020), and varies little from voxel to voxel.
 * The search begins with what follows from the segmentation alone: the mean intensities that the
   classes have in other cases.
 * It is compared after the linear change of intensities that fits best, as the direction says
   nothing of scale. So are what it has to be better than: what it began with, and patches of other
   cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfs.learner import OnProgress, Progress
from fedfs.nnunet.membership.case_fits import CaseFits

N_STEPS = 600
_LEARNING_RATE = 0.02
_VARIATION = 1e-4
_STRIDES = 4
"""Sides of the patch, in voxels of the network's coarsest stage."""

Patch = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Likeness of a patch to the true one: 1, infinity and 1 for itself.

    Attributes:
        correlation: over all voxels.
        psnr_db: peak signal to noise ratio.
        ssim: structural similarity.
    """

    correlation: float
    psnr_db: float
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """A patch that was searched for, beside what is known without the gradient.

    Attributes:
        version: the global version whose gradient it is.
        shape: of the patch, in voxels.
        found: the patch that has the gradient.
        from_labels: mean intensities of the classes.
        others: mean over patches of other cases.
        n_others: of so many.
        gradient_cosine: of the gradient of what was found and that of the true patch.
    """

    version: int
    shape: tuple[int, ...]
    found: Likeness
    from_labels: Likeness
    others: Likeness
    n_others: int
    gradient_cosine: float


def invert(
    meter: CaseFits,
    case: str,
    others: Sequence[str],
    *,
    version: int,
    on_progress: OnProgress,
    n_steps: int = N_STEPS,
) -> Inversion:
    """Search a patch of a case by the gradient that the meter's present weights have for it.

    Args:
        meter: with the weights of a version.
        case: that is attacked.
        others: cases that what is found is compared with.
        version: of the weights.
        on_progress: progress callback.
        n_steps: of the search.
    """
    with meter.call():
        image, target = _patch(meter, case)
        pairs = [_patch(meter, name) for name in others]
        begin = _from_labels(target, pairs)
        found, cosine = _search(meter, image, target, begin, n_steps, on_progress)
    known = [_likeness(image, other) for other, _ in pairs]
    return Inversion(
        version=version,
        shape=tuple(image.shape[1:]),
        found=_likeness(image, found),
        from_labels=_likeness(image, begin),
        others=Likeness(
            correlation=fmean(one.correlation for one in known),
            psnr_db=fmean(one.psnr_db for one in known),
            ssim=fmean(one.ssim for one in known),
        ),
        n_others=len(known),
        gradient_cosine=cosine,
    )


def _patch(meter: CaseFits, case: str) -> tuple[Any, Any]:
    """Return image and target around the middle of the structure, as tensors."""
    import torch

    image, target = meter.read(case)
    configuration = meter.trainer.configuration_manager
    strides = np.prod(configuration.network_arch_init_kwargs["strides"], axis=0)
    sides = [
        min(int(p), _STRIDES * int(s))
        for p, s in zip(configuration.patch_size, np.atleast_1d(strides), strict=True)
    ]
    structure = (target > 0).any(0)
    place = structure.nonzero()
    middle = (
        place.float().mean(0).round().long() if len(place) else torch.tensor(structure.shape) // 2
    )
    across = image.ndim - 1 - len(sides)
    slices: list[Any] = [slice(None), *(int(n) for n in middle[:across])]
    padding: list[int] = []
    for centre, side, n in zip(
        middle[across:].tolist(), sides, structure.shape[across:], strict=True
    ):
        start = max(0, min(centre - side // 2, n - side))
        slices.append(slice(start, min(start + side, n)))
        padding = [0, max(side - n, 0), *padding]
    key = tuple(slices)
    pad = torch.nn.functional.pad
    return pad(image[key].float(), padding), pad(target[key].float(), padding).to(target.dtype)


def _search(
    meter: CaseFits, image: Any, target: Any, begin: Any, n_steps: int, on_progress: OnProgress
) -> tuple[Any, float]:
    """Return the patch whose gradient is the most alike, and the cosine of both gradients."""
    import torch

    network, device = meter.trainer.network, meter.trainer.device
    aim = target[None].to(device)
    # Heads of lower resolutions take no part without deep supervision.
    meter.loss(network(image[None].to(device)), aim).backward()
    weights = [w for w in network.parameters() if w.grad is not None]
    network.zero_grad()

    def gradient(patch: Any, *, again: bool) -> list[Any]:
        loss = meter.loss(network(patch[None]), aim)
        return list(torch.autograd.grad(loss, weights, create_graph=again))

    true = [g.detach() for g in gradient(image.to(device), again=False)]
    length = sum((g**2).sum() for g in true).sqrt()
    patch = begin.clone().to(device).requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    best, best_cosine = patch.detach().clone(), -1.0
    for step in range(n_steps):
        own = gradient(patch, again=True)
        product = sum((a * b).sum() for a, b in zip(own, true, strict=True))
        cosine = product / (length * sum((g**2).sum() for g in own).sqrt() + 1e-12)
        value = float(cosine.detach())
        if value > best_cosine:
            best, best_cosine = patch.detach().clone(), value
        variation = sum(patch.diff(dim=axis).abs().mean() for axis in range(1, patch.ndim))
        optimizer.zero_grad()
        (patch.grad,) = torch.autograd.grad(1 - cosine + _VARIATION * variation, [patch])
        optimizer.step()
        schedule.step()
        on_progress(Progress("inversion", step + 1, n_steps, "step"))
    return best.cpu(), best_cosine


def _from_labels(target: Any, pairs: Sequence[tuple[Any, Any]]) -> Any:
    """Return the patch that has the mean intensity of its class everywhere, as in other cases."""
    import torch

    made = torch.zeros((len(pairs[0][0]), *target.shape[1:]))
    combined = [(image, _classes(other)) for image, other in pairs]
    of_case = _classes(target)
    for value in of_case.unique():
        for channel in range(len(made)):
            means = [
                float(image[channel][known == value].mean())
                for image, known in combined
                if (known == value).any()
            ]
            made[channel][of_case == value] = fmean(means) if means else 0.0
    return made


def _classes(target: Any) -> Any:
    """Return one number for each combination of labels or regions."""
    weights = [2**n for n in range(len(target))] if len(target) > 1 else [1]
    return sum(part.long() * weight for part, weight in zip(target, weights, strict=True))


def _likeness(true: Any, other: Any) -> Likeness:
    """Return how alike two patches are, after the linear change of the other that fits best."""
    from skimage.metrics import structural_similarity

    a, b = true.numpy().astype(np.float64), other.numpy().astype(np.float64)
    variance = b.var()
    slope = ((a - a.mean()) * (b - b.mean())).mean() / variance if variance > 0 else 0.0
    fitted = a.mean() + slope * (b - b.mean())
    spread = a.max() - a.min()
    correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1] if variance > 0 and spread > 0 else 0.0
    ssim = [
        structural_similarity(one, two, data_range=spread or 1.0)
        for one, two in zip(a, fitted, strict=True)
    ]
    error = ((a - fitted) ** 2).mean()
    psnr = 10 * np.log10(spread**2 / error) if error > 0 else float("inf")
    return Likeness(correlation=float(correlation), psnr_db=float(psnr), ssim=float(np.mean(ssim)))
