"""The distances to several classes: targeted adversarial distances, the nearest classes first.

This is a library function: no property of the gate uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.adversarial_distance import adversarial_distance
from metrics.attacks import EFFORTS, Search, nearest_classes
from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count
from metrics.generators import generators_of
from metrics.norms import NORMS, Norm
from metrics.passes import Model, Passes, check_images, check_model, checked_logits, differentiating


@dataclass(frozen=True)
class ClassDistances:
    """The distances of N images to T classes each, the class with the nearest linearised boundary first.

    Attributes:
        classes: the target classes, shape (N, T).
        distance: distance to an image that the model puts into the class, shape (N, T). It is 0 where the image is in
            the class already, and infinite where no such image was found.
        adversarial: the adversarial images, shape (N, T, C, H, W).
        status: `Status` numbers, shape (N, T).
        forward: forward passes spent on each image, shape (N,).
        backward: backward passes spent on each image, shape (N,).
    """

    classes: Tensor
    distance: Tensor
    adversarial: Tensor
    status: Tensor
    forward: Tensor
    backward: Tensor


def class_distances(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    count: int = 3,
    effort: str = "default",
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
) -> ClassDistances:
    """Find the targeted adversarial distances to the `count` classes whose linearised boundaries are nearest.

    The other arguments and the errors are those of `adversarial_distance`.

    Example:
        Three classes along a line: the farther class has the larger distance.

        >>> model = lambda images: images.flatten(1) * torch.tensor([0.0, 1.0, 2.0]) - torch.tensor([0.0, 0.5, 1.3])
        >>> found = class_distances(model, torch.full((1, 1, 1, 1), 0.4), torch.tensor([0]), norm="linf", count=2)
        >>> found.classes, found.distance
        (tensor([[1, 2]]), tensor([[0.1000, 0.4000]]))
    """
    check_choice("norm", norm, NORMS)
    count = check_count("count", count, 1)
    check_choice("effort", effort, EFFORTS)
    batch_size = check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    check_model(model)
    generators_of(seed, len(images))

    def nearest(first: int, last: int) -> tuple[Tensor, Tensor]:
        part, points = labels[first:last], images[first:last].detach()
        passes = Passes(model, len(points), points.device)
        everything = torch.arange(len(points), device=points.device)
        logits = checked_logits(passes, points, part, everything)
        search = Search(passes, points, part, logits, norm)
        return nearest_classes(search, everything, logits.shape[1] - 1, count).classes, passes.backward

    with differentiating(model):
        parts = [part for _, part in halving_batches(nearest, len(images), batch_size)]
    classes, spent = (torch.cat(column) for column in zip(*parts, strict=True))
    found = [
        adversarial_distance(
            model, images, labels, norm=norm, targets=targets, effort=effort, seed=seed, batch_size=batch_size
        )
        for targets in classes.T
    ]
    return ClassDistances(
        classes=classes,
        distance=torch.stack([each.distance for each in found], dim=1),
        adversarial=torch.stack([each.adversarial for each in found], dim=1),
        status=torch.stack([each.status for each in found], dim=1),
        forward=sum((each.forward for each in found), torch.full_like(labels, 3)),
        backward=sum((each.backward for each in found), spent),
    )
