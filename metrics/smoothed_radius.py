"""Randomized smoothing: the L2 radius within which the majority vote under Gaussian noise provably keeps its class.

Cohen, Rosenfeld & Kolter 2019, https://arxiv.org/abs/1902.02918. The certificate is for the smoothed classifier, not
for the model. The smoothed classifier returns the class that the model gives most often to noisy copies of an image.
The method works for networks of any size, needs forward passes only, and holds with a given probability.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from metrics.checks import check_count, check_number
from metrics.generators import generators_of, moved
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating
from metrics.status import Status

CHUNK = 100
"""Number of noisy copies that are drawn at once. It is fixed, so that the batch size does not change the draws."""


@dataclass(frozen=True, eq=False)
class SmoothedRadii:
    """Certified radii of the smoothed classifier for N images; every tensor has shape (N,), on the images' device.

    Attributes:
        radius: the L2 distance within which every image has the same smoothed class, with probability 1 - alpha,
            float64. It is 0 where the image is misclassified or the classifier abstains.
        predicted: the smoothed class, int64.
        votes: number of counted copies that the model gave this class, int64.
        samples: number of counted copies, int64.
        share: lower confidence bound of the share of copies that get this class, float64.
        status: `Status` numbers: certified, abstained (`share` is not above one half) or misclassified (`share` is
            above one half, and the smoothed class is not the label).
        forward: forward passes spent on each image, int64.
    """

    radius: Tensor
    predicted: Tensor
    votes: Tensor
    samples: Tensor
    share: Tensor
    status: Tensor
    forward: Tensor


def smoothed_radius(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    samples: int | Sequence[int] = 10_000,
    choosing: int = 100,
    alpha: float = 0.001,
    radii: Sequence[float] = (),
    clamp: bool = True,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> SmoothedRadii:
    """Certify, for each image, an L2 radius of the smoothed classifier, the model's majority vote under Gaussian noise.

    A first set of noisy copies chooses the class. A second set counts how often the model gives that class (algorithm
    CERTIFY of the paper, section 3.2.2). Let p be the lower confidence bound of that share by Clopper & Pearson (1934).
    Where p is above one half, the radius is sigma * quantile(p) of the normal distribution.

    With several sample sizes, such as `samples=(1_000, 10_000)`, sampling stops at the first size that decides which of
    `radii` are certified: either all are, or the remaining copies are unlikely to certify another. Each size is a
    separate test, so each gets an equal part of alpha, and the best bound counts.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        sigma: standard deviation of the noise, in units of the image range [0, 1].
        samples: number of copies that are counted; or several increasing numbers, at each of which sampling may stop.
        choosing: number of copies that choose the class.
        alpha: probability that the certificate is wrong, for each image.
        radii: the radii for which you need to know whether an image is certified. Without any, the whole sample is
            drawn.
        clamp: whether noisy copies are clamped to [0, 1], so that the model sees only valid images. The paper does not
            clamp. The certificate is for the smoothed classifier with the chosen setting.
        seed: one seed for all images, or one for each. An image gets the same noise in any batch.
        batch_size: the most copies that pass through the model at once.

    Returns:
        Radii, classes, votes, statuses, and the passes spent: two to check the model, `choosing`, and the counted ones.

    Raises:
        ValueError: for bad input. The message gives what was got and what was expected.

    Example:
        A linear model, whose radius comes near to margin / L2 norm of the weights: here 0.2 / sqrt(2) = 0.1414.

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.7, 0.5]).view(1, 1, 1, 2)
        >>> found = smoothed_radius(model, image, torch.tensor([0]), sigma=0.1, samples=10_000)
        >>> 0.13 < float(found.radius) < 0.1414
        True
    """
    sigma = check_number("sigma", sigma, above=0)
    sizes = _checked_sizes(samples)
    choosing = check_count("choosing", choosing, 1)
    if not 0 < check_number("alpha", alpha, above=0) < 1:
        raise ValueError(f"got alpha={alpha!r}, expected a number between 0 and 1")
    wanted = sorted(check_number("radii", radius, above=0) for radius in radii)
    batch_size = check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)
    generators = generators_of(seed, len(images))
    with differentiating(model):
        passes = Passes(model, len(images), images.device)
        classes = checked_logits(passes, images, labels, torch.arange(len(images), device=images.device)).shape[1]
        votes = [
            _Votes(passes, images, row, generator, sigma, classes, batch_size, clamp=clamp)
            for row, generator in enumerate(generators)
        ]
        found = [_certify(of_image, sizes, choosing, alpha, sigma, wanted) for of_image in votes]
    return _result(found, labels, sigma, passes)


@dataclass(frozen=True)
class _Vote:
    """The vote for one image."""

    predicted: int
    votes: int
    samples: int
    share: float


class _Votes:
    """Counts the classes of noisy copies of one image. All copies come from one random stream."""

    def __init__(
        self,
        passes: Passes,
        images: Tensor,
        row: int,
        generator: torch.Generator,
        sigma: float,
        classes: int,
        batch_size: int,
        *,
        clamp: bool,
    ) -> None:
        self.passes, self.image, self.row = passes, images[row], row
        self.generator, self.sigma, self.classes = generator, sigma, classes
        self.batch_size, self.clamp = batch_size, clamp

    def count(self, copies: int) -> Tensor:
        """Draw new copies, and return how many of them get each class, int64, shape (K,)."""
        counts = torch.zeros(self.classes, dtype=torch.long, device=self.image.device)
        for noisy in self._copies(copies):
            rows = torch.full((len(noisy),), self.row, device=noisy.device)
            counts.index_add_(0, self.passes.logits(noisy, rows).argmax(dim=1), torch.ones_like(rows))
        return counts

    def _copies(self, count: int) -> list[Tensor] | tuple[Tensor, ...]:
        chunks = [self._chunk(min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
        return torch.cat(chunks).split(self.batch_size)

    def _chunk(self, count: int) -> Tensor:
        noise = torch.randn((count, *self.image.shape), generator=self.generator, dtype=self.image.dtype)
        noisy = self.image + self.sigma * moved(noise, self.image.device)
        return noisy.clamp(0, 1) if self.clamp else noisy


DRAWN_AT_ONCE = 1_000
"""Copies of an image that are in memory at once, at most."""


def _certify(
    of_image: _Votes, sizes: Sequence[int], choosing: int, alpha: float, sigma: float, wanted: Sequence[float]
) -> _Vote:
    predicted = int(of_image.count(choosing).argmax())
    votes, drawn, best = 0, 0, 0.0
    for size in sizes:
        while drawn < size:
            new = min(DRAWN_AT_ONCE, size - drawn)
            votes += int(of_image.count(new)[predicted])
            drawn += new
        best = max(best, share_at_least(votes, drawn, alpha / len(sizes)))
        # Stopping is sound at any size. Stop where even an optimistic share of the remaining copies certifies no more.
        hoped = math.ceil(share_at_most(votes, drawn, alpha) * (sizes[-1] - drawn))
        possible = max(best, share_at_least(votes + hoped, sizes[-1], alpha / len(sizes)))
        certified = sum(radius <= radius_of(best, sigma) for radius in wanted)
        if wanted and certified == sum(radius <= radius_of(possible, sigma) for radius in wanted):
            break
    return _Vote(predicted, votes, drawn, best)


def share_at_least(votes: int, samples: int, alpha: float) -> float:
    """Return a lower confidence bound of the share, which is too large with probability alpha at most.

    Clopper & Pearson 1934, one-sided.

    Example:
        >>> round(share_at_least(1000, 1000, 0.001), 6) == round(0.001 ** (1 / 1000), 6)
        True
    """
    return float(scipy.stats.beta.ppf(alpha, votes, samples - votes + 1)) if votes else 0.0


def share_at_most(votes: int, samples: int, alpha: float) -> float:
    """Return an upper confidence bound of the share, which is too small with probability alpha at most.

    Example:
        >>> share_at_most(1000, 1000, 0.001)
        1.0
    """
    return float(scipy.stats.beta.ppf(1 - alpha, votes + 1, samples - votes)) if votes < samples else 1.0


def radius_of(share: float, sigma: float) -> float:
    """Return the radius for a share of the votes; 0 if the share is not above one half (theorem 1 of the paper).

    Example:
        >>> round(radius_of(0.99, 0.25), 4), radius_of(0.5, 0.25)
        (0.5816, 0.0)
    """
    return sigma * float(scipy.stats.norm.ppf(share)) if share > 0.5 else 0.0


def _result(found: Sequence[_Vote], labels: Tensor, sigma: float, passes: Passes) -> SmoothedRadii:
    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=labels.device)

    statuses = [_status(vote, label) for vote, label in zip(found, labels.tolist(), strict=True)]
    radii = [
        radius_of(vote.share, sigma) if status is Status.CERTIFIED else 0.0
        for vote, status in zip(found, statuses, strict=True)
    ]
    return SmoothedRadii(
        radius=column(radii, torch.float64),
        predicted=column([vote.predicted for vote in found], torch.long),
        votes=column([vote.votes for vote in found], torch.long),
        samples=column([vote.samples for vote in found], torch.long),
        share=column([vote.share for vote in found], torch.float64),
        status=column(statuses, torch.long),
        forward=passes.forward,
    )


def _status(vote: _Vote, label: int) -> Status:
    if vote.share <= 0.5:
        return Status.ABSTAINED
    return Status.CERTIFIED if vote.predicted == label else Status.MISCLASSIFIED


def _checked_sizes(samples: int | Sequence[int]) -> list[int]:
    given = list(samples) if isinstance(samples, list | tuple) else [samples]
    sizes = [check_count("samples", size, 1) for size in given]
    if not sizes or any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
        raise ValueError(f"got samples={samples!r}, expected a whole number, or several that increase")
    return sizes
