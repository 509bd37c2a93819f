"""The target classes of a score: given classes, all other classes, or one chosen by its logit or at random."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metrics.checks import check_choice
from metrics.generators import moved

Targets = Tensor | Literal["all", "top-2", "least-likely", "random"]

TARGETS = ("all", "top-2", "least-likely", "random")
"""`all`: all other classes. `top-2`: the other class with the largest logit. `least-likely`: the one with the smallest.
`random`: any other class, drawn with the seed of the image. The last three are from the CLEVER paper."""


def checked_targets(targets: Targets, labels: Tensor) -> Targets:
    """Return the targets after checking that they are possible for images with these labels.

    Raises:
        ValueError: for an unknown name, a wrong type, shape or device, a negative class, the label of the image itself,
            or the same target twice.
    """
    if isinstance(targets, str):
        check_choice("targets", targets, TARGETS)
        return targets
    if not isinstance(targets, Tensor):
        raise ValueError(f"got targets of {type(targets).__name__}, expected a torch.Tensor or one of {TARGETS}")
    if targets.dim() != 2 or len(targets) != len(labels) or targets.dtype != torch.long or not targets.shape[1]:
        raise ValueError(
            f"got targets of shape {tuple(targets.shape)} and {targets.dtype}, "
            f"expected ({len(labels)}, T) and torch.int64 with T >= 1"
        )
    if targets.device != labels.device:
        raise ValueError(f"got labels on {labels.device} and targets on {targets.device}, expected one device")
    if int(targets.min()) < 0:
        raise ValueError(f"got target {int(targets.min())}, expected classes of the model")
    if (targets == labels[:, None]).any():
        raise ValueError("got a target that is the image's own label, expected other classes")
    ordered = targets.sort(dim=1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("got the same target twice for an image, expected different classes")
    return targets


def chosen_targets(targets: Targets, logits: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The target classes of each image, shape (N, T).

    Raises:
        ValueError: if a target is not a class of the model.

    Example:
        >>> logits, labels = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
        >>> [chosen_targets(name, logits, labels, []).tolist() for name in ("all", "top-2", "least-likely")]
        [[[1, 2]], [[2]], [[1]]]
    """
    if isinstance(targets, Tensor):
        if int(targets.max()) >= logits.shape[1]:
            raise ValueError(
                f"got target {int(targets.max())}, expected classes of the model: 0 to {logits.shape[1] - 1}"
            )
        return targets
    if targets == "top-2":
        return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1, keepdim=True)
    if targets == "least-likely":
        return logits.scatter(1, labels[:, None], torch.inf).argmin(dim=1, keepdim=True)
    classes = logits.shape[1]
    every = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    others = every[every != labels[:, None]].view(len(labels), classes - 1)
    if targets == "all":
        return others
    drawn = torch.stack([torch.randint(classes - 1, (1,), generator=one) for one in generators])
    return others.gather(1, moved(drawn, others.device))
