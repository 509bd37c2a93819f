"""CLEVER (Weng et al. 2018, https://arxiv.org/abs/1801.10578): an estimated lower bound of the distance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count, check_number
from metrics.clever_estimate import RunningScores
from metrics.generators import generators_of
from metrics.gradient_norms import SAMPLINGS, GradientNorms, Sampling, Targets, checked_targets, chosen_targets
from metrics.gradient_norms.sampling import covered_radius
from metrics.norms import NORMS, Norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate

CHECKPOINTS = (0.25, 0.5, 1.0)
"""Shares of the samples after which targets are dropped and the sampling of an image may stop."""

USUAL: dict[Sampling, tuple[int, int]] = {"ball": (56, 64), "original": (56, 64), "walks": (40, 8)}
"""Number of blocks, and number of samples in a block, unless they are given."""

STOPPING_FROM = 0.5
"""Earliest share of the samples at which a narrow interval may stop the sampling. An interval can be narrow by chance,
so each look costs coverage. A constant gradient, or an interval at the radius, stops it at any look."""


@dataclass(frozen=True)
class CleverScores:
    """The CLEVER scores of N images, on the device of the images. Every tensor but `maxima` has shape (N,).

    Where there is no score (`status` misclassified or unavailable), the numbers are NaN and the target is -1.

    Attributes:
        score: the estimated lower bound, in units of the image range [0, 1]: margin / estimated Lipschitz constant, the
            smallest over all targets and at most the radius.
        lower: lower end of the 95 % interval of the winning target's score (profile likelihood of its end-point).
        upper: upper end of that interval.
        raw: margin / largest dual norm that was seen, the smallest over the targets that were not dropped. No fit is
            involved.
        target: the class with the smallest score, which is the winning target.
        margin: logit of the label minus that of the target.
        lipschitz: estimated end-point of the dual norms of the gradient of that margin. If the norm at the image, or
            the steepest |change of the margin| / |perturbation|, is larger, the end-point is too small and the larger
            value replaces it.
        shape: shape of the fitted reverse Weibull distribution; NaN where the gradient is constant.
        p_value: p-value of the Kolmogorov-Smirnov test of that fit.
        blocks: number of block maxima that were fitted.
        maxima: the block maxima of the winning target, shape (N, B), where B is the largest number of blocks; NaN
            beyond `blocks`.
        saturated: the score is capped at the radius: read it as "at least".
        degenerate_fit: the end-point is the largest sample. Either the fit adds nothing, or the distribution does not
            fit at all.
        no_finite_endpoint: the samples do not show that the dual norms have an end-point. The prior of the shape
            (`metrics.extreme_value`) then decides how far the end-point is beyond the largest sample, and therefore how
            far the score is below `raw`. This is usual where the samples are few and the shape is large.
        zero_gradient: at least half of the sampled gradients of a target that may win are zero. There is no score then.
            Sampling stops at once if 95 % of the gradients, and at least 16, are zero.
        broken_gradient: a target that may win has gradients that are NaN or infinite. There is no score then.
        masked_gradient: between the image and a sample, a margin changes more than ten times as fast as the steepest
            gradient allows. The gradients are not those of the function, so there is no score.
        status: `Status` numbers: estimated, saturated, misclassified or unavailable.
        label_change: with `sampling="walks"`, the distance of a label change that was found within the radius; inf if
            there is none. The score is at most this.
        forward: forward passes spent on each image.
        backward: backward passes spent on each image.
    """

    score: Tensor
    lower: Tensor
    upper: Tensor
    raw: Tensor
    target: Tensor
    margin: Tensor
    lipschitz: Tensor
    shape: Tensor
    p_value: Tensor
    blocks: Tensor
    maxima: Tensor
    saturated: Tensor
    degenerate_fit: Tensor
    no_finite_endpoint: Tensor
    zero_gradient: Tensor
    broken_gradient: Tensor
    masked_gradient: Tensor
    status: Tensor
    label_change: Tensor
    forward: Tensor
    backward: Tensor


def clever(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    radius: float | Tensor,
    targets: Targets = "all",
    sampling: Sampling = "ball",
    tolerance: float = 0.05,
    blocks: int | None = None,
    block_size: int | None = None,
    pruning: float = 3.0,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> CleverScores:
    """Estimate, for each image, a lower bound of the distance: no smaller perturbation changes the class.

    For a target class, margin(image) / L is a lower bound of the distance if L is the largest dual norm of the gradient
    of the margin within the ball of `radius` (Weng et al., theorem 3.2). The function draws random points of the ball,
    clipped to [0, 1], and takes the gradient at each. It fits a reverse Weibull distribution to the maxima of
    independent blocks of dual norms, and uses its end-point as L (algorithm 1). The untargeted score is the smallest
    over all targets.

    The score is an estimate: nothing proves it. In many dimensions, random points of a ball hardly ever meet the
    steepest places. `sampling="walks"` looks for them:

    - Up to three descents from the image find a label change. The nearest adversarial example is not further away, so
      1.15 times its distance replaces the radius, if smaller.
    - The bound needs the gradients on the way to the nearest adversarial example only, where the label is still kept.
      So gradients beyond a label change do not count, and the theorem still holds.
    - Each sample is a walk: from a point that is uniform in the ball, six steps of 0.3 radii down the margin, within
      ball and box, until the label changes. Its value is the largest dual norm at its points. Values of several walks
      are independent, as the extreme-value distribution requires; points of one walk are not. The end-point of these
      values is not larger than the L of the theorem.
    - The largest dual norm on the descents is a lower bound of L, like that at the image.

    A walk uses no result of an attack. The score is never above the distance of the label change that was found.

    All targets share the points; with more than 64 targets, two groups have different points in the first block.
    Targets that are unlikely to have the smallest score are dropped: by the gradient at the image, by the first block,
    and at each look at the fits. Sampling ends for an image when its interval is narrow.
    The interval then covers the end-point in 91 to 97 % of cases, and in 92 to 97 % with `tolerance=0`
    (`metrics.extreme_value`).

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf", "l2" or "l1", the norm of the perturbation; gradients are measured in the dual norm.
        radius: radius of the ball, in units of the image range: one for all images, or one for each, shape (N,). The
            score is at most this. Choose a radius larger than the distances that you compare the score with: otherwise
            the cap alone makes the score a lower bound.
        targets: classes to score, int64, shape (N, T), never the label; or "all" (all other classes), "top-2" (the
            runner-up), "least-likely" or "random". Each of the last three gives the score of one target.
        sampling: "ball": points uniform in the ball of the norm, as published. "original": points as in the authors'
            code, an L2 direction times a length uniform in [0, radius], whatever the norm. The score in L-infinity is
            then at most radius / sqrt(size of the image), because the samples cover no larger ball. "walks": see above.
        tolerance: sampling ends when half the width of the 95 % interval is at most this share of the score, or when
            the whole interval is at the radius. With 0, only a constant gradient or the radius ends it early.
        blocks: the largest number of block maxima, 3 or more; by default 56, or 40 of walks.
        block_size: number of samples in a block; by default 64 points, or 8 walks.
        pruning: a target is dropped for good when its score in the first block is more than this many times the
            smallest. The factor is smaller where the norms of the gradients hardly differ, and shrinks at each later
            look. `inf` keeps all targets.
        seed: seed of the samples: one for all images, or one for each. The same image with the same seed gets the same
            samples in any batch.
        batch_size: the most images that pass through the model at once. It is halved when memory runs out.

    Returns:
        Scores with intervals, fits, flags, statuses, and passes spent.

    Raises:
        ValueError: for an unknown norm or sampling, a radius that is not positive, bad targets, and bad images, labels
            or models as for `adversarial_distance`.

    Example:
        A linear model: the gradient is constant, so the score is margin / dual norm, here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> clever(model, image, torch.tensor([0]), norm="linf", radius=1.0).score
        tensor([0.3000])
    """
    budget = budget_of(sampling, tolerance, blocks, block_size, pruning, batch_size)
    return _clever(model, images, labels, (norm,), radius, targets, budget, seed)[norm]


def clever_norms(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norms: Sequence[Norm],
    radius: float | Tensor | Mapping[Norm, float | Tensor],
    sampling: Sampling,
    targets: Targets = "all",
    tolerance: float = 0.05,
    blocks: int | None = None,
    block_size: int | None = None,
    pruning: float = 3.0,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> dict[Norm, CleverScores]:
    """Estimate the CLEVER scores in several norms. Each score is exactly what `clever` gives with the same sampling.

    With `sampling="original"` all norms share one radius, one cloud of points, and therefore the passes. Each result
    counts all of these passes. With `sampling="ball"` each norm has its own ball, and `radius` may be a mapping from
    norms to radii.

    Raises:
        ValueError: for no norms or a repeated norm, radii of other norms, a mapping with `sampling="original"`, and bad
            input as for `clever`.

    Example:
        >>> model = lambda images: images.flatten(1) @ torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> found = clever_norms(model, image, torch.tensor([0]), norms=["linf", "l1"], radius=1.0, sampling="original")
        >>> {norm: round(float(scores.score), 4) for norm, scores in found.items()}
        {'linf': 0.3, 'l1': 0.6}
    """
    norms = tuple(norms)
    if not norms or len(set(norms)) < len(norms):
        raise ValueError(f"got norms={norms!r}, expected different ones of {', '.join(map(repr, NORMS))}")
    budget = budget_of(sampling, tolerance, blocks, block_size, pruning, batch_size)
    if sampling == "original":
        if isinstance(radius, Mapping):
            raise ValueError(
                "got a radius for each norm, expected one for all: sampling='original' has one cloud of points"
            )
        return _clever(model, images, labels, norms, radius, targets, budget, seed)
    radii = radius if isinstance(radius, Mapping) else dict.fromkeys(norms, radius)
    if set(radii) != set(norms):
        raise ValueError(f"got radii for {', '.join(radii)}, expected one for each of {', '.join(norms)}")
    found: dict[Norm, CleverScores] = {}
    for norm in norms:
        found |= _clever(model, images, labels, (norm,), radii[norm], targets, budget, seed)
    return found


@dataclass(frozen=True)
class Budget:
    """How to sample and when to stop: the parameters of `clever` that are the same for all images.

    Raises:
        ValueError: if a parameter is out of range.
    """

    sampling: Sampling
    tolerance: float
    blocks: int
    block_size: int
    pruning: float
    batch_size: int

    def __post_init__(self) -> None:
        """Check the range of each parameter."""
        check_number("tolerance", self.tolerance, least=0)
        check_count("blocks", self.blocks, 3)
        check_count("block_size", self.block_size, 1)
        check_count("batch_size", self.batch_size, 1)
        if isinstance(self.pruning, bool) or not isinstance(self.pruning, int | float) or not self.pruning >= 1:
            raise ValueError(f"got pruning={self.pruning!r}, expected a number, 1 or more; inf keeps all targets")

    def checkpoints(self) -> list[int]:
        """Return the numbers of blocks after which the intervals are checked. A fit needs at least three blocks."""
        return sorted({min(self.blocks, max(3, math.ceil(part * self.blocks))) for part in CHECKPOINTS})


def budget_of(
    sampling: Sampling,
    tolerance: float,
    blocks: int | None,
    block_size: int | None,
    pruning: float,
    batch_size: int,
) -> Budget:
    """Return the budget, with the usual numbers of blocks and samples in place of None."""
    check_choice("sampling", sampling, SAMPLINGS)
    usual = USUAL[sampling]
    return Budget(
        sampling,
        tolerance,
        usual[0] if blocks is None else blocks,
        usual[1] if block_size is None else block_size,
        pruning,
        batch_size,
    )


def _clever(
    model: Model,
    images: Tensor,
    labels: Tensor,
    norms: tuple[Norm, ...],
    radius: float | Tensor,
    targets: Targets,
    budget: Budget,
    seed: int | Sequence[int],
) -> dict[Norm, CleverScores]:
    for norm in norms:
        check_choice("norm", norm, NORMS)
    check_images(images, labels)
    check_model(model)
    radii = radii_of(radius, images)
    checked_targets(targets, labels)
    generators = generators_of(seed, len(images))
    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()

        def measured(first: int, last: int) -> dict[Norm, CleverScores]:
            part = slice(first, last)
            wanted = targets[part] if isinstance(targets, Tensor) else targets
            return _scores(model, images[part], labels[part], norms, radii[part], wanted, budget, generators[part])

        parts = [scores for _, scores in halving_batches(measured, len(images), budget.batch_size)]
    return {norm: concatenate([part[norm] for part in parts]) for norm in norms}


def radii_of(radius: float | Tensor, images: Tensor) -> Tensor:
    """Return the radius of each image, shape (N,), in the dtype of the images.

    Raises:
        ValueError: for another shape, or a radius that is not finite and above 0 in that dtype.
    """
    if not isinstance(radius, Tensor):
        check_number("radius", radius, above=0)
        radius = torch.tensor(float(radius), dtype=torch.double)
    if not radius.is_floating_point() or radius.shape not in (images.shape[:1], torch.Size([])):
        raise ValueError(
            f"got a radius of shape {tuple(radius.shape)} and {radius.dtype}, "
            f"expected a number, or ({len(images)},) of a floating-point type: one for each image"
        )
    radii = radius.detach().to(images).expand(len(images))
    wrong = ~(radii.isfinite() & (radii > 0))
    if wrong.any():
        bad = int(wrong.nonzero()[0])
        raise ValueError(
            f"got radius {radius.expand(len(images))[bad]:g} for image {bad}, "
            f"expected a finite number above 0 in {images.dtype}"
        )
    return radii


def _scores(
    model: Model,
    images: Tensor,
    labels: Tensor,
    norms: tuple[Norm, ...],
    radius: Tensor,
    targets: Targets,
    budget: Budget,
    generators: Sequence[torch.Generator],
) -> dict[Norm, CleverScores]:
    passes = Passes(model, len(images), images.device)
    logits = checked_logits(passes, images, labels, torch.arange(len(images), device=images.device))
    candidates = chosen_targets(targets, logits, labels, generators)
    correct = margin(logits, labels) > 0
    gradients = GradientNorms(
        passes,
        images,
        labels,
        logits,
        candidates,
        radius,
        norms=norms,
        sampling=budget.sampling,
        blocks=budget.blocks,
        block_size=budget.block_size,
        batch_size=budget.batch_size,
        generators=generators,
    )
    rows = correct.nonzero().flatten()
    if len(rows):
        gradients.measure_images(rows)
    size = images[0].numel()
    covered = [covered_radius(budget.sampling, norm, gradients.radius, size) for norm in norms]
    estimates = [
        RunningScores(gradients, index, correct, radius, budget.pruning) for index, radius in enumerate(covered)
    ]
    for estimate in estimates:
        estimate.prune_by_image(rows)
    drawn = 0
    if candidates.shape[1] > MANY_TARGETS:
        _first_block_of_many(gradients, estimates)
        drawn = 1
    for blocks in [1, *budget.checkpoints()]:
        wanted = torch.stack([estimate.wanted() for estimate in estimates]).any(dim=0)
        gradients.draw(wanted, range(drawn, blocks))
        drawn = blocks
        for estimate in estimates:
            if blocks == 1:
                estimate.prune_by_pilot()
            else:
                estimate.update(blocks, budget.tolerance if blocks >= STOPPING_FROM * budget.blocks else 0.0)
    return {
        norm: CleverScores(
            **estimate.columns(),
            label_change=gradients.label_change,
            forward=passes.forward,
            backward=passes.backward,
        )
        for norm, estimate in zip(norms, estimates, strict=True)
    }


MANY_TARGETS = 64
"""With more targets, the first block is drawn for a few of them before the others."""

PILOTS = 16
"""How many these are for each image and norm: those with the smallest scores at the image."""


def _first_block_of_many(gradients: GradientNorms, estimates: Sequence[RunningScores]) -> None:
    """Draw the first block: for a few targets, and then for those that can still win.

    How much the gradient norms of an image differ within the ball hardly depends on the target. So a few targets tell
    by how much the scores at the image may be wrong.
    """
    pilots = torch.stack([estimate.pilots(PILOTS) for estimate in estimates]).any(dim=0)
    gradients.draw(pilots, range(1))
    for estimate in estimates:
        estimate.prune_by_spread(pilots)
    wanted = torch.stack([estimate.wanted() for estimate in estimates]).any(dim=0)
    gradients.draw(wanted & ~pilots, range(1))
