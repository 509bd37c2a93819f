"""Square, an attack without gradients, on one image."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metrics.norms import Norm, vector_norm
from metrics.passes import margin
from robustness_tests.subjects.reproducible import reproducible

PYAUTOATTACK_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""What pyautoattack calls them."""


@dataclass(frozen=True)
class BlackBoxAttack:
    """What Square has found for one image.

    Attributes:
        distance: norm of the perturbation; None where it has not changed the label.
        queries: forward passes spent.
    """

    distance: float | None
    queries: int


class _FoundError(Exception):
    """The label has changed: no more queries are needed."""


class _Recorder:
    """The model as Square sees it: it stops at the first image that fools the model."""

    def __init__(self, network: nn.Module, image: Tensor, label: Tensor, norm: Norm, epsilon: float) -> None:
        self.network, self.image, self.label, self.norm, self.epsilon = network, image, label, norm, epsilon
        self.distance: float | None = None
        self.queries = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.queries += len(images)
        logits: Tensor = self.network(images.clone())
        distances = vector_norm(images - self.image, self.norm)
        inside = (images.flatten(1).amin(dim=1) >= 0) & (images.flatten(1).amax(dim=1) <= 1)
        # Rounding: the attack may leave its own ball by the last bits.
        fooled = (margin(logits, self.label.expand(len(images))) < 0) & inside & (distances <= 1.0001 * self.epsilon)
        if fooled.any():
            self.distance = float(distances[fooled].min())
            raise _FoundError
        return logits


def square(
    network: nn.Module, image: Tensor, label: Tensor, *, norm: Norm, epsilon: float, queries: int, seed: int
) -> BlackBoxAttack:
    """Square (Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049), which uses no gradients, on one image.

    Args:
        network: from images in [0, 1] to logits, in evaluation mode.
        image: shape (1, C, H, W), values in [0, 1].
        label: its class, int64, shape (1,).
        norm: "linf", "l2" or "l1".
        epsilon: the largest norm of the perturbation.
        queries: forward passes, at most.
        seed: of the squares; the caller's random state is left alone.

    Returns:
        The norm of the first perturbation within epsilon that changes the label, and the queries up to there.
    """
    from pyautoattack.square import SquareAttack  # noqa: PLC0415  # slow to import, and only one property needs it

    recorder = _Recorder(network, image, label, norm, epsilon)
    attack = SquareAttack(
        recorder,
        norm=PYAUTOATTACK_NORMS[norm],
        n_queries=queries,
        eps=epsilon,
        seed=seed % 2**32,
        device=str(image.device),
    )
    with torch.no_grad(), torch.random.fork_rng(), reproducible(), contextlib.suppress(_FoundError):
        attack.perturb(image, label)
    return BlackBoxAttack(recorder.distance, recorder.queries)
