"""The certified distance: a proved lower bound of the distance to the nearest image of another class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count, check_number
from metrics.linear_bounds import Ball, Bounds, Program, Unsupported, bounds_of, least_margins, program_of
from metrics.linear_bounds.interval import Interval
from metrics.norms import Norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status

CERTIFIED_NORMS: tuple[Norm, ...] = ("linf", "l2")
METHODS = ("crown", "interval")
ROWS_FOR_EACH_IMAGE = 32
"""Rows of coefficients that are propagated at once, for each image of a batch."""

TRIALS = 16
"""The most radii that are tried for an image."""

TOO_LARGE = "the network is too large for the budget"


@dataclass(frozen=True)
class CertifiedDistances:
    """The certified distances of N images; every tensor is on the device of the images.

    Attributes:
        distance: the certified radius, shape (N,): no image of the box within this distance is of another class. It is
            0 where the image itself is misclassified, and NaN where there is no certificate.
        failed: the smallest radius that was tried and could not be certified, shape (N,); infinite if no radius failed.
        status: `Status` numbers, shape (N,): certified, misclassified or unavailable.
        trials: radii that were tried, shape (N,).
        forward: forward passes spent on each image, shape (N,).
        backward: cost of propagating the linear bounds, in backward passes through the whole network, rounded up, shape
            (N,).
        reasons: why there is no certificate, one for each image; empty where there is one, or where the image is
            misclassified.
    """

    distance: Tensor
    failed: Tensor
    status: Tensor
    trials: Tensor
    forward: Tensor
    backward: Tensor
    reasons: tuple[str, ...]


def certified_distance(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    method: str = "crown",
    tolerance: float = 0.02,
    budget: float = 1e11,
    batch_size: int = 16,
) -> CertifiedDistances:
    """Prove, for each image, a radius within which no image of the box [0, 1] is of another class.

    For a given radius, intervals and linear bounds of every layer (CROWN, Zhang et al. 2018) give lower bounds of the
    margins to all other classes. The radius is certified if all of them are above 0. An interpolation searches for the
    largest such radius, for all images of a batch at once.

    The result is a lower bound of the true distance, for the network as it is computed in the precision of the images:
    see `metrics.linear_bounds.rounding`. A small certificate does not mean that there is an adversarial example nearby,
    because the bounds get looser with depth.

    Supported operations are linear layers, convolutions, batch normalisation, average and max pooling, ReLU and leaky
    ReLU, hard tanh, sigmoid, tanh, SiLU, GELU, softplus, ELU, sums, concatenations, and operations that only move
    values or combine them with constants. They may form any graph that `torch.export` can read.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf" or "l2".
        method: "crown", or "interval" for intervals alone. Intervals are fast, but useless except for networks that are
            trained for them.
        tolerance: the search ends within this share of the largest radius that can be certified. Another batch size may
            change the result within the tolerance.
        budget: the most multiplications for an image, over all radii: 1e11 take about 5 seconds on one core. Networks
            that need more are unavailable. Unlike a time limit, the budget gives the same image the same result in
            every run.
        batch_size: number of images that are bounded at once. Memory is proportional to it. It is halved when memory
            runs out.

    Raises:
        ValueError: for an unknown norm or method; images outside [0, 1] or not finite; labels that are not classes of
            the model; a model in training mode; outputs that are probabilities or not deterministic.

    Example:
        A linear model, whose distance is margin / dual norm of the weights: here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> result = certified_distance(model, image, torch.tensor([0]), norm="linf", tolerance=1e-3)
        >>> round(float(result.distance), 3)
        0.3
    """
    check_choice("norm", norm, CERTIFIED_NORMS)
    check_choice("method", method, METHODS)
    if not check_number("tolerance", tolerance, above=0) < 1:
        raise ValueError(f"got tolerance={tolerance!r}, expected less than 1")
    check_number("budget", budget, above=0)
    check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)

    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
        counter = FlopCounterMode(display=False)
        with counter:
            clean, forward = clean_logits(model, images, labels, batch_size)
        # Each radius costs at least a row of coefficients for the margin to each class, through the whole network.
        least = (clean.shape[1] - 1) * counter.get_total_flops() / 2 / float(forward.sum())
        if method == "crown" and least > START_SHARE * budget:
            return _unavailable(labels, clean, forward, TOO_LARGE)
        try:
            program = checked_program(model, images, clean, batch_size)
        except Unsupported as unsupported:
            return _unavailable(labels, clean, forward, str(unsupported))

        def measure(first: int, last: int) -> CertifiedDistances:
            part = slice(first, last)
            trial = _Trial(program, images[part], labels[part], norm, method, budget)
            return _searched(trial, clean[part], forward[part], tolerance)

        with torch.no_grad():
            return concatenate([part for _, part in halving_batches(measure, len(images), batch_size)])


def clean_logits(model: Model, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The checked logits of the images, and the forward passes that it took."""

    def measure(first: int, last: int) -> tuple[Tensor, Tensor]:
        part = slice(first, last)
        passes = Passes(model, last - first, images.device)
        rows = torch.arange(last - first, device=images.device)
        return checked_logits(passes, images[part], labels[part], rows), passes.forward

    logits, forward = zip(*(part for _, part in halving_batches(measure, len(images), batch_size)), strict=True)
    return torch.cat(logits), torch.cat(forward)


