"""A folder with a folder of image files for each class."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.images import Images, Order, as_bytes, taken
from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.pixels import Pixels, WrongImageError


def image_folder(
    path: Path, count: int | None = None, size: ImageSize | None = None, order: Order | None = None
) -> Images:
    """Load the images of a folder with torchvision's ImageFolder, as RGB, each when it is asked for.

    Classes are numbered by the file `classes.txt` of the folder (a name in each line, from class 0 on), or by the names
    of their subfolders if these are whole numbers, or else by the sorted names. Images are taken from the classes in
    turn (the first file of each, then the second of each, and so on), so that the first N images are not all of one
    class.

    Args:
        path: the folder.
        count: number of images to load; all of them if None.
        size: what the images are brought to; None leaves them as they are, and then all must have the same size.
        order: the order in which they are taken, from the one above; that one if None.

    Raises:
        ValueError: if there are no images, or `classes.txt` does not fit. An image that cannot be read, or has another
            size than the first, raises it when it is asked for.
    """
    try:
        dataset = _VisibleFolder(str(path), is_valid_file=_is_picture)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"got a folder {path.name} without images ({one_line(error)}), expected one subfolder of image files "
            "for each class"
        ) from error
    files = [file for file, _ in dataset.samples]
    turns = _in_turn(dataset.targets)
    rows, indices = taken(np.asarray(dataset.targets)[turns], count, order)

    def load(position: int) -> Tensor:
        file = files[turns[rows[position]]]
        try:
            with PIL.Image.open(file) as picture:
                return as_bytes(picture, size)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise WrongImageError(f"got an image {file} that cannot be read: {one_line(error)}") from error

    labels = torch.tensor([dataset.targets[turns[row]] for row in rows])
    names = {number: name for name, number in dataset.class_to_idx.items()}
    largest = max(*names, *dataset.targets)
    known = tuple(names.get(number, "") for number in range(largest + 1))
    return Images(Pixels(load, len(rows)), labels, len(dataset.targets), largest, known, indices, pictures=True)


EXTENSIONS = (*IMG_EXTENSIONS, ".avif", ".gif", ".jfif", ".jp2")
"""The ends of the names of pictures."""


def _is_picture(file: str) -> bool:
    return file.lower().endswith(EXTENSIONS)


def left_out(path: Path) -> tuple[str, ...]:
    """A remark on visible files in the folders of classes that are no pictures."""
    files = [file for file in path.glob("*/**/*") if file.is_file() and file.name[0] != "."]
    others = [file.suffix or file.name for file in files if not _is_picture(file.name)]
    if not others:
        return ()
    kinds = ", ".join(sorted(set(others))[:5])
    return (f"{len(others)} files that are no pictures are left out: {kinds}",)


def _numbers(path: Path, names: Sequence[str]) -> dict[str, int]:
    """The class number of each subfolder."""
    listed = path / "classes.txt"
    if listed.is_file():
        try:
            lines = [line.strip() for line in listed.read_text(encoding="utf-8-sig").rstrip().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"got a file {listed} that cannot be read as UTF-8: {one_line(error)}") from error
        if "" in lines or len(set(lines)) < len(lines):
            twice = next((line for line in lines if lines.count(line) > 1 and line), "")
            what = f"{twice!r} twice" if twice else f"an empty line {lines.index('') + 1}"
            raise ValueError(f"got {what} in {listed}, expected the name of each class once, from class 0 on")
        numbers = {line: number for number, line in enumerate(lines)}
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise ValueError(
                f"got a folder {unknown[0]!r} that is not in {listed}, expected the name of each folder in a line of "
                "its own, from class 0 on"
            )
        return {name: numbers[name] for name in names}
    whole = {name: int(name) for name in names if re.fullmatch(r"\d{1,7}", name, re.ASCII)}
    if len(set(whole.values())) == len(names):
        return whole
    return {name: number for number, name in enumerate(names)}


class _VisibleFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """An ImageFolder with our numbers, without hidden folders: tools leave them behind, and they are not classes."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The names of the folders that do not start with a dot, and their numbers."""
        names = sorted(path.name for path in Path(directory).iterdir() if path.is_dir() and path.name[0] != ".")
        if not names:
            raise FileNotFoundError("no folders of classes")
        return names, _numbers(Path(directory), names)


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
