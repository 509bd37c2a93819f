"""How probable it is that random noise changes the label, far below one in the number of passes.

Multilevel splitting with the last particle (Guyader, Hengartner & Matzner-Lober 2011, Applied Mathematics and
Optimization 64; Webb et al. 2019, https://arxiv.org/abs/1811.07209; Tit, Furon & Rousset 2021, "Efficient statistical
assessment of neural network corruption robustness", NeurIPS): noisy images, the particles, are pushed towards the label
change. In each level, the particle with the largest margin is replaced by a copy of another, which moves at random
where the margin is smaller. For a probability p and n particles, the number of levels until all of them have changed
the label has a Poisson distribution with mean n log(1 / p), if the moved copy is independent of the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import scipy
import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count, check_number
from metrics.generators import generators_of, moved
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status

Noise = Literal["gaussian", "linf", "l2", "l1"]

NOISES: tuple[Noise, ...] = ("gaussian", "linf", "l2", "l1")
"""`gaussian`: normal with the strength as standard deviation. The others: uniform in the ball whose radius is the
strength."""

ACCEPTED = 0.3
"""Share of random moves that should be accepted: the moves get longer above it, and shorter below."""

STUCK = 5
"""Without an accepted move in this many levels for each particle, the margin does not tell a direction: it is flat."""


@dataclass(frozen=True, eq=False)
class FailureProbabilities:
    """Probabilities that noise changes the label of N images. Every tensor has shape (N,).

    Attributes:
        probability: the estimate, 1 if all first particles have another label. Where `below`, it is no estimate but
            shows how far the sampling went. NaN where there is none: see `status`.
        lower: lower end of its interval; 0 where `below`.
        upper: upper end of its interval.
        below: whether the probability is shown to be below `least`. The sampling then ended.
        levels: number of particles that were replaced.
        status: `Status` numbers: estimated, censored (below `least`), misclassified (without noise), or unavailable
            (the margin is flat, so no move is accepted).
        forward: forward passes spent on each image.
    """

    probability: Tensor
    lower: Tensor
    upper: Tensor
    below: Tensor
    levels: Tensor
    status: Tensor
    forward: Tensor


def failure_probability(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    noise: Noise,
    strength: float,
    least: float = 1e-6,
    particles: int = 16,
    moves: int = 20,
    confidence: float = 0.95,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> FailureProbabilities:
    """Estimate the probability that random noise changes the label of an image, or show that it is below `least`.

    Plain draws of noise say nothing below about 3 / their number. Here the passes grow with the logarithm of the
    probability: about `particles` * `moves` * log(1 / probability).

    The interval is that of the Poisson mean of the number of levels. It holds if `moves` random moves are enough to
    make a copy independent, which nothing proves: more moves are safer. Where regions with another label are separate,
    particles may miss some of them, and the probability is then too small.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        noise: "gaussian", or the norm of the ball: "linf", "l2" or "l1". Noisy images are clamped to [0, 1].
        strength: standard deviation, or radius of the ball, in units of the image range.
        least: the smallest probability of interest.
        particles: number of particles, 2 or more. The logarithm of the estimate has a standard deviation of about
            sqrt(log(1 / probability) / particles).
        moves: random moves of each copy.
        confidence: level of the interval; the test that the probability is below `least` errs in at most half of the
            remaining cases.
        seed: one seed for all images, or one for each. An image gets the same result in any batch.
        batch_size: the most images that pass through the model at once.

    Raises:
        ValueError: for bad input. The message gives what was got and what was expected.

    Example:
        The margin is the first value, 0.45, minus 0.05. It falls to 0 with probability Phi(-0.4 / 0.1) = 3.2e-5.

        >>> model = lambda images: images.flatten(1) - torch.tensor([0.05, 0.0])
        >>> image, label = torch.tensor([0.45, 0.0]).view(1, 1, 1, 2), torch.tensor([0])
        >>> only_first = lambda images: model(images * torch.tensor([1.0, 0.0]))
        >>> found = failure_probability(only_first, image, label, noise="gaussian", strength=0.1)
        >>> bool(found.lower < 3.2e-5 < found.upper), int(found.levels) < int(found.forward)
        (True, True)
    """
    check_choice("noise", noise, NOISES)
    check_number("strength", strength, above=0)
    check_count("particles", particles, 2)
    check_count("moves", moves, 1)
    check_count("batch_size", batch_size, 1)
    for name, share in (("least", least), ("confidence", confidence)):
        check_number(name, share, above=0)
        if share >= 1:
            raise ValueError(f"got {name}={share!r}, expected a number above 0 and below 1")
    check_images(images, labels)
    check_model(model)
    generators_of(seed, len(images))
    most = _levels_that_show(least, particles, confidence)

    def measured(first: int, last: int) -> FailureProbabilities:
        rows = slice(first, last)
        # Made anew: a batch that is measured again, in halves, gets the same noise.
        generators = generators_of(seed, len(images))[rows]
        splitting = _Splitting(model, images[rows], labels[rows], noise, strength, particles, moves, generators)
        return _result(splitting, splitting.levels(most), most, confidence)

    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
        return concatenate([part for _, part in halving_batches(measured, len(images), batch_size)])


def noise_of(latent: Tensor, noise: Noise, size: int) -> Tensor:
    """Turn standard normal vectors, shape (N, `latent_size`), into noise of strength 1, shape (N, size).

    L2: of d + 2 normal numbers divided by their norm, the first d are uniform in the ball. L1: of d + 1 Laplace numbers
    divided by the sum of their magnitudes, the first d are (Barthe et al. 2005).
    """
    if noise == "gaussian":
        return latent
    if noise == "linf":
        return torch.erf(latent / math.sqrt(2))
    if noise == "l2":
        return latent[:, :size] / torch.linalg.vector_norm(latent, dim=1, keepdim=True)
    magnitudes = -torch.log(torch.erfc(latent.abs() / math.sqrt(2)).clamp_min(torch.finfo(latent.dtype).tiny))
    return (latent.sign() * magnitudes)[:, :size] / magnitudes.sum(dim=1, keepdim=True)


def latent_size(noise: Noise, size: int) -> int:
    """The number of normal numbers behind the noise of an image with `size` values."""
    return size + {"gaussian": 0, "linf": 0, "l2": 2, "l1": 1}[noise]


class _Splitting:
    """The particles of R images, and how they are replaced."""

    def __init__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        noise: Noise,
        strength: float,
        particles: int,
        moves: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.passes = Passes(model, len(images), images.device)
        self.images, self.labels, self.noise, self.strength = images, labels, noise, strength
        self.moves, self.generators = moves, generators
        self.rows = torch.arange(len(images), device=images.device)
        self.correct = margin(checked_logits(self.passes, images, labels, self.rows), labels) > 0
        self.size = latent_size(noise, images[0].numel())
        some = self.correct.nonzero().flatten()
        self.latent = images.new_zeros(len(images), particles, self.size)
        self.margins = images.new_zeros(len(images), particles)
        if len(some):
            self.latent[some] = self._normal(particles, some)
            for one in range(particles):
                self.margins[some, one] = self._margins(self.latent[some, one], some)
        self.length = torch.ones_like(self.margins[:, 0])
        self.still = torch.zeros_like(labels)

    def levels(self, most: int) -> Tensor:
        """Replace particles, at most `most` for each image, and return how many were, shape (R,).

        An image ends when all its particles have another label, or when its particles are stuck.
        """
        levels = torch.zeros_like(self.labels)
        while True:
            going = ((self.margins > 0).any(dim=1) & (levels < most) & ~self.stuck()).nonzero().flatten()
            if not len(going):
                return levels
            self._replace(going)
            levels[going] += 1

    def stuck(self) -> Tensor:
        """Whether no move was accepted for too long, bool, shape (R,)."""
        return self.still >= STUCK * self.margins.shape[1]

    def _replace(self, going: Tensor) -> None:
        """Replace the particle with the largest margin by a copy of another one, and move that."""
        count = self.margins.shape[1]
        limits, worst = self.margins[going].max(dim=1)
        drawn = [torch.randint(1, count, (1,), generator=self.generators[row]) for row in going.tolist()]
        source = (worst + moved(torch.cat(drawn), worst.device)) % count
        latent, margins = self.latent[going, source], self.margins[going, source]
        steps = self._normal(self.moves, going)
        accepted = torch.zeros_like(margins)
        for step in steps.unbind(dim=1):
            # A move that keeps the normal distribution: an autoregressive step.
            length = self.length[going, None]
            proposed = (latent + length * step) / (1 + length**2).sqrt()
            there = self._margins(proposed, going)
            better = there < limits
            latent = torch.where(better[:, None], proposed, latent)
            margins, accepted = torch.where(better, there, margins), accepted + better
        self.latent[going, worst], self.margins[going, worst] = latent, margins
        longer = accepted / self.moves > ACCEPTED
        self.length[going] *= torch.where(longer, 1.1, 1 / 1.1)
        self.still[going] = torch.where(accepted > 0, 0, self.still[going] + 1)

    def _normal(self, count: int, some: Tensor) -> Tensor:
        dtype = self.images.dtype
        drawn = [torch.randn(count, self.size, generator=self.generators[row], dtype=dtype) for row in some.tolist()]
        return moved(torch.stack(drawn), some.device)

    def _margins(self, latent: Tensor, some: Tensor) -> Tensor:
        images = self.images[some]
        noise = self.strength * noise_of(latent, self.noise, images[0].numel()).view_as(images)
        return margin(self.passes.logits((images + noise).clamp(0, 1), some), self.labels[some])


def _result(splitting: _Splitting, levels: Tensor, most: int, confidence: float) -> FailureProbabilities:
    particles = splitting.margins.shape[1]
    changed = (splitting.margins <= 0).all(dim=1)
    below, stuck = ~changed & (levels >= most), ~changed & (levels < most)
    spent = levels.cpu().double().numpy()
    tail = (1 - confidence) / 2
    largest_mean = torch.from_numpy(scipy.stats.chi2.isf(tail, 2 * spent + 2) / 2).to(splitting.margins)
    smallest_mean = torch.from_numpy(scipy.stats.chi2.ppf(tail, 2 * spent.clip(0.5)) / 2).to(splitting.margins)
    smallest_mean = torch.where(levels > 0, smallest_mean, 0)
    numbers = {
        "probability": (levels.to(largest_mean) * math.log1p(-1 / particles)).exp(),
        "lower": torch.where(below, 0, (-largest_mean / particles).exp()),
        "upper": (-smallest_mean / particles).exp(),
    }
    status = torch.full_like(levels, Status.ESTIMATED)
    status = status.masked_fill(below, Status.CENSORED).masked_fill(stuck, Status.UNAVAILABLE)
    nothing = stuck | ~splitting.correct
    return FailureProbabilities(
        **{name: torch.where(nothing, torch.nan, number) for name, number in numbers.items()},
        below=below,
        levels=levels,
        status=status.masked_fill(~splitting.correct, Status.MISCLASSIFIED),
        forward=splitting.passes.forward,
    )


def _levels_that_show(least: float, particles: int, confidence: float) -> int:
    """The smallest number of levels that shows a probability below `least`: the upper end of its interval is."""
    mean, tail = particles * math.log(1 / least), (1 - confidence) / 2
    levels = math.ceil(mean)
    while scipy.stats.chi2.ppf(tail, 2 * levels) / 2 <= mean:
        levels += 1
    return levels
