"""The adversarial distance: the norm of the smallest perturbation that a set of attacks finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.attacks import Attack, Search, deepfool, fast_minimum_norm, line_search, random_noise
from metrics.checks import check_choice, check_count
from metrics.generators import generators_of
from metrics.norms import Norm, length
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating, margin
from metrics.results import concatenate
from metrics.status import Status

NORMS: tuple[Norm, ...] = ("linf", "l2")


@dataclass(frozen=True)
class Effort:
    """How much is spent on an image.

    Attributes:
        targets: classes that DeepFool is aimed at, those with the nearest linearised boundaries.
        deepfool: steps for each of them, at most.
        from_best: steps of the fast minimum-norm attack that starts at the best point so far.
        from_clean: steps of the one that starts at the clean image.
        random_noise: strengths of noise, where nothing else has found anything.
        line_search: steps of the way back to the boundary.
    """

    targets: int
    deepfool: int
    from_best: int
    from_clean: int
    random_noise: int
    line_search: int


CLASSES = 9
"""Classes whose gradients are looked at to choose targets: those with the largest logits."""

EFFORTS: dict[str, Effort] = {
    "quick": Effort(targets=1, deepfool=6, from_best=20, from_clean=0, random_noise=10, line_search=6),
    "default": Effort(targets=3, deepfool=10, from_best=40, from_clean=50, random_noise=20, line_search=10),
    "thorough": Effort(targets=9, deepfool=20, from_best=300, from_clean=400, random_noise=50, line_search=20),
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

    An upper bound of the true minimal distance. DeepFool, aimed at the classes whose linearised boundaries are nearest,
    gives first points in a few passes; where it finds none (the gradient may be masked), random noise does. The fast
    minimum-norm attack goes on from the best of them, and again from the clean image, and a line search goes back to
    the boundary. The best point of any query counts; it is classified again at the end, as the very image that
    is returned, and its norm is what is reported.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf" or "l2".
        effort: "quick" (at most 35 backward passes per image), "default" (129) or "thorough" (889).
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
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> result = adversarial_distance(model, image, torch.tensor([0]), norm="linf")
        >>> result.distance
        tensor([0.3000])
        >>> Status(int(result.status)).name
        'ATTACKED'
    """
    check_choice("norm", norm, NORMS)
    check_choice("effort", effort, EFFORTS)
    batch_size = check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)
    generators = generators_of(seed, len(images), images.device)
    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
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
    logits = checked_logits(passes, images, labels, everything)
    correct = margin(logits, labels) > 0
    search = Search(passes, images, labels, logits, norm)
    _attack(search, everything[correct], effort, generators)
    verified = _verify(search, everything[correct & search.distance.isfinite()])

    status = torch.full_like(labels, Status.MISCLASSIFIED)
    status[correct] = Status.CENSORED
    status[verified] = Status.ATTACKED
    attacked = status == Status.ATTACKED
    nothing = torch.where(correct, torch.inf, torch.zeros_like(search.distance))
    return AdversarialDistances(
        distance=torch.where(attacked, search.distance, nothing),
        adversarial=torch.where(attacked.view(-1, 1, 1, 1), search.adversarial, images),
        status=status,
        attack=torch.where(attacked, search.attack, Attack.NONE),
        forward=passes.forward,
        backward=passes.backward,
    )


def _attack(search: Search, rows: Tensor, effort: Effort, generators: Sequence[torch.Generator]) -> None:
    if not len(rows):
        return
    targets = search.nearest_targets(rows, CLASSES, effort.targets)
    for column in range(targets.shape[1]):
        deepfool(search, rows, steps=effort.deepfool, targets=targets[:, column])
    not_found = rows[search.distance[rows].isinf()]
    random_noise(search, not_found, steps=effort.random_noise, generators=generators)
    line_search(search, not_found[search.distance[not_found].isfinite()], steps=effort.line_search)
    fast_minimum_norm(search, rows, steps=effort.from_best, start=search.adversarial[rows])
    fast_minimum_norm(search, rows, steps=effort.from_clean)
    line_search(search, rows[search.distance[rows].isfinite()], steps=effort.line_search)


PUSHES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""How much longer a perturbation is made, step by step, until the kept image is classified wrongly once more."""


def _verify(search: Search, rows: Tensor) -> Tensor:
    """Classify the kept images again, in one batch, and return the rows whose label has changed.

    An image so near to the boundary that rounding turns it back is pushed outwards a little, and its distance with it.
    """
    verified = []
    for push in PUSHES:
        if not len(rows):
            break
        clean = search.images[rows]
        points = (clean + (1 + push) * (search.adversarial[rows] - clean)).clamp(0, 1)
        points = points if push else search.adversarial[rows]
        fooled = margin(search.passes.logits(points, rows), search.labels[rows]) < 0
        search.adversarial[rows[fooled]] = points[fooled]
        search.distance[rows[fooled]] = length(points - clean, search.norm)[fooled]
        verified.append(rows[fooled])
        rows = rows[~fooled]
    return torch.cat(verified) if verified else rows
