"""Images in [0, 1] with their classes, from arrays and datasets of any usual form."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.pixels import Pixels, WrongImageError

MAX_LABEL = 10**6
"""Largest label that is accepted: no classifier has that many classes."""

CHANNELS = (1, 2, 3, 4)
"""Accepted numbers of channels; a dimension of another size is not the channels."""


@dataclass(frozen=True, eq=False)
class Images:
    """The first images of a split of a dataset.

    Attributes:
        images: shape (N, C, H, W), float32, values in [0, 1]; in memory, or loaded when they are asked for.
        labels: class numbers, int64, shape (N,).
        split_size: how many images the split has; None if these are all.
        known_largest: the largest label of the split, as far as labels are known without loading images.
        class_names: names of the classes, for image folders and bundled datasets; empty for others.
        indices: the dataset index of each image; None if they are the first ones, in order.
        pictures: whether they are pictures, which are resized, and not arrays or tensors.
    """

    images: Tensor | Pixels
    labels: Tensor
    split_size: int | None = None
    known_largest: int = 0
    class_names: tuple[str, ...] = ()
    indices: tuple[int, ...] | None = None
    pictures: bool = False

    def index(self, position: int) -> int:
        """The dataset index of the image at a position."""
        return position if self.indices is None else self.indices[position]

    @property
    def largest_label(self) -> int:
        """The largest label of the split, as far as it is known."""
        return max(int(self.labels.max()), self.known_largest)

    @property
    def total(self) -> int:
        """How many images the split has, of which these are the first."""
        return len(self.labels) if self.split_size is None else self.split_size

    def digest(self, rows: slice = slice(None)) -> str:
        """A digest of the images and labels of some rows, in order."""
        images, labels = self.images[rows], self.labels[rows]
        digest = hashlib.sha256(str(tuple(images.shape)).encode())
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        return digest.hexdigest()


Order = Callable[[NDArray[np.int64]], Sequence[int]]
"""From the labels of all images to their dataset indices, in the order in which they are taken."""


def taken(
    labels: NDArray[np.int64], count: int | None, order: Order | None
) -> tuple[Sequence[int], tuple[int, ...] | None]:
    """The rows that are taken, and `Images.indices`: the first `count` rows without an order."""
    if order is None:
        return range(len(labels))[:count], None
    rows = tuple(order(labels))[:count]
    return rows, rows


def images_and_labels(images: Any, labels: Any, count: int | None = None, order: Order | None = None) -> Images:
    """Convert arrays or tensors of images and labels to the form that the metrics expect.

    Args:
        images: uint8 in 0 to 255, shape (N, H, W, C) or (N, H, W); or floating-point in [0, 1], shape (N, C, H, W).
        labels: class numbers from 0 on, shape (N,).
        count: number of images to convert, from the first on; all of them if None.
        order: the order in which they are taken; as they are if None.

    Raises:
        ValueError: for an unsupported type, shape or range; the message says what to do.

    Example:
        >>> images_and_labels(np.full((2, 8, 8, 3), 255, np.uint8), np.array([0, 1])).images.shape
        torch.Size([2, 3, 8, 8])
    """
    arrays = [_array(one) for one in (images, labels)]
    total = checked_labels(arrays[1], len(arrays[0]) if arrays[0].ndim else 0)
    rows, indices = taken(arrays[1], count, order)
    which = slice(0, len(rows)) if indices is None else np.asarray(rows)
    some, chosen = arrays[0][which], arrays[1][which].astype(np.int64)
    of_bytes = some.dtype == np.uint8
    if not of_bytes and some.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"got images of {some.dtype}, expected uint8 in 0 to 255, or floating-point numbers in [0, 1]")
    some = _with_channels_last(some) if of_bytes else _with_channels_first(some)
    values = torch.from_numpy(some.copy())  # a contiguous copy: a file may be mapped into memory
    scaled = values.float().div(255) if of_bytes else values.float()
    return Images(scaled.contiguous(), torch.from_numpy(chosen), total, int(arrays[1].max()), indices=indices)


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        narrow = values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64)
        return (values.detach().float() if narrow else values.detach()).to_dense().cpu().numpy()
    return np.asarray(values)


def checked_labels(labels: NDArray[Any], images: int) -> int:
    """The number of labels, after a check that they are class numbers, one for each image.

    Raises:
        ValueError: if they are not.
    """
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(f"got labels of shape {labels.shape}, expected class numbers (N,): labels.argmax(axis=1)")
    if labels.ndim != 1 or len(labels) != images or not images:
        raise ValueError(
            f"got {images} images and labels of shape {labels.shape}, expected one label per image, 1 or more images"
        )
    if labels.dtype.kind not in "iu":
        hint = ": labels.astype('int64')" if labels.dtype.kind == "f" else ", one for each class, from 0 on"
        raise ValueError(f"got labels of {labels.dtype}, expected whole numbers{hint}")
    if int(labels.min()) < 0 or int(labels.max()) > MAX_LABEL:
        raise ValueError(f"got labels from {int(labels.min())} to {int(labels.max())}, expected class numbers from 0")
    return len(labels)


def _with_channels_last(images: NDArray[Any]) -> NDArray[Any]:
    """Bytes (N, H, W, C) or (N, H, W) as (N, C, H, W)."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in CHANNELS:
        hint = ": images.transpose(0, 2, 3, 1)" if images.ndim == 4 and images.shape[1] in CHANNELS else ""
        raise ValueError(
            f"got uint8 images of shape {images.shape}, expected (N, H, W, C) or (N, H, W), channels last{hint}"
        )
    # A single image may well be dark.
    if len(images) > 1 and int(images.max()) == 1:
        raise ValueError("got uint8 images of 0 and 1 only, expected 0 to 255: store them as float32 in [0, 1]")
    return images.transpose(0, 3, 1, 2)


