"""Linear models: distance = margin / dual norm of the weights, exactly."""

import math

import torch


def linear_model(seed, classes=4, shape=(3, 4, 4), dtype=torch.float32):
    """A linear model whose decision boundary passes near the middle of the box, so that the box does not matter."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(classes, math.prod(shape), generator=generator, dtype=dtype)
    bias = -0.5 * weights.sum(dim=1) + 0.3 * torch.randn(classes, generator=generator, dtype=dtype)
    return weights, bias, lambda images: images.flatten(1) @ weights.T.to(images) + bias.to(images)


def images_near_the_middle(seed, count=8, shape=(3, 4, 4), dtype=torch.float32):
    """Images whose values are between 0.3 and 0.7."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return 0.5 + 0.1 * torch.randn(count, *shape, generator=generator, dtype=dtype).clamp(-2, 2)


def closed_form(weights, bias, images, labels, norm):
    """The smallest margin / dual norm of the difference of weights, over all other classes; in L1 within the box."""
    return torch.stack(
        [
            torch.where(labels == target, torch.inf, closed_form_to(weights, bias, images, labels, norm, target))
            for target in range(len(weights))
        ]
    ).amin(dim=0)


def closed_form_to(weights, bias, images, labels, norm, target):
    """The distance to where the target's logit is that of the label."""
    points = images.flatten(1).double()
    logits = points @ weights.T.double() + bias.double()
    difference = weights[labels].double() - weights[target].double()
    margins = logits.gather(1, labels[:, None])[:, 0] - logits[:, target]
    if norm != "l1":
        return margins / torch.linalg.vector_norm(difference, {"linf": 1, "l2": 2}[norm], dim=1)
    # The values with the steepest slopes are moved, one after the other, as far as the box lets them.
    distances = []
    for point, slopes, margin in zip(points, difference, margins, strict=True):
        room = torch.where(slopes > 0, point, 1 - point)
        order = slopes.abs().argsort(descending=True)
        gains = (slopes.abs() * room)[order]
        left = (margin - gains.cumsum(0) + gains).clamp_min(0)
        distances.append(torch.minimum(room[order], left / slopes.abs()[order]).sum())
    return torch.stack(distances)
