"""The adversarial distance: the norm of the smallest perturbation that a set of attacks finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.attacks import Search, deepfool, fast_minimum_norm, line_search, random_noise
from metrics.checks import check_choice
from metrics.generators import generators_of
from metrics.norms import Norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, frozen_parameters, margin
from metrics.results import concatenate
from metrics.status import Status

NORMS: tuple[Norm, ...] = ("linf", "l2")


@dataclass(frozen=True)
class Effort:
    """How much is spent on an image: steps of each attack."""

    deepfool: int
    fast_minimum_norm: tuple[int, ...]
    random_noise: int
    line_search: int


EFFORTS: dict[str, Effort] = {
    "quick": Effort(deepfool=8, fast_minimum_norm=(22,), random_noise=10, line_search=6),
    "default": Effort(deepfool=20, fast_minimum_norm=(100,), random_noise=20, line_search=10),
    "thorough": Effort(deepfool=50, fast_minimum_norm=(300, 500), random_noise=50, line_search=20),
}


@dataclass(frozen=True)
class AdversarialDistances:
    """The adversarial distances of N images; every tensor is on the device of the images.

    Attributes:
        distance: norm of `adversarial - image`, shape (N,), in units of the image range [0, 1]; 0 where the clean image
            is misclassified, infinite where nothing was found.
        adversarial: the adversarial images, shape (N, C, H, W), in [0, 1]; the clean image where there is none.
        status: `Status` numbers, shape (N,): attacked, misclassified or censored.
        attack: `Attack` numbers, shape (N,): the attack that found the point.
        forward: forward passes spent on each image, shape (N,).
        backward: backward passes spent on each image, shape (N,).
    """

    distance: Tensor
    adversarial: Tensor
    status: Tensor
    attack: Tensor
    forward: Tensor
    backward: Tensor


def adversarial_distance(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    effort: str = "default",
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> AdversarialDistances:
    """Find, for each image, the nearest image of the box [0, 1] that the model does not put into its class.

    An upper bound of the true minimal distance. DeepFool gives a first point in a few passes, the fast minimum-norm
    attack goes on from it and from the clean image, random noise is tried where both found nothing (their gradients may
    be masked), and a line search goes back to the boundary. The best point of any query counts; it is classified again
    at the end, as the very image that is returned, and its norm is what is reported.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf" or "l2".
        effort: "quick" (at most 30 backward passes per image), "default" (120) or "thorough" (850).
        seed: of the random noise: one for all images, or one for each. The same image with the same seed gets the same
            noise in any batch.
        batch_size: the most images that pass through the model at once.

    Returns:
        Distances, adversarial images, statuses, winning attacks, and passes spent.

    Raises:
        ValueError: for an unknown norm or effort, images outside [0, 1] or not finite, labels that the model has no
            class for, a model in training mode, outputs that are probabilities or not deterministic.

    Example:
        A linear model, whose distance is margin / dual norm of the weights: here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.8, 0.2]).view(1, 1, 1, 2)
        >>> result = adversarial_distance(model, image, torch.tensor([0]), norm="linf")
        >>> result.distance
        tensor([0.3000])
        >>> Status(int(result.status)).name
        'ATTACKED'
    """
    check_choice("norm", norm, NORMS)
    check_choice("effort", effort, EFFORTS)
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}, expected 1 or more")
    check_images(images, labels)
    check_model(model)
    generators = generators_of(seed, len(images), images.device)
    with frozen_parameters(model):
        parts = [
            _measure(model, images[first:last], labels[first:last], norm, EFFORTS[effort], generators[first:last])
            for first, last in ((first, first + batch_size) for first in range(0, len(images), batch_size))
        ]
    return concatenate(parts)


def _measure(
    model: Model, images: Tensor, labels: Tensor, norm: Norm, effort: Effort, generators: Sequence[torch.Generator]
) -> AdversarialDistances:
    passes = Passes(model, len(images), images.device)
    everything = torch.arange(len(images), device=images.device)
    correct = margin(checked_logits(passes, images, labels, everything), labels) > 0
    search = Search(passes, images, labels, norm)
    _attack(search, everything[correct], effort, generators)
    verified = _verify(search, everything[correct & search.distance.isfinite()])

    status = torch.full_like(labels, Status.MISCLASSIFIED)
    status[correct] = Status.CENSORED
    status[verified] = Status.ATTACKED
    distance = torch.where(correct, torch.inf, torch.zeros_like(search.distance))
    distance[verified] = search.distance[verified]
    return AdversarialDistances(
        distance=distance,
        adversarial=search.adversarial,
        status=status,
        attack=search.attack,
        forward=passes.forward,
        backward=passes.backward,
    )


def _attack(search: Search, rows: Tensor, effort: Effort, generators: Sequence[torch.Generator]) -> None:
    deepfool(search, rows, steps=effort.deepfool)
    for run, steps in enumerate(effort.fast_minimum_norm):
        start = search.adversarial[rows] if run % 2 else None
        fast_minimum_norm(search, rows, steps=steps, start=start)
    not_found = rows[search.distance[rows].isinf()]
    random_noise(search, not_found, steps=effort.random_noise, generators=generators)
    line_search(search, rows[search.distance[rows].isfinite()], steps=effort.line_search)


def _verify(search: Search, rows: Tensor) -> Tensor:
    """Classify the kept images again, in one batch, and return the rows whose label has changed."""
    if not len(rows):
        return rows
    points = search.adversarial[rows]
    fooled = margin(search.passes.logits(points, rows), search.labels[rows]) < 0
    return rows[fooled]