def checked_program(model: Model, images: Tensor, clean: Tensor, batch_size: int) -> Program:
    """Return the program of a model, after a check that it reproduces the model's logits.

    Raises:
        Unsupported: if there are no bounds for the model or the type of its weights, or the program gives other logits.
    """
    for weights in model.parameters() if isinstance(model, nn.Module) else []:
        if weights.is_floating_point() and weights.dtype.itemsize < 4:
            raise Unsupported(
                f"there are bounds for float32 and float64 only, and the model has weights of {weights.dtype}"
            )
    program = program_of(model, images[0])
    with torch.no_grad():
        again = torch.cat([program.apply(batch) for batch in images.split(batch_size)])
    difference = (again - clean).abs().amax() / clean.abs().amax().clamp_min(1e-30)
    if again.shape != clean.shape or not difference <= max(1e3 * torch.finfo(clean.dtype).eps, 1e-10):
        raise Unsupported(f"the graph that torch.export reads gives other logits than the model, by {difference:.1%}")
    return program


def _unavailable(labels: Tensor, clean: Tensor, forward: Tensor, reason: str) -> CertifiedDistances:
    wrong = margin(clean, labels) <= 0
    return CertifiedDistances(
        distance=torch.where(wrong, 0.0, torch.full_like(clean[:, 0], torch.nan)),
        failed=torch.full_like(clean[:, 0], torch.inf),
        status=torch.where(wrong, int(Status.MISCLASSIFIED), int(Status.UNAVAILABLE)),
        trials=torch.zeros_like(labels),
        forward=forward,
        backward=torch.zeros_like(labels),
        reasons=tuple("" if each else reason for each in wrong.tolist()),
    )


class _Trial:
    """Tries radii on N images, and keeps the bounds of the smallest radii that failed: they hold for smaller radii."""

    def __init__(
        self, program: Program, images: Tensor, labels: Tensor, norm: Norm, method: str, budget: float
    ) -> None:
        self.program, self.images, self.labels, self.norm = program, images, labels, norm
        self.crown, self.budget = method == "crown", budget
        self.rows_at_once = ROWS_FOR_EACH_IMAGE * len(images)
        self.known: list[Interval] | None = None
        self.cost = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        self.exhausted = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def least_margin(self, rows: Tensor, radii: Tensor, share: float = 1.0) -> Tensor:
        """Return a lower bound of the margin of the images `rows` within their `radii`; -inf where it is too costly.

        All trials of an image so far, including this one, may cost at most `share` of the budget.
        """
        ball = Ball(self.images[rows], radii.to(self.images.dtype), self.norm)
        known = None if self.known is None else [interval.rows(rows) for interval in self.known]
        bounds = bounds_of(
            self.program,
            ball,
            known=known,
            rows_at_once=self.rows_at_once,
            budget=share * self.budget - self.cost[rows],
            crown=self.crown,
        )
        least = least_margins(bounds, self.labels[rows], linear=self.crown).amin(dim=1)
        self.cost[rows] += bounds.cost
        self.exhausted[rows] |= bounds.exhausted
        # Where the bounds overflow there is no bound.
        least = torch.where(bounds.exhausted | least.isnan(), -torch.inf, least)
        self._remember(bounds, rows, least <= 0)
        return least

    def _remember(self, bounds: Bounds, rows: Tensor, failed: Tensor) -> None:
        if self.known is None:
            self.known = [
                Interval(
                    *(
                        end.new_full((len(self.images), *end.shape[1:]), bound)
                        for end, bound in zip(ends, (-torch.inf, torch.inf), strict=True)
                    )
                )
                for ends in bounds.intervals
            ]
        # One index for all: a GPU waits for each boolean one.
        which = failed.nonzero().flatten()
        images = rows[which]
        for known, new in zip(self.known, bounds.intervals, strict=True):
            for ends, tighter in zip(known, new, strict=True):
                ends[images] = tighter[which]


START = {"linf": 1e-4, "l2": 1e-3}
"""The first radius. It is so small that hardly any activation is undecided, so it is cheap and its slope is useful."""

START_SHARE = 1 / 8
"""The share of the budget that the first radius may cost. The whole search costs 6 to 16 times as much as the first
radius (WideResNet-10-1, two CNNs). Where the first radius costs more than this share, the budget would not last, so the
search ends early and saves most of it."""


