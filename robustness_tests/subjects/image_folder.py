"""A folder with a folder of image files for each class."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from robustness_tests.subjects.images import Images
from robustness_tests.subjects.objects import one_line


def image_folder(path: Path, count: int | None = None) -> Images:
    """Load the images of a folder with torchvision's ImageFolder, as RGB; all must have the same size.

    Classes are numbered by the sorted names of their subfolders. Images are taken from the classes in turn (the first
    file of each, then the second of each, and so on), so that the first N images are not all of one class.

    Raises:
        ValueError: if there are no images, they are of several sizes, or one cannot be read.
    """
    try:
        dataset = _VisibleFolder(str(path), loader=_picture)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"got a folder {path.name} without images ({one_line(error)}), expected one subfolder of image files "
            "for each class"
        ) from error
    files = [file for file, _ in dataset.samples]
    order = _in_turn(dataset.targets)
    images: list[Tensor] = []
    for row in order[:count]:
        try:
            images.append(dataset.loader(files[row]))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"got an image {files[row]} that cannot be read: {one_line(error)}") from error
        if images[-1].shape != images[0].shape:
            sizes = [tuple(image.shape[1:]) for image in (images[0], images[-1])]
            raise ValueError(
                f"got images of {sizes[0]} and {sizes[1]} pixels ({Path(files[row]).name}), expected one size: resize "
                "the files, or write a dataset of your own in a file (path/file.py:NAME)"
            )
    labels = torch.tensor([dataset.targets[row] for row in order[:count]])
    return Images(
        torch.stack(images).float().div(255), labels, len(order), max(dataset.targets), tuple(dataset.classes)
    )


class _VisibleFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ImageFolder that ignores hidden folders: tools leave them behind, and they are not classes."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The names of the folders that do not start with a dot, in order, and their numbers."""
        names = sorted(path.name for path in Path(directory).iterdir() if path.is_dir() and path.name[0] != ".")
        if not names:
            raise FileNotFoundError("no folders of classes")
        return names, {name: number for number, name in enumerate(names)}


def _picture(file: str) -> Tensor:
    """An image file as bytes, RGB, shape (3, H, W)."""
    with Image.open(file) as picture:
        if picture.mode[0] in "IF":
            raise ValueError(f"it has {picture.mode} values, of more than 8 bits, expected 8 bits for each channel")
        return pil_to_tensor(picture.convert("RGB"))


def _in_turn(labels: Sequence[int]) -> list[int]:
    """Positions, one of each class after another.

    Example:
        >>> _in_turn([0, 0, 0, 1, 1])
        [0, 3, 1, 4, 2]
    """
    of_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        of_class.setdefault(label, []).append(position)
    rounds = zip_longest(*(of_class[label] for label in sorted(of_class)))
    return [position for one in rounds for position in one if position is not None]
