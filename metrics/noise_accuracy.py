"""Accuracy under random Lp noise: how often images keep their right label when noise of a given norm is added.

Random noise is not an attack. The accuracy measures what corruption training trains for, and what CLEVER's samples see.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count
from metrics.generators import generators_of, moved
from metrics.norms import DUAL, Norm, per_row, uniform_in_ball, vector_norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate

Sampling = Literal["ball", "sphere"]


@dataclass(frozen=True, eq=False)
class NoiseAccuracies:
    """Shares of noisy images that are classified correctly, for N images and E strengths.

    Attributes:
        accuracy: share of the samples with the right label, shape (N, E), in [0, 1].
        clean: whether the image itself is classified correctly, bool, shape (N,).
        samples: number of noisy images for each image and strength, int64, shape (N,).
        forward: forward passes spent on each image, int64, shape (N,).
    """

    accuracy: Tensor
    clean: Tensor
    samples: Tensor
    forward: Tensor


def noise_accuracy(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilons: Sequence[float],
    sampling: Sampling = "sphere",
    samples: int = 10,
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> NoiseAccuracies:
    """Measure the accuracy of a model on images with random noise of a given norm, at several strengths.

    Each image has `samples` draws of its own. Every strength scales the same draws, so strengths and models are
    compared on the same noise. The noisy images are clamped to [0, 1].

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf", "l2" or "l1".
        epsilons: strengths, each a positive radius of the ball or sphere, in units of the image range.
        sampling: "ball": uniform in the ball of radius epsilon. In many dimensions nearly all L2 and L1 noise is near
            the surface; in L-infinity each value is uniform in [-epsilon, epsilon]. "sphere": uniform on the surface.
        samples: number of draws for each image.
        seed: one seed for all images, or one for each. An image gets the same noise in any batch.
        batch_size: the most noisy images that pass through the model at once. It is halved when memory runs out.

    Raises:
        ValueError: for bad input. The message gives what was got and what was expected.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False)).eval()
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]))
        >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
        >>> noise_accuracy(model, image, label, norm="linf", epsilons=[0.5]).accuracy
        tensor([[1.]])
    """
    check_choice("norm", norm, DUAL)
    check_choice("sampling", sampling, get_args(Sampling))
    strengths = _checked_epsilons(epsilons)
    samples = check_count("samples", samples, 1)
    batch_size = check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)
    generators_of(seed, len(images))

    def measure(first: int, last: int) -> NoiseAccuracies:
        rows = slice(first, last)
        # Made anew: a batch that is measured again, in halves, gets the same noise.
        generators = generators_of(seed, len(images))[rows]
        return _measure(model, images[rows], labels[rows], norm, strengths, sampling, samples, generators)

    with differentiating(model):
        parts = halving_batches(measure, len(images), max(1, batch_size // samples))
    return concatenate([part for _, part in parts])


def _measure(
    model: Model,
    images: Tensor,
    labels: Tensor,
    norm: Norm,
    strengths: Sequence[float],
    sampling: Sampling,
    samples: int,
    generators: Sequence[torch.Generator],
) -> NoiseAccuracies:
    passes = Passes(model, len(images), images.device)
    rows = torch.arange(len(images), device=images.device)
    clean = margin(checked_logits(passes, images, labels, rows), labels) > 0
    right = torch.zeros(len(images), len(strengths), dtype=torch.long, device=images.device)
    draws = [unit_noise(samples, images.shape[1:], norm, sampling, one, images.dtype) for one in generators]
    noise = moved(torch.stack(draws), images.device)
    for column, strength in enumerate(strengths):
        noisy = (images[:, None] + strength * noise).clamp(0, 1).flatten(0, 1)
        of_image = rows.repeat_interleave(samples)
        kept = margin(passes.logits(noisy, of_image), labels[of_image]) > 0
        right[:, column] = kept.view(len(images), samples).sum(dim=1)
    drawn = torch.full_like(rows, samples)
    return NoiseAccuracies(right.to(images.dtype) / samples, clean, drawn, passes.forward)


def unit_noise(
    count: int, shape: Sequence[int], norm: Norm, sampling: Sampling, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """Draw `count` points uniformly in the ball of radius 1, or on its surface, shape (count, *shape).

    A point of the ball divided by its norm is uniform on the surface, because cone measure and surface measure are the
    same in L1, L2 and L-infinity (Naor & Romik 2003).

    Example:
        >>> points = unit_noise(3, (1, 2, 2), "l1", "sphere", torch.Generator().manual_seed(0), torch.float64)
        >>> vector_norm(points, "l1")
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    points = uniform_in_ball(count, shape, norm, generator, dtype)
    if sampling == "ball":
        return points
    return points / per_row(vector_norm(points, norm), points).clamp_min(torch.finfo(dtype).tiny)


def _checked_epsilons(epsilons: Sequence[float]) -> list[float]:
    try:
        strengths = [float(epsilon) for epsilon in epsilons]
    except (TypeError, ValueError):
        strengths = []
    if not strengths or not all(0 < strength < math.inf for strength in strengths):
        raise ValueError(f"got epsilons={epsilons!r}, expected one or more positive numbers")
    return strengths