@dataclass
class _Bracket:
    """The least margin as a function of the radius, as far as it is known, for N images.

    Attributes:
        margin: the margin at radius 0.
        earlier: the second largest radius that was certified.
        lower: the largest radius that was certified.
        upper: the smallest radius that failed.
    """

    margin: Tensor
    earlier: Tensor
    lower: Tensor
    upper: Tensor
    at_earlier: Tensor
    at_lower: Tensor
    at_upper: Tensor

    @classmethod
    def around(cls, margins: Tensor) -> "_Bracket":
        """Return the bracket before any radius has been tried."""
        zero, endless = torch.zeros_like(margins), torch.full_like(margins, torch.inf)
        return cls(margins, zero, zero.clone(), endless, margins.clone(), margins.clone(), -endless)

    def take(self, rows: Tensor, radii: Tensor, least: Tensor) -> None:
        """Record the least margins of the images `rows` within their `radii`."""
        positive, not_positive = (least > 0).nonzero().flatten(), (least <= 0).nonzero().flatten()
        held, broken = rows[positive], rows[not_positive]
        self.earlier[held], self.at_earlier[held] = self.lower[held], self.at_lower[held]
        self.lower[held], self.at_lower[held] = radii[positive], least[positive]
        self.upper[broken], self.at_upper[broken] = radii[not_positive], least[not_positive]

    def next(self, tolerance: float) -> Tensor:
        """Return the next radius to try: a little below the one where the least margin is expected to reach 0.

        The margin is roughly a concave function of the radius. Where a radius has failed, the estimate is the root of a
        parabola through the two largest certified radii and the smallest failed one. Otherwise it is the root of the
        line through the two certified radii, or a point halfway to it where the line cannot be trusted yet.
        """
        line = (self.at_lower - self.at_earlier) / (self.lower - self.earlier)
        beyond = self.lower - self.at_lower / line.clamp_max(-1e-30)
        # Bounds explode at large radii: their value there says nothing about the radius at which they begin to fail.
        at_upper = torch.maximum(self.at_upper, -self.margin)
        bend = ((at_upper - self.at_lower) / (self.upper - self.lower) - line) / (self.upper - self.earlier)
        slope = line + bend * (self.lower - self.earlier)
        # The root beyond `lower`, in a form that stays accurate for a small bend.
        discriminant = (slope.square() - 4 * bend * self.at_lower).clamp_min(0).sqrt()
        root = self.lower + 2 * self.at_lower / (discriminant - slope)
        middle = (self.lower + self.upper) / 2
        root = torch.where((root > self.lower) & (root < self.upper), root, middle)
        # The line may be trusted where it has bent little so far, or where its points are near.
        first = (self.at_earlier - self.margin) / self.earlier
        straight = (line - first).abs() < 0.01 * first.abs()
        ahead = torch.where(straight | (self.earlier > self.lower / 4), beyond, (self.lower + beyond) / 2)
        aimed = torch.where(self.upper.isinf(), ahead, root) * (1 - tolerance / 2)
        # There is no parabola where the failed radius has no margin (too costly, or no finite bound): bisect the log.
        costly = self.at_upper.isinf() & self.upper.isfinite()
        aimed = torch.where(costly, (self.lower * self.upper).sqrt(), aimed)
        return torch.where(self.lower > 0, aimed, self.upper / 8)


def _searched(trial: _Trial, clean: Tensor, forward: Tensor, tolerance: float) -> CertifiedDistances:
    """The largest radius of each image whose least margin is positive, by interpolation."""
    margins = margin(clean, trial.labels).double()
    bracket, trials = _Bracket.around(margins), torch.zeros_like(trial.labels)
    farthest = 1.0 if trial.norm == "linf" else float(trial.images[0].numel()) ** 0.5
    radii = torch.full_like(margins, START[trial.norm])
    going_on = margins > 0
    for number in range(TRIALS):
        rows = going_on.nonzero().flatten()
        if not len(rows):
            break
        # Round before the trial, so that exactly the reported radius is tried.
        radii = radii.clamp_max(farthest).to(clean.dtype).double()
        least = trial.least_margin(rows, radii[rows], START_SHARE if number == 0 else 1.0)
        bracket.take(rows, radii[rows], least)
        trials[rows] += 1
        if number == 0:
            going_on &= ~trial.exhausted
        radii = bracket.next(tolerance)
        near = torch.minimum(radii, bracket.upper) <= bracket.lower * (1 + tolerance)
        # A certificate far below the first radius would be useless, so stop there.
        going_on &= ~near & (bracket.lower < farthest) & (radii >= START[trial.norm] / 100)
    certified, wrong = bracket.lower > 0, margins <= 0
    status = torch.where(certified, int(Status.CERTIFIED), int(Status.UNAVAILABLE))
    return CertifiedDistances(
        distance=torch.where(certified | wrong, bracket.lower, torch.nan).to(clean.dtype),
        failed=bracket.upper.to(clean.dtype),
        status=torch.where(wrong, int(Status.MISCLASSIFIED), status),
        trials=trials,
        forward=forward,
        backward=(trial.cost / trial.program.costs()[-1]).ceil().long(),
        reasons=tuple(
            "" if one else TOO_LARGE if spent else "no radius could be certified"
            for one, spent in zip((certified | wrong).tolist(), trial.exhausted.tolist(), strict=True)
        ),
    )