def _with_channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Check floating-point images (N, C, H, W) in [0, 1], and return them unchanged."""
    if not images.size:
        raise ValueError(f"got images of shape {images.shape}, expected pixels")
    if images.ndim != 4 or (images.shape[1] not in CHANNELS and images.shape[3] in CHANNELS):
        hint = ": images.transpose(0, 3, 1, 2)" if images.ndim == 4 else ""
        raise ValueError(
            f"got floating-point images of shape {images.shape}, expected (N, C, H, W), channels first{hint}"
        )
    if not np.isfinite(images).all():
        row = int((~np.isfinite(images).reshape(len(images), -1).all(axis=1)).nonzero()[0][0])
        raise ValueError(f"got NaN or infinity in image {row}, expected values in [0, 1]")
    smallest, largest = float(images.min()), float(images.max())
    if smallest < 0 or largest > 1:
        what = (
            "put the normalisation inside the model" if smallest < 0 else "divide them by 255, or store them as uint8"
        )
        raise ValueError(f"got image values from {smallest:g} to {largest:g}, expected [0, 1]: {what}")
    return images


def from_object(
    found: Any, count: int | None = None, size: ImageSize | None = None, order: Order | None = None
) -> Images:
    """Load a user's dataset: images and labels, or a `torch.utils.data.Dataset` of pairs (image, label).

    Images and labels are a pair, or a mapping with the keys "images" and "labels".

    Args:
        found: the dataset.
        count: number of images to load, from the first on; all of them if None.
        size: what PIL images are brought to; None leaves them as they are. Arrays and tensors are never resized.
        order: the order in which they are taken; as they are if None. With it, all labels of a Dataset are read.

    Raises:
        ValueError: if it is neither, or one of its items raises.
    """
    if isinstance(found, Mapping) and found.keys() >= {"images", "labels"}:
        return images_and_labels(found["images"], found["labels"], count, order)
    if isinstance(found, tuple | list) and len(found) == 2 and _is_of_numbers(found[1]):
        return images_and_labels(found[0], found[1], count, order)
    if not hasattr(found, "__getitem__") or not hasattr(found, "__len__") or isinstance(found, str):
        raise ValueError(
            f"got a dataset of {type(found).__name__}, expected a pair (images, labels) of arrays or tensors, or a "
            "torch.utils.data.Dataset of pairs (image, label)"
        )
    total = len(found)
    if not total:
        raise ValueError("got a dataset of no images, expected 1 or more")

    first, _ = _pair(found, 0)
    mode = mode_of(lambda row: _pair(found, row)[0], total) if isinstance(first, Image) else "RGB"

    def image(row: int) -> Tensor:
        value, _ = _pair(found, row)
        if isinstance(value, Image):
            return as_bytes(value, size, mode)
        return images_and_labels(_array(value)[None], np.zeros(1, np.int64)).images[0]

    # Only an order needs the labels of all items.
    known = np.empty(0, np.int64) if order is None else np.asarray([_pair(found, row)[1] for row in range(total)])
    rows, indices = (range(total)[:count], None) if order is None else taken(known, count, order)
    pixels = Pixels(lambda position: _read(image, rows[position]), len(rows))
    labels = []
    for position, row in enumerate(rows):
        pixels[position]  # its shape is that of the first
        labels.append(_pair(found, row)[1])
    numbers = np.asarray(labels)
    checked_labels(numbers, len(numbers))
    chosen = torch.from_numpy(numbers.astype(np.int64))
    return Images(pixels, chosen, total, indices=indices, pictures=isinstance(first, Image))


def _pair(found: Any, row: int) -> tuple[Any, int]:
    """An image, as it is, and its class."""
    try:
        image, label = found[row]
        number = int(label)
        if number != float(label):
            raise ValueError(f"the label {label}")  # noqa: TRY301  # told as below
        return (image if isinstance(image, Image | Tensor) else np.asarray(image)), number
    except Exception as error:  # code of the user
        raise ValueError(
            f"got {type(error).__name__} for item {row} of the dataset ({one_line(error)}), expected a pair "
            "(image, label) of a tensor and a class number"
        ) from error


def _read(image: Callable[[int], Tensor], row: int) -> Tensor:
    try:
        return image(row)
    except ValueError as error:
        raise WrongImageError(f"{error} (item {row} of the dataset)") from error


LOOKED_AT = 16
"""Pictures that decide whether those of a dataset are grey."""


def mode_of(picture: Callable[[int], Image], count: int) -> str:
    """The mode of a dataset: L if its first pictures are grey, else RGB, because photographs are often mixed."""
    modes = {picture(row).mode for row in range(min(count, LOOKED_AT))}
    return "L" if modes <= {"1", "L", "LA"} else "RGB"


def as_bytes(picture: Image, size: ImageSize | None, mode: str = "RGB") -> Tensor:
    """A picture at the size of the run: uint8, shape (C, H, W), with three channels, or one for the mode "L".

    Raises:
        ValueError: for more than 8 bits for each channel, a picture with colours where all should be grey, or a crop
            that is larger than the picture.
    """
    if picture.mode[0] in "IF":
        raise ValueError(f"it has {picture.mode} values, of more than 8 bits, expected 8 bits for each channel")
    if mode == "L" and picture.mode not in ("1", "L", "LA"):
        raise ValueError(f"it has colours ({picture.mode}), and the first {LOOKED_AT} are grey: convert all to RGB")
    if picture.mode != mode:
        picture = picture.convert(mode)
    if size is not None:
        picture = resized(picture, size)
    values = torch.from_numpy(np.array(picture))
    return values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()


def resized(picture: Image, size: ImageSize) -> Image:
    """Resize a picture with antialiasing, and crop it at the centre, as the transforms of torchvision do.

    Raises:
        ValueError: if the crop is larger than the resized picture.
    """
    width, height = picture.size
    if len(size.resize) == 2:
        height, width = size.resize
    else:
        # The longer side is rounded down, as torchvision does it.
        shorter, longer = sorted((width, height))
        sides = size.resize[0], int(size.resize[0] * longer / shorter)
        width, height = sides if width <= height else sides[::-1]
    if (width, height) != picture.size:
        picture = picture.resize((width, height), getattr(Resampling, size.interpolation.upper()))
    if not size.crop:
        return picture
    if size.crop[0] > height or size.crop[1] > width:
        raise ValueError(
            f"got a picture that is {height}x{width} pixels after resizing, expected {size.crop[0]}x{size.crop[1]} or "
            "more for the crop"
        )
    margins = [(whole - part) / 2 for whole, part in zip((height, width), size.crop, strict=True)]
    top, left = (round(margin) if size.rounded else int(margin) for margin in margins)
    return picture.crop((left, top, left + size.crop[1], top + size.crop[0]))


def _is_of_numbers(labels: Any) -> bool:
    """Whether the second of two items is labels, as in a pair (images, labels), and not in a dataset of two items."""
    if hasattr(labels, "shape"):
        return True
    return isinstance(labels, tuple | list) and all(isinstance(one, int | float | np.generic) for one in labels)
