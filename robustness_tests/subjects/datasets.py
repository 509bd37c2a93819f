"""Datasets: images in [0, 1] with their classes, by dataset index, from wherever the command line says."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from robustness_tests.subjects.objects import attribute_of
from robustness_tests.subjects.sources import CORRUPTIONS, Source

LARGEST_LABEL = 10**6
"""No classifier has so many classes."""

CHANNELS = (1, 2, 3, 4)
"""A dimension of another size is not taken for the channels."""


@dataclass(frozen=True, eq=False)
class Images:
    """The first images of a split of a dataset.

    Attributes:
        images: shape (N, C, H, W), float32, values in [0, 1].
        labels: class numbers, int64, shape (N,).
        split_size: how many images the split has; None if these are all.
        known_largest: the largest label of the split, as far as labels are known without loading images.
        class_names: of the folders that the classes are in; empty for other datasets.
    """

    images: Tensor
    labels: Tensor
    split_size: int | None = None
    known_largest: int = 0
    class_names: tuple[str, ...] = ()

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


def load_dataset(source: Source, data_dir: Path, count: int | None = None) -> Images:
    """The first `count` images of the test split of a dataset, or all.

    Args:
        source: which dataset.
        data_dir: folder of datasets that have names; what is missing there is downloaded to it.
        count: how many images are needed, at most.

    Raises:
        ValueError: if there are no such images, or they are not what `images_and_labels` expects.
    """
    loaders: dict[str, Callable[[], Images]] = {
        "bundled": lambda: digits("test"),
        "cifar10": lambda: cifar10(data_dir, count),
        "cifar10-c": lambda: cifar10_c(source.place, data_dir, count),
        "npz": lambda: npz(Path(source.place), count),
        "folder": lambda: folder(Path(source.place), count),
        "object": lambda: from_object(attribute_of(source), count),
    }
    return loaders[source.kind]()


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


def cifar10(data_dir: Path, count: int | None = None) -> Images:
    """The 10,000 test images of CIFAR-10 (Krizhevsky 2009), by torchvision; downloaded to `data_dir` if not there.

    torchvision unpickles the files of the authors, after it has compared their digests with the known ones.

    Raises:
        ValueError: if they are not there and cannot be downloaded, with where to put them.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  # slow to import

    try:
        try:
            dataset = CIFAR10(str(data_dir), train=False)
        except RuntimeError:  # not there, or not the known files
            data_dir.mkdir(parents=True, exist_ok=True)
            dataset = CIFAR10(str(data_dir), train=False, download=True)
    except (OSError, RuntimeError) as error:
        missing = data_dir / CIFAR10.base_folder / "test_batch"
        raise ValueError(
            f"got no file {missing} as CIFAR-10 has it, and no download ({one_line(error)}): unpack {CIFAR10.filename} "
            "in that folder, or give --data-dir=DIR"
        ) from error
    return images_and_labels(dataset.data, np.asarray(dataset.targets), count)


def cifar10_c(corruption_and_severity: str, data_dir: Path, count: int | None = None) -> Images:
    """The 10,000 images of one corruption and severity of CIFAR-10-C (Hendrycks & Dietterich 2019).

    Args:
        corruption_and_severity: "fog:3", for example.
        data_dir: where the folder CIFAR-10-C is; RobustBench downloads it there if it is not.
        count: how many images are needed, at most.

    Raises:
        ValueError: if they are not there and cannot be downloaded, with where to put them.
    """
    corruption, _, severity = corruption_and_severity.partition(":")
    place = data_dir / "CIFAR-10-C"
    files = [place / f"{corruption}.npy", place / "labels.npy"]
    if not all(file.is_file() for file in files):
        from robustness_tests.subjects import robustbench_zoo  # noqa: PLC0415  # slow to import

        try:
            robustbench_zoo.download_cifar10_c(corruption, data_dir)
        except Exception as error:  # whatever a download may raise
            missing = next(file for file in files if not file.is_file())
            raise ValueError(
                f"got no file {missing}, and no download ({one_line(error)}): unpack CIFAR-10-C.tar in {data_dir}, "
                "or give --data-dir=DIR"
            ) from error
    try:
        images, labels = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"got a file of {place} that cannot be read: {one_line(error)}") from error
    rows = slice((int(severity) - 1) * 10_000, int(severity) * 10_000)
    return images_and_labels(images[rows], labels[rows] if len(labels) == len(images) else labels[:10_000], count)


def common_corruptions(data_dir: Path, count: int) -> Iterator[tuple[str, Images]]:
    """The first images of each corruption and severity of CIFAR-10-C, with its name; none where it is not there."""
    if (data_dir / "CIFAR-10-C" / "labels.npy").is_file():
        for corruption in CORRUPTIONS:
            if (data_dir / "CIFAR-10-C" / f"{corruption}.npy").is_file():
                for severity in range(1, 6):
                    yield corruption, cifar10_c(f"{corruption}:{severity}", data_dir, count)


