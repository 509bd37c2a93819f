"""Second-order CLEVER (Weng et al. 2018, "On Extensions of CLEVER", https://arxiv.org/abs/1810.08640), in L2.

This is a library function. No property of the gate uses it, because most networks have kinks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metrics.checks import check_choice, check_count
from metrics.clever import radii_of
from metrics.curvature import curvatures
from metrics.extreme_value import end_point
from metrics.generators import generators_of, moved
from metrics.gradient_norms import SAMPLINGS, Sampling, Targets, checked_targets, chosen_targets
from metrics.gradient_norms.sampling import perturbations
from metrics.norms import vector_norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status


@dataclass(frozen=True)
class SecondOrderScores:
    """The second-order CLEVER scores of N images; every tensor has shape (N,), on the device of the images.

    Where there is no score (`status` misclassified or unavailable), the numbers are NaN and the target is -1.

    Attributes:
        score: the estimated lower bound of the L2 distance, the smallest over the targets, at most the radius.
        lower: lower end of the 95 % interval of the winning target's score.
        upper: upper end of it.
        target: the class whose score is the smallest.
        margin: logit of the label minus that of the target.
        slope: L2 norm of the gradient of that margin at the image.
        curvature: estimated end-point of the largest -v.H v over unit vectors v, where H is the Hessian of the margin:
            how fast the slope of the margin can grow; 0 or more.
        saturated: the score is capped at the radius: read it as "at least".
        no_finite_endpoint: the samples do not show that the curvature has an end-point; see `metrics.extreme_value`.
        not_smooth: between the image and a sample, the slope grows faster than the end-point of the curvature allows
            (mean value theorem). The network has kinks, as with ReLU, or bends where no sample fell. There is no score.
        zero_gradient: for some target, the slope at the image and all sampled curvatures are zero; there is no score.
        broken_gradient: a slope or a curvature is NaN or infinite; there is no score.
        status: `Status` numbers: estimated, saturated, misclassified or unavailable.
        forward: forward passes spent on each image.
        backward: backward passes spent on each image; a Hessian-vector product counts as two.
    """

    score: Tensor
    lower: Tensor
    upper: Tensor
    target: Tensor
    margin: Tensor
    slope: Tensor
    curvature: Tensor
    saturated: Tensor
    no_finite_endpoint: Tensor
    not_smooth: Tensor
    zero_gradient: Tensor
    broken_gradient: Tensor
    status: Tensor
    forward: Tensor
    backward: Tensor


def second_order_clever(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float | Tensor,
    targets: Targets = "top-2",
    sampling: Sampling = "ball",
    blocks: int = 30,
    block_size: int = 8,
    iterations: int = 8,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> SecondOrderScores:
    """Estimate, for each image, a lower bound of the L2 distance, for a smooth network.

    If the slope of the margin at the image is s and grows at most at the rate M within the ball, the margin m stays
    positive up to the distance (sqrt(s^2 + 2 M m) - s) / M (section 3 of the paper). s is known exactly. M is estimated
    as the end-point of the largest negative curvature at random points, which Lanczos iterations find at each point.
    For a network with little curvature, the bound is larger and better than margin / largest slope. In the other norms
    the curvature is a matrix norm that is NP-hard to compute, so the function supports only L2.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, **twice differentiable**: with
            softplus, SiLU, tanh or sigmoid, but not ReLU.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        radius: radius of the ball, as for `clever`.
        targets: as for `clever`; each target costs as much as the first.
        sampling: as for `clever`.
        blocks: number of block maxima, 3 or more.
        block_size: number of samples in a block.
        iterations: Lanczos iterations at each sample, 1 or more. They approach the curvature from below: on a broad
            spectrum of 784 eigenvalues, the result of eight iterations was 16 % too small. Use more where that matters.
        seed: seed of the samples: one for all images, or one for each.
        batch_size: the most images that pass through the model at once.

    Raises:
        ValueError: for bad input as for `clever`.

    Example:
        A margin 1 - x - x^2: slope 1, curvature 2, and the root of 1 = x + x^2 is the exact distance.

        >>> def model(images):
        ...     x = images.flatten(1)
        ...     return torch.cat([-x - x**2, torch.full_like(x, -1)], dim=1)
        >>> image, label = torch.zeros(1, 1, 1, 1), torch.tensor([0])
        >>> found = second_order_clever(model, image, label, radius=0.9)
        >>> round(float(found.score), 4), round(float(found.curvature), 4)
        (0.618, 2.0)
    """
    check_choice("sampling", sampling, SAMPLINGS)
    for what, value, least in (
        ("blocks", blocks, 3),
        ("block_size", block_size, 1),
        ("iterations", iterations, 1),
        ("batch_size", batch_size, 1),
    ):
        check_count(what, value, least)
    check_images(images, labels)
    check_model(model)
    radii = radii_of(radius, images)
    checked_targets(targets, labels)
    generators = generators_of(seed, len(images))
    parts = []
    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
        for first in range(0, len(images), batch_size):
            part = slice(first, first + batch_size)
            passes = Passes(model, len(images[part]), images.device)
            everything = torch.arange(len(images[part]), device=images.device)
            logits = checked_logits(passes, images[part], labels[part], everything)
            wanted = targets[part] if isinstance(targets, Tensor) else targets
            chosen = chosen_targets(wanted, logits, labels[part], generators[part])
            correct = margin(logits, labels[part]) > 0
            budget = Budget(sampling, blocks, block_size, iterations, batch_size)
            sampled = _sample(
                passes, images[part], labels[part], chosen, correct, radii[part], budget, generators[part]
            )
            margins = logits.gather(1, labels[part, None]) - logits.gather(1, chosen)
            parts.append(_result(sampled, margins, chosen, correct, radii[part], passes))
    return concatenate(parts)


@dataclass(frozen=True)
class Budget:
    """How curvatures are sampled: the parameters of `second_order_clever` that are the same for all images."""

    sampling: Sampling
    blocks: int
    block_size: int
    iterations: int
    batch_size: int


@dataclass(frozen=True)
class _Sampled:
    """What was found for N images and T targets.

    Attributes:
        maxima: block maxima of the curvature, shape (N, T, B).
        at_image: curvature at the image, shape (N, T).
        slopes: slope at the image, shape (N, T).
        bends: largest mean curvature on the way from the image to a sample, shape (N, T).
    """

    maxima: Tensor
    at_image: Tensor
    slopes: Tensor
    bends: Tensor


def _sample(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    correct: Tensor,
    radius: Tensor,
    budget: Budget,
    generators: Sequence[torch.Generator],
) -> _Sampled:
    like: dict[str, Any] = {"dtype": images.dtype, "device": images.device}
    maxima = torch.zeros(*targets.shape, budget.blocks, **like)
    at_image, slopes, bends = (torch.zeros(targets.shape, **like) for _ in range(3))
    at_once = max(1, budget.batch_size // budget.block_size)
    for row in correct.nonzero().flatten().tolist():
        image, generator = images[row], generators[row]

        def curved(points: Tensor, column: int) -> tuple[Tensor, Tensor]:
            drawn = torch.randn(points.shape, generator=generator, dtype=points.dtype)  # noqa: B023  # called in this turn
            start = moved(drawn, points.device)
            return _curvature(passes, points, labels[row], targets[row, column], start, budget, row)  # noqa: B023

        clean = [curved(image[None], column) for column in range(targets.shape[1])]
        for column, (curvature, gradient) in enumerate(clean):
            at_image[row, column], slopes[row, column] = curvature[0], vector_norm(gradient, "l2")[0]
        for first in range(0, budget.blocks, at_once):
            blocks = slice(first, min(first + at_once, budget.blocks))
            count = (blocks.stop - first) * budget.block_size
            drawn = perturbations(budget.sampling, "l2", count, image.shape, generator, image.dtype)
            points = (image + radius[row] * moved(drawn, image.device)).clamp(0, 1)
            for column, (_, gradient) in enumerate(clean):
                found, gradients = curved(points, column)
                maxima[row, column, blocks] = found.view(-1, budget.block_size).amax(dim=1)
                bent = _bend(points - image, gradients - gradient, slopes[row, column])
                bends[row, column] = bends[row, column].maximum(bent)
    return _Sampled(maxima, at_image, slopes, bends)


def _bend(steps: Tensor, changes: Tensor, slope: Tensor) -> Tensor:
    """Return the largest mean curvature between the image and a sample, minus the rounding error.

    The mean curvature is -(change of the gradient).step / |step|^2. By the mean value theorem, the largest curvature on
    the segment is not smaller.
    """
    lengths = vector_norm(steps, "l2")
    towards = -(changes * steps).flatten(1).sum(dim=1) / lengths.clamp_min(torch.finfo(steps.dtype).tiny)
    excess = (towards - 1e-4 * slope.maximum(vector_norm(changes, "l2").amax())).clamp_min(0)
    return (excess / lengths.clamp_min(torch.finfo(steps.dtype).tiny)).amax()


def _curvature(
    passes: Passes, points: Tensor, label: Tensor, target: Tensor, start: Tensor, budget: Budget, row: int
) -> tuple[Tensor, Tensor]:
    """Curvatures (P,) and gradients (P, ...); at most `batch_size` points at once."""
    pieces = []
    for part, first in zip(points.split(budget.batch_size), start.split(budget.batch_size), strict=True):
        rows = torch.full((len(part),), row, device=points.device)
        leaves, gradient = passes.margin_with_graph(part, label.expand(len(part)), target.expand(len(part)), rows)

        def product(vectors: Tensor) -> Tensor:
            shaped = vectors.view_as(leaves)  # noqa: B023  # called in this turn only
            return passes.hessian_product(leaves, gradient, shaped, rows).flatten(1)  # noqa: B023

        pieces.append((curvatures(product, first.flatten(1), budget.iterations), gradient.detach()))
    found, gradients = zip(*pieces, strict=True)
    return torch.cat(found), torch.cat(gradients)


def _result(
    sampled: _Sampled, margins: Tensor, targets: Tensor, correct: Tensor, radius: Tensor, passes: Passes
) -> SecondOrderScores:
    maxima, slopes = sampled.maxima, sampled.slopes
    finite = maxima.isfinite().all(dim=2) & slopes.isfinite() & sampled.bends.isfinite() & sampled.at_image.isfinite()
    fits = end_point(torch.where(finite[:, :, None], maxima, 1).flatten(0, 1))
    estimate, lower, upper = (
        value.view_as(slopes).maximum(sampled.at_image) for value in (fits.estimate, fits.lower, fits.upper)
    )
    # Allow one per cent, because Lanczos' method approaches the curvature from below.
    not_smooth = correct & (sampled.bends > 1.01 * estimate).any(dim=1)
    broken = correct & ~finite.all(dim=1)
    flat = correct & ((slopes == 0) & (estimate == 0)).any(dim=1)
    scored = correct & ~not_smooth & ~broken & ~flat
    bounds = _bound(margins, slopes, estimate)
    column = bounds.argmin(dim=1, keepdim=True)

    def of_winner(table: Tensor) -> Tensor:
        return torch.where(scored, table.gather(1, column).squeeze(1), torch.nan)

    score = of_winner(bounds)
    saturated = score >= radius
    status = torch.where(saturated, Status.SATURATED, Status.ESTIMATED)
    status = torch.where(scored, status, torch.where(correct, Status.UNAVAILABLE, Status.MISCLASSIFIED))
    unclear = fits.no_finite_endpoint.view_as(slopes).gather(1, column).squeeze(1)
    return SecondOrderScores(
        score=score.minimum(radius),
        lower=of_winner(_bound(margins, slopes, upper)).minimum(radius),
        upper=of_winner(_bound(margins, slopes, lower)).minimum(radius),
        target=torch.where(scored, targets.gather(1, column).squeeze(1), -1),
        margin=of_winner(margins),
        slope=of_winner(slopes),
        curvature=of_winner(estimate),
        saturated=saturated,
        no_finite_endpoint=scored & unclear,
        not_smooth=not_smooth,
        zero_gradient=flat,
        broken_gradient=broken,
        status=status,
        forward=passes.forward,
        backward=passes.backward,
    )


def _bound(margins: Tensor, slopes: Tensor, curvature: Tensor) -> Tensor:
    """Return the root x of m = s x + M x^2 / 2, in a form that is valid for M = 0; 0 for infinite M."""
    return 2 * margins / (slopes + torch.sqrt(slopes**2 + 2 * curvature * margins))
