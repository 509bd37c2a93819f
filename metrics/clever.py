"""CLEVER (Weng et al. 2018, https://arxiv.org/abs/1801.10578): an estimate of the lower bound of the distance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.checks import check_choice, check_count, check_number
from metrics.extreme_value import EndPoint, end_point
from metrics.generators import generators_of
from metrics.norms import DUAL, Norm, length, uniform_in_ball
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


FLAGS = ("saturated", "degenerate_fit", "no_finite_endpoint", "zero_gradient", "broken_gradient")


@dataclass(frozen=True)
class CleverScores:
    """The CLEVER scores of N images; every tensor has shape (N,), on the device of the images.

    Where there is no score (`status` misclassified or unavailable), the numbers are NaN and the target is -1.

    Attributes:
        score: the estimated lower bound, in units of the image range [0, 1]: the smallest over the targets of
            margin / estimated Lipschitz constant, at most the radius.
        lower: lower end of the 95 % interval of the winning target's score (profile likelihood of its end-point).
        upper: upper end of it.
        raw: the smallest over the targets of margin / largest sampled dual norm: no fit, never below `score`.
        target: the class whose score is the smallest.
        margin: logit of the label minus that of the target.
        lipschitz: estimated end-point of the dual norms of the gradient of that margin.
        shape: shape of the fitted reverse Weibull law; NaN where the gradient is constant.
        p_value: of the Kolmogorov-Smirnov test of that fit.
        saturated: the score is the radius, which says "at least".
        degenerate_fit: the end-point is the largest sample: the fit adds nothing, or the law does not fit at all.
        no_finite_endpoint: the largest allowed shape fits best, as for a Gumbel law; the end-point is then one that the
            bound on the shape gives, above every sample, and says little.
        zero_gradient: a target that may win has gradients of zero only; there is no score then.
        broken_gradient: a target that may win has gradients that are NaN or infinite; there is no score then.
        status: `Status` numbers: estimated, saturated, misclassified or unavailable.
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
    saturated: Tensor
    degenerate_fit: Tensor
    no_finite_endpoint: Tensor
    zero_gradient: Tensor
    broken_gradient: Tensor
    status: Tensor
    forward: Tensor
    backward: Tensor


