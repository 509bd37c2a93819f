"""Anchored CLEVER: the CLEVER score with gradients from the segment to an adversarial example added."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count
from metrics.clever import CleverScores
from metrics.gradient_norms.targets import chosen_targets
from metrics.norms import DUAL, NORMS, Norm, per_row, vector_norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status


@dataclass(frozen=True)
class AnchoredScores:
    """The anchored CLEVER scores of N images; every tensor has shape (N,), on the device of the images.

    Attributes:
        score: the CLEVER score, or margin / `lipschitz` if that is smaller. It is never above the distance of the
            adversarial example. NaN where there is no CLEVER score, or no adversarial example.
        lipschitz: the steepest slope found on the segment, for the margin towards the class of the adversarial example:
            the largest dual norm of its gradient, or its mean slope if that is larger.
        anchor: the class of the adversarial example; -1 where there is no score.
        status: `Status` numbers: those of CLEVER, estimated where the score was lowered, and censored where there is no
            adversarial example.
        forward: forward passes spent on each image.
        backward: backward passes spent on each image.
    """

    score: Tensor
    lipschitz: Tensor
    anchor: Tensor
    status: Tensor
    forward: Tensor
    backward: Tensor


def anchored_clever(
    model: Model,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    scores: CleverScores,
    *,
    norm: Norm,
    points: int = 16,
    batch_size: int = 100,
) -> AnchoredScores:
    """Lower each CLEVER score by the gradients on the segment from the image to an adversarial example.

    In many dimensions, random points of a ball never meet its steepest places, so CLEVER overestimates. On the segment
    to an adversarial example the class does change: by the mean value theorem, the largest dual norm on it is at least
    margin / distance. So the anchored score is at most the distance of that example **by construction**, and this is no
    evidence of its quality. Judge it by how near it is to the true distance, and by how often it is above it.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        adversarial: the adversarial example that an attack found for each image, shape (N, C, H, W), values in [0, 1];
            see `adversarial_distance(...).adversarial`. A row that is not misclassified counts as no example.
        scores: the CLEVER scores of the same images, in this norm and for this model. The function cannot check this.
        norm: "linf", "l2" or "l1", the norm of the perturbation.
        points: number of positions on each segment where the gradient is taken: the midpoints of equal parts.
        batch_size: the most rows that pass through the model at once.

    Raises:
        ValueError: for adversarial examples of another shape or dtype, another number of scores than images, and bad
            input as for `clever`.

    Example:
        One pixel of 64 has a steep slope above 0.5, and the boundary is at 0.55. No sample gets there, so the CLEVER
        score is at the radius. The segment to the adversarial example does get there.

        >>> from metrics import clever
        >>> def model(images):
        ...     pixel = images.flatten(1)[:, :1]
        ...     return torch.cat([-pixel - 9 * (pixel - 0.5).relu(), torch.full_like(pixel, -1)], dim=1)
        >>> image, label = torch.zeros(1, 1, 8, 8), torch.tensor([0])
        >>> adversarial = image.clone()
        >>> adversarial[0, 0, 0, 0] = 0.56
        >>> found = clever(model, image, label, norm="l2", radius=0.9)
        >>> anchored = anchored_clever(model, image, label, adversarial, found, norm="l2")
        >>> round(float(found.score), 3), round(float(anchored.score), 3)
        (0.9, 0.1)
    """
    check_choice("norm", norm, NORMS)
    check_count("points", points, 1)
    check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)
    if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape or adversarial.dtype != images.dtype:
        got = f"{tuple(adversarial.shape)} of {adversarial.dtype}" if isinstance(adversarial, Tensor) else adversarial
        raise ValueError(f"got adversarial examples {got}, expected {tuple(images.shape)} of {images.dtype}")
    check_images(adversarial, labels)
    if len(scores.score) != len(images):
        raise ValueError(f"got {len(scores.score)} CLEVER scores for {len(images)} images, expected one for each")
    images, adversarial, labels = images.detach(), adversarial.detach(), labels.clone()

    def measured(first: int, last: int) -> AnchoredScores:
        part = slice(first, last)
        own = CleverScores(**{name: column[part] for name, column in vars(scores).items()})
        return _anchored(model, images[part], labels[part], adversarial[part], own, norm, points, batch_size)

    with differentiating(model):
        return concatenate([part for _, part in halving_batches(measured, len(images), batch_size)])


def _anchored(
    model: Model,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    scores: CleverScores,
    norm: Norm,
    points: int,
    batch_size: int,
) -> AnchoredScores:
    passes = Passes(model, len(images), images.device)
    everything = torch.arange(len(images), device=images.device)
    logits = checked_logits(passes, images, labels, everything)
    beyond = passes.logits(adversarial, everything)
    anchor = chosen_targets("top-2", beyond, labels, []).squeeze(1)
    change = margin(logits, labels, anchor) - margin(beyond, labels, anchor)
    fooled = margin(beyond, labels) <= 0

    scored = scores.score.isfinite()
    status = torch.where(scored & ~fooled, Status.CENSORED, scores.status)
    rows = (scored & fooled).nonzero().flatten()
    score, lipschitz = torch.full_like(scores.score, torch.nan), torch.full_like(scores.score, torch.nan)
    if len(rows):
        steepest = _steepest(passes, images, labels, adversarial, anchor, rows, norm, points, batch_size)
        distance = vector_norm(adversarial[rows] - images[rows], norm)
        # The mean slope needs no gradient, and bounds the score where the sampled points miss the steep part.
        lipschitz[rows] = steepest.maximum(change[rows] / distance)
        bound = margin(logits, labels, anchor)[rows] / lipschitz[rows]
        score[rows] = torch.minimum(scores.score[rows], bound)
        lowered = rows[bound < scores.score[rows]]
        status[lowered] = Status.ESTIMATED
    anchor = torch.where(score.isfinite(), anchor, -1)
    return AnchoredScores(score, lipschitz, anchor, status, passes.forward, passes.backward)


def _steepest(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    anchor: Tensor,
    rows: Tensor,
    norm: Norm,
    points: int,
    batch_size: int,
) -> Tensor:
    """Return the largest dual norm of the gradient of the margin towards `anchor` on each segment, shape (R,)."""
    shares = (torch.arange(points, dtype=images.dtype, device=images.device) + 0.5) / points
    way = adversarial[rows] - images[rows]

    def norms(first: int, last: int) -> Tensor:
        position = torch.arange(first, last, device=rows.device)
        segment, owner = position // points, rows[position // points]
        there = images[owner] + per_row(shares[position % points], images) * way[segment]
        ((_, gradient),) = passes.target_gradients(there, labels[owner], anchor[owner, None], owner)
        return vector_norm(gradient, DUAL[norm])

    found = torch.cat([part for _, part in halving_batches(norms, len(rows) * points, batch_size)])
    return torch.where(found.isfinite(), found, 0).view(len(rows), points).amax(dim=1)
