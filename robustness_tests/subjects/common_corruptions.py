"""The common corruptions of Hendrycks & Dietterich (2019, https://arxiv.org/abs/1903.12261) on any images.

The corruptions are those of the package imagecorruptions. With its own draws, and on images of another size, they are
not those of CIFAR-10-C or ImageNet-C.
"""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustness_tests.subjects.optional import optional
from robustness_tests.subjects.sources import CORRUPTIONS, SMALLEST_CORRUPTED

SEVERITIES = (1, 2, 3, 4, 5)

OWN_GENERATOR = ("impulse_noise", "glass_blur")
"""Corruptions that draw from a generator of their own, whose seed is an argument. The others use numpy's."""


def why_not(shape: torch.Size) -> str:
    """Why images of this shape (C, H, W) cannot be corrupted; empty if they can."""
    if importlib.util.find_spec("imagecorruptions") is None:
        return "needs the package imagecorruptions-imaug: pip install 'robustness-gate[corruptions]'"
    channels, height, width = shape
    if channels not in (1, 3):
        return f"images have {channels} channels, and corruptions are for 1 or 3"
    if min(height, width) < SMALLEST_CORRUPTED:
        least = f"{SMALLEST_CORRUPTED}x{SMALLEST_CORRUPTED}"
        return f"images have {height}x{width} pixels, and corruptions are for {least} or more"
    return ""


def corrupted(image: Tensor, corruption: str, severity: int, seed: int) -> Tensor:
    """One corruption of an image.

    Args:
        image: shape (C, H, W) with 1 or 3 channels, values in [0, 1], which are rounded to bytes first.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: seed of all that is random. Each corruption and severity has a stream of its own.

    Returns:
        The corrupted image, shape (C, H, W), float32 in [0, 1]. A grey image is the mean of three corrupted channels.

    Raises:
        ValueError: if the package is not installed.
    """
    package = optional("imagecorruptions", "corruptions")
    number = CORRUPTIONS.index(corruption)
    state = int(np.random.SeedSequence([seed, number, severity]).generate_state(1)[0])
    picture = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).expand(-1, -1, 3).contiguous().cpu().numpy()
    own = {"seed": state} if corruption in OWN_GENERATOR else {}
    with _seeded(state), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed: NDArray[np.uint8] = package.corrupt(picture, corruption_name=corruption, severity=severity, **own)
    values = torch.from_numpy(changed.copy()).permute(2, 0, 1).float() / 255
    return values.mean(dim=0, keepdim=True) if len(image) == 1 else values


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the package draws from, and restore its state at the end."""
    before = np.random.get_state()  # noqa: NPY002  # the package's choice
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def every_corruption(image: Tensor, seed: int) -> Tensor:
    """All corruptions at all severities, shape (15 * 5, C, H, W); those of one corruption are neighbours."""
    return torch.stack([corrupted(image, name, severity, seed) for name in CORRUPTIONS for severity in SEVERITIES])