def clever(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    radius: float,
    targets: Tensor | None = None,
    blocks: int = 40,
    block_size: int = 24,
    pilot_factor: float = 1.25,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> CleverScores:
    """Estimate, for each image, below which norm no perturbation changes the class.

    For a target class, margin(image) / L bounds the distance from below if L is the largest dual norm of the margin's
    gradient within the ball of `radius`. L is estimated as the end-point of a reverse Weibull law, fitted to the maxima
    of `blocks` independent blocks of `block_size` gradients at points drawn uniformly from the ball and clipped to
    [0, 1]. The untargeted score is the smallest over the targets. It is an estimate: nothing proves it.

    All targets share the samples. The first block is the pilot: a target goes on only if its score there is at most
    `pilot_factor` times the smallest, since the others hardly ever win (on 96 scores of a CIFAR-10 network one came out
    1 % larger, for a sixth of the backward passes).

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf", "l2" or "l1", the norm of the perturbation; gradients are measured in the dual norm.
        radius: of the ball, in units of the image range. The score is at most this. Never derive it from the distances
            that the score is compared with.
        targets: classes to score, int64, shape (N, T), never the label; all other classes by default.
        blocks: number of block maxima, 3 or more.
        block_size: number of samples in a block.
        pilot_factor: how far from the smallest pilot score a target may be and go on; `inf` keeps all.
        seed: of the samples: one for all images, or one for each. The same image with the same seed gets the same
            samples in any batch.
        batch_size: the most images that pass through the model at once.

    Returns:
        Scores with intervals, fits, flags, statuses, and passes spent.

    Raises:
        ValueError: for an unknown norm, a radius that is not positive, bad targets, and all that
            `adversarial_distance` refuses.

    Example:
        A linear model: the gradient is constant, so the score is margin / dual norm, here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> clever(model, image, torch.tensor([0]), norm="linf", radius=1.0).score
        tensor([0.3000])
    """
    check_choice("norm", norm, NORMS)
    sampling = Sampling(
        norm=norm,
        radius=check_number("radius", radius, above=0),
        blocks=check_count("blocks", blocks, 3),
        block_size=check_count("block_size", block_size, 1),
        pilot_factor=_check_pilot_factor(pilot_factor),
        batch_size=check_count("batch_size", batch_size, 1),
    )
    check_images(images, labels)
    check_model(model)
    if targets is not None:
        _check_targets(targets, labels)
    generators = generators_of(seed, len(images), images.device)
    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
        parts = [
            _score(
                model,
                images[first:last],
                labels[first:last],
                None if targets is None else targets[first:last],
                sampling,
                generators[first:last],
            )
            for first, last in ((first, first + batch_size) for first in range(0, len(images), batch_size))
        ]
    return concatenate(parts)


@dataclass(frozen=True)
class Sampling:
    """How gradients are sampled: the parameters of `clever` that do not concern one image."""

    norm: Norm
    radius: float
    blocks: int
    block_size: int
    pilot_factor: float
    batch_size: int


def _score(
    model: Model,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> CleverScores:
    passes = Passes(model, len(images), images.device)
    everything = torch.arange(len(images), device=images.device)
    logits = checked_logits(passes, images, labels, everything)
    candidates = _all_targets(labels, logits.shape[1]) if targets is None else targets
    if int(candidates.max()) >= logits.shape[1]:
        raise ValueError(
            f"got target {int(candidates.max())}, expected classes of the model: 0 to {logits.shape[1] - 1}"
        )
    correct = everything[margin(logits, labels) > 0]

    maxima, kept = _block_maxima(passes, images, labels, candidates, correct, logits, sampling, generators)
    margins = logits.gather(1, labels[:, None]) - logits.gather(1, candidates)
    return _result(maxima, kept, margins, candidates, correct, sampling.radius, passes)


def _all_targets(labels: Tensor, classes: int) -> Tensor:
    every = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    return every[every != labels[:, None]].view(len(labels), classes - 1)


def _check_targets(targets: Tensor, labels: Tensor) -> None:
    if not isinstance(targets, Tensor):
        raise ValueError(f"got targets of {type(targets).__name__}, expected a torch.Tensor")
    if targets.dim() != 2 or len(targets) != len(labels) or targets.dtype != torch.long or not targets.shape[1]:
        raise ValueError(
            f"got targets of shape {tuple(targets.shape)} and {targets.dtype}, "
            f"expected ({len(labels)}, T) and torch.int64 with T >= 1"
        )
    if int(targets.min()) < 0:
        raise ValueError(f"got target {int(targets.min())}, expected classes of the model")
    if (targets == labels[:, None]).any():
        raise ValueError("got a target that is the image's own label, expected other classes")
    ordered = targets.sort(dim=1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("got the same target twice for an image, expected different classes")


def _check_pilot_factor(factor: float) -> float:
    if not isinstance(factor, int | float) or not factor >= 1:
        raise ValueError(f"got pilot_factor={factor!r}, expected a number, 1 or more; inf keeps all targets")
    return float(factor)


def _block_maxima(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    rows: Tensor,
    logits: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Maxima (N, T, blocks), and which targets went on after the pilot (N, T). Only `rows` are sampled."""
    maxima = torch.zeros(*targets.shape, sampling.blocks, dtype=images.dtype, device=images.device)
    kept = torch.zeros_like(targets, dtype=torch.bool)
    if not len(rows):
        return maxima, kept
    every_column = torch.arange(targets.shape[1], device=images.device)
    _sample(passes, images, labels, targets, rows, every_column, range(1), maxima, sampling, generators)

    margins = (logits.gather(1, labels[:, None]) - logits.gather(1, targets))[rows]
    pilot = margins / maxima[rows, :, 0]
    # A zero gradient makes the pilot score infinite, a broken one NaN. Such a target goes on, to be reported.
    smallest = torch.where(pilot.isnan(), torch.inf, pilot).amin(dim=1, keepdim=True)
    kept[rows] = (pilot <= sampling.pilot_factor * smallest) | ~pilot.isfinite()

    rest = range(1, sampling.blocks)
    counts = kept[rows].sum(dim=1)
    for count in counts.unique().tolist():
        # Images with the same number of targets share batches, so that no backward pass is spent on a filler.
        group = rows[counts == count]
        columns = kept[group].nonzero()[:, 1].view(len(group), count)
        _sample(passes, images, labels, targets, group, columns, rest, maxima, sampling, generators)
    return maxima, kept


def _sample(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    rows: Tensor,
    columns: Tensor,
    blocks: range,
    maxima: Tensor,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> None:
    """Write the maxima of `blocks` for the targets `columns`, shape (T,) or (R, T), of the images `rows`."""
    columns = columns.expand(len(rows), -1)
    count = len(blocks) * sampling.block_size
    owner = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
    norms = torch.empty(len(rows) * count, columns.shape[1], dtype=images.dtype, device=images.device)
    cloud = _Cloud(images, rows, count, sampling, generators)
    for start in range(0, len(owner), sampling.batch_size):
        part = slice(start, start + sampling.batch_size)
        image_of = rows[owner[part]]
        wanted = targets[image_of].gather(1, columns[owner[part]])
        gradients = passes.target_gradients(cloud.points(part), labels[image_of], wanted, image_of)
        for column, gradient in enumerate(gradients):
            norms[part, column] = length(gradient, DUAL[sampling.norm])
    per_block = norms.view(len(rows), len(blocks), sampling.block_size, -1).amax(dim=2)
    for column in range(columns.shape[1]):
        maxima[rows, columns[:, column], blocks.start : blocks.stop] = per_block[:, :, column]


class _Cloud:
    """The sampled points of several images, `count` each, drawn image by image and only as they are needed."""

    def __init__(
        self, images: Tensor, rows: Tensor, count: int, sampling: Sampling, generators: Sequence[torch.Generator]
    ) -> None:
        self.images = images
        self.rows = rows.tolist()
        self.count = count
        self.sampling = sampling
        self.generators = generators
        self.drawn: tuple[int, Tensor] | None = None

    def points(self, part: slice) -> Tensor:
        """Samples `part` of the sequence of all images' samples; parts have to be asked for in order."""
        pieces = []
        start, stop = part.start, min(part.stop, len(self.rows) * self.count)
        while start < stop:
            position, offset = divmod(start, self.count)
            taken = min(stop - start, self.count - offset)
            pieces.append(self._of(position)[offset : offset + taken])
            start += taken
        return torch.cat(pieces)

    def _of(self, position: int) -> Tensor:
        if self.drawn is None or self.drawn[0] != position:
            row, sampling = self.rows[position], self.sampling
            image = self.images[row]
            noise = uniform_in_ball(self.count, image.shape, sampling.norm, self.generators[row], image.dtype)
            self.drawn = position, (image + sampling.radius * noise).clamp(0, 1)
        return self.drawn[1]


def _result(
    maxima: Tensor, kept: Tensor, margins: Tensor, targets: Tensor, rows: Tensor, radius: float, passes: Passes
) -> CleverScores:
    count, device = len(maxima), maxima.device

    def numbers(fill: float, dtype: torch.dtype = maxima.dtype) -> Tensor:
        return torch.full((count,), fill, dtype=dtype, device=device)

    names = ("score", "lower", "upper", "raw", "margin", "lipschitz", "shape", "p_value")
    values = {name: numbers(torch.nan) for name in names}
    flag = {name: numbers(0, torch.bool) for name in FLAGS}
    target = numbers(-1, torch.long)
    status = numbers(Status.MISCLASSIFIED, torch.long)

    largest = maxima.amax(dim=2)
    flag["zero_gradient"] = (kept & (largest == 0)).any(dim=1)
    flag["broken_gradient"] = (kept & ~largest.isfinite()).any(dim=1)
    unavailable = flag["zero_gradient"] | flag["broken_gradient"]
    status[rows] = torch.where(unavailable[rows], Status.UNAVAILABLE, Status.ESTIMATED)
    scored = rows[~unavailable[rows]]
    if len(scored):
        winner = _winning_target(maxima[scored], kept[scored], margins[scored])
        fits, bound = winner.fits, winner.margin
        score = bound / fits.estimate
        values["score"][scored] = score.clamp_max(radius)
        values["lower"][scored] = (bound / fits.upper).clamp_max(radius)
        values["upper"][scored] = (bound / fits.lower).clamp_max(radius)
        values["raw"][scored] = winner.raw
        values["margin"][scored] = bound
        values["lipschitz"][scored] = fits.estimate
        values["shape"][scored] = fits.shape
        values["p_value"][scored] = fits.p_value
        flag["saturated"][scored] = score >= radius
        flag["degenerate_fit"][scored] = fits.degenerate
        flag["no_finite_endpoint"][scored] = fits.no_finite_endpoint
        target[scored] = targets[scored].gather(1, winner.column[:, None]).squeeze(1)
        status[scored[score >= radius]] = Status.SATURATED
    return CleverScores(
        **values, **flag, target=target, status=status, forward=passes.forward, backward=passes.backward
    )


@dataclass(frozen=True)
class _Winner:
    column: Tensor
    margin: Tensor
    raw: Tensor
    fits: EndPoint


def _winning_target(maxima: Tensor, kept: Tensor, margins: Tensor) -> _Winner:
    """The kept target with the smallest score, for each image; all fits in one go."""
    fits = end_point(maxima[kept])
    scores = torch.full_like(margins, torch.inf)
    scores[kept] = margins[kept] / fits.estimate
    column = scores.argmin(dim=1)
    raw = torch.where(kept, margins / maxima.amax(dim=2), torch.inf).amin(dim=1)
    # Where in the list of all fits the winner's stands.
    position = (kept.flatten().cumsum(0) - 1).view(kept.shape).gather(1, column[:, None]).squeeze(1)
    chosen = EndPoint(**{name: value[position] for name, value in vars(fits).items()})
    return _Winner(column, margins.gather(1, column[:, None]).squeeze(1), raw, chosen)
