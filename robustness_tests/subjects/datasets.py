"""Datasets: images in [0, 1] with their classes, by dataset index."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """A split of a dataset.

    Attributes:
        images: shape (N, C, H, W), float32, values in [0, 1].
        labels: class numbers, int64, shape (N,).
    """

    images: Tensor
    labels: Tensor

    def digest(self) -> str:
        """A digest of every image and label, in order."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def digits(split: str) -> Images:
    """The 1,797 handwritten digits that come with scikit-learn (Alpaydin & Kaynak 1998), 8x8 pixels of 17 levels.

    Every fifth image, from the first one on, is in the test split (360), the others are for training (1,437).

    Example:
        >>> digits("test").images.shape, digits("training").images.shape
        (torch.Size([360, 1, 8, 8]), torch.Size([1437, 1, 8, 8]))
    """
    # Not at the top: scikit-learn takes a second to import, and only this function needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    raw = load_digits()
    images = torch.from_numpy(raw.images).to(torch.float32).div(16).unsqueeze(1)
    labels = torch.from_numpy(raw.target).to(torch.int64)
    in_test = torch.arange(len(labels)) % 5 == 0
    chosen = in_test if split == "test" else ~in_test
    return Images(images[chosen].contiguous(), labels[chosen])


SPLITS: dict[str, Callable[[str], Images]] = {"digits": digits}


def load_dataset(name: str, split: str = "test") -> Images:
    """The images of a dataset of the catalog.

    Raises:
        KeyError: if the catalog has no such dataset; the command line checks that first.
    """
    return SPLITS[name](split)
