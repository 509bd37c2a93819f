"""Second-order CLEVER (Weng et al. 2018, "On Extensions of CLEVER", https://arxiv.org/abs/1810.08640), in L2."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.checks import check_choice, check_count
from metrics.clever import radii_of
from metrics.curvature import curvatures
from metrics.extreme_value import end_point
from metrics.generators import generators_of
from metrics.gradient_norms import LAWS, Law, Targets, checked_targets, chosen_targets
from metrics.gradient_norms.laws import perturbations
from metrics.norms import length
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
        curvature: estimated end-point of -v.H v, the largest over unit vectors v, with the Hessian H of the margin: how
            fast the margin's slope can grow; 0 or more.
        saturated: the score is the radius, which says "at least".
        no_finite_endpoint: the samples do not show that the curvature has an end-point; see `metrics.extreme_value`.
        not_smooth: every sampled Hessian is zero although the gradient changes: the network is piecewise linear, its
            curvature is all in kinks that no sample meets, and there is no score.
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
    law: Law = "ball",
    blocks: int = 30,
    block_size: int = 8,
    iterations: int = 8,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> SecondOrderScores:
    """Estimate, for each image, below which L2 norm no perturbation changes the class of a smooth network.

    If the slope of the margin at the image is s and grows at most at the rate M within the ball, the margin m is not
    used up before (sqrt(s^2 + 2 M m) - s) / M (section 3 of the paper). s is known exactly; M is estimated as the
    end-point of the largest negative curvature at random points, each found by Lanczos iterations. For a network with
    little curvature that is a larger and better bound than margin / largest slope. In the other norms the curvature is
    a matrix norm that is NP-hard to compute, so there is only L2.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, **twice differentiable**:
            softplus, SiLU, tanh, sigmoid, and not ReLU.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        radius: of the ball, as for `clever`.
        targets: as for `clever`; each costs as much as the first.
        law: as for `clever`.
        blocks: number of block maxima, 3 or more.
        block_size: number of samples in a block.
        iterations: Lanczos iterations at each sample, 1 or more. They find the curvature from inside.
        seed: of the samples: one for all images, or one for each.
        batch_size: the most images that pass through the model at once.

    Raises:
        ValueError: as `clever`.

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
    check_choice("law", law, LAWS)
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
    generators = generators_of(seed, len(images), images.device)
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
            maxima, slopes, not_smooth = _sample(
                passes, images[part], labels[part], chosen, radii[part], law, blocks, block_size, iterations,
                batch_size, generators[part],
            )  # fmt: skip
            margins = logits.gather(1, labels[part, None]) - logits.gather(1, chosen)
            correct = margin(logits, labels[part]) > 0
            parts.append(_result(maxima, slopes, not_smooth, margins, chosen, correct, radii[part], passes))
    return concatenate(parts)


def _sample(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    radius: Tensor,
    law: Law,
    blocks: int,
    block_size: int,
    iterations: int,
    batch_size: int,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Block maxima of the curvature (N, T, B), slopes at the images (N, T), and whether all is piecewise linear."""
    count = blocks * block_size
    maxima, slopes, flat = [], [], []
    for row, generator in enumerate(generators):
        image, owner = images[row], torch.full((count + 1,), row, device=images.device)
        drawn = perturbations(law, "l2", count, image.shape, generator, image.dtype)
        points = torch.cat([image[None], (image + radius[row] * drawn).clamp(0, 1)])
        start = torch.randn(points.shape, generator=generator, dtype=image.dtype, device=image.device)
        found, norms, kinked = [], [], []
        for target in targets[row].tolist():
            pieces = [
                _curvature(passes, points[part], int(labels[row]), target, start[part], iterations, owner[part])
                for part in (slice(at, at + batch_size) for at in range(0, count + 1, batch_size))
            ]
            curvature, gradient = (torch.cat([piece[which] for piece in pieces]) for which in (0, 1))
            found.append(curvature[1:].view(blocks, block_size).amax(dim=1))
            norms.append(length(gradient[:1], "l2")[0])
            spread = length(gradient - gradient[:1], "l2").amax()
            still = torch.cat([piece[2] for piece in pieces]).all()
            kinked.append(still & (spread > 1e-4 * norms[-1]))
        maxima.append(torch.stack(found))
        slopes.append(torch.stack(norms))
        flat.append(torch.stack(kinked).any())
    return torch.stack(maxima), torch.stack(slopes), torch.stack(flat)


def _curvature(
    passes: Passes, points: Tensor, label: int, target: int, start: Tensor, iterations: int, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Curvatures (P,), gradients (P, ...) and whether all Hessian-vector products are zero (P,)."""
    zero = torch.ones(len(points), dtype=torch.bool, device=points.device)
    labels, targets = (torch.full_like(rows, value) for value in (label, target))
    leaves, gradient = passes.margin_with_graph(points, labels, targets, rows)

    def product(vectors: Tensor) -> Tensor:
        nonlocal zero
        result = passes.hessian_product(leaves, gradient, vectors.view_as(points), rows)
        zero &= (result == 0).flatten(1).all(dim=1)
        return result.flatten(1)

    return curvatures(product, start.flatten(1), iterations), gradient.detach(), zero


def _result(
    maxima: Tensor,
    slopes: Tensor,
    not_smooth: Tensor,
    margins: Tensor,
    targets: Tensor,
    correct: Tensor,
    radius: Tensor,
    passes: Passes,
) -> SecondOrderScores:
    broken = ~maxima.isfinite().flatten(1).all(dim=1) | ~slopes.isfinite().all(dim=1)
    flat = ((slopes == 0) & (maxima.amax(dim=2) == 0)).any(dim=1)
    scored = correct & ~not_smooth & ~broken & ~flat
    fits = end_point(torch.where(scored[:, None, None], maxima, 1).flatten(0, 1))
    estimate, low, high = (value.view_as(slopes) for value in (fits.estimate, fits.lower, fits.upper))
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
        lower=of_winner(_bound(margins, slopes, high)).minimum(radius),
        upper=of_winner(_bound(margins, slopes, low)).minimum(radius),
        target=torch.where(scored, targets.gather(1, column).squeeze(1), -1),
        margin=of_winner(margins),
        slope=of_winner(slopes),
        curvature=of_winner(estimate),
        saturated=saturated,
        no_finite_endpoint=scored & unclear,
        not_smooth=correct & not_smooth,
        status=status,
        forward=passes.forward,
        backward=passes.backward,
    )


def _bound(margins: Tensor, slopes: Tensor, curvature: Tensor) -> Tensor:
    """The root of m = s x + M x^2 / 2, in a form that holds for M = 0; 0 for infinite M."""
    return 2 * margins / (slopes + torch.sqrt(slopes**2 + 2 * curvature * margins))