def npz(file: Path, count: int | None = None) -> Images:
    """The arrays `images` and `labels` of a file that `numpy.savez` or `savez_compressed` wrote.

    Raises:
        ValueError: if the file cannot be read without unpickling, or has no such arrays.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("a single array; numpy.savez writes several")  # noqa: TRY301  # told as below
            names = arrays.files
            images, labels = ((arrays[name] if name in names else None) for name in ("images", "labels"))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"got a file {file.name} that cannot be read as npz ({one_line(error)}), expected arrays 'images' and "
            "'labels' of numbers, written by numpy.savez"
        ) from error
    if images is None or labels is None:
        raise ValueError(f"got arrays {', '.join(map(repr, names))} in {file.name}, expected 'images' and 'labels'")
    return images_and_labels(images, labels, count)


def folder(place: Path, count: int | None = None) -> Images:
    """A folder with a folder of image files for each class, by torchvision's ImageFolder; RGB, of one size.

    Class numbers are those of the sorted names of the folders. The images are taken from the classes in turn, the first
    file of each, then the second of each, so that the first N images of the dataset are not all of one class.

    Raises:
        ValueError: if there are no images, they are of several sizes, or one cannot be read.
    """
    try:
        dataset = _VisibleFolder(str(place), loader=_picture)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"got a folder {place.name} without images ({one_line(error)}), expected a folder of image files for each "
            "class in it"
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
    """Without the hidden folders that tools leave behind: they are no classes."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The names of the folders that do not start with a dot, in order, and their numbers."""
        names = sorted(place.name for place in Path(directory).iterdir() if place.is_dir() and place.name[0] != ".")
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


def from_object(found: Any, count: int | None = None) -> Images:
    """A dataset of a user: a pair (images, labels), or a `torch.utils.data.Dataset` of pairs (image, label).

    Raises:
        ValueError: if it is neither, or an item of it raises.
    """
    if isinstance(found, Mapping) and found.keys() >= {"images", "labels"}:
        return images_and_labels(found["images"], found["labels"], count)
    if isinstance(found, tuple | list) and len(found) == 2 and _is_of_numbers(found[1]):
        return images_and_labels(found[0], found[1], count)
    if not hasattr(found, "__getitem__") or not hasattr(found, "__len__") or isinstance(found, str):
        raise ValueError(
            f"got a dataset of {type(found).__name__}, expected a pair (images, labels) of arrays or tensors, or a "
            "torch.utils.data.Dataset of pairs (image, label)"
        )
    total = len(found)
    if not total:
        raise ValueError("got a dataset of no images, expected 1 or more")
    images, labels = [], []
    for row in range(total if count is None else min(count, total)):
        try:
            image, label = found[row]
            images.append(torch.as_tensor(np.asarray(image) if not isinstance(image, Tensor) else image))
            labels.append(int(label))
        except Exception as error:  # code of the user
            raise ValueError(
                f"got {type(error).__name__} for item {row} of the dataset ({one_line(error)}), expected a pair "
                "(image, label) of a tensor and a class number"
            ) from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"got images of shapes {tuple(images[0].shape)} and {tuple(images[-1].shape)}, expected one shape"
            )
    of_items = images_and_labels(torch.stack(images), np.asarray(labels), None)
    return Images(of_items.images, of_items.labels, total, of_items.known_largest)


def _is_of_numbers(labels: Any) -> bool:
    """Whether these are labels, of a pair of images and labels, and not the second item of a list of two."""
    if hasattr(labels, "shape"):
        return True
    return isinstance(labels, tuple | list) and all(isinstance(one, int | float | np.generic) for one in labels)


def images_and_labels(images: Any, labels: Any, count: int | None = None) -> Images:
    """Images and labels as the metrics want them, from arrays or tensors as users have them.

    Args:
        images: uint8 in 0 to 255, shape (N, H, W, C) or (N, H, W); or floating-point in [0, 1], shape (N, C, H, W).
        labels: class numbers from 0 on, shape (N,).
        count: how many of them are needed, at most.

    Raises:
        ValueError: for another type, shape or range, with what was got, what is expected, and what to do.

    Example:
        >>> images_and_labels(np.full((2, 8, 8, 3), 255, np.uint8), np.array([0, 1])).images.shape
        torch.Size([2, 3, 8, 8])
    """
    arrays = [_array(one) for one in (images, labels)]
    total = _checked_labels(arrays[1], len(arrays[0]) if arrays[0].ndim else 0)
    some, chosen = arrays[0][:count], arrays[1][:count].astype(np.int64)
    of_bytes = some.dtype == np.uint8
    if not of_bytes and some.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"got images of {some.dtype}, expected uint8 in 0 to 255, or floating-point numbers in [0, 1]")
    some = _with_channels_last(some) if of_bytes else _with_channels_first(some)
    values = torch.from_numpy(some.copy())  # of its own, contiguous: a file may be mapped into memory
    scaled = values.float().div(255) if of_bytes else values.float()
    return Images(scaled.contiguous(), torch.from_numpy(chosen), total, int(arrays[1].max()))


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        narrow = values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64)
        return (values.detach().float() if narrow else values.detach()).to_dense().cpu().numpy()
    return np.asarray(values)


def _checked_labels(labels: NDArray[Any], images: int) -> int:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(f"got labels of shape {labels.shape}, expected class numbers (N,): labels.argmax(axis=1)")
    if labels.ndim != 1 or len(labels) != images or not images:
        raise ValueError(f"got {images} images and labels of shape {labels.shape}, expected as many of both, 1 or more")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"got labels of {labels.dtype}, expected whole numbers: labels.astype('int64')")
    if int(labels.min()) < 0 or int(labels.max()) > LARGEST_LABEL:
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
    if int(images.max()) == 1:
        raise ValueError("got uint8 images of 0 and 1 only, expected 0 to 255: store them as float32 in [0, 1]")
    return images.transpose(0, 3, 1, 2)


def _with_channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Numbers (N, C, H, W) in [0, 1], as they are."""
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
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        what = "put the normalisation inside the model" if low < 0 else "divide them by 255, or store them as uint8"
        raise ValueError(f"got image values from {low:g} to {high:g}, expected [0, 1]: {what}")
    return images


def one_line(error: BaseException) -> str:
    """What an exception says, in one line that is not too long; its type where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:240]}..."
