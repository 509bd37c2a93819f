"""Datasets: images in [0, 1] with their classes, by dataset index, from wherever the command line says."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from robustness_tests.subjects.images import Images, from_object, images_and_labels
from robustness_tests.subjects.objects import attribute_of, one_line
from robustness_tests.subjects.sources import CORRUPTIONS, Source


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
        "cifar10-c": lambda: cifar10_c(source.location, data_dir, count),
        "npz": lambda: npz(Path(source.location), count),
        "folder": lambda: folder(Path(source.location), count),
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
    corrupted = data_dir / "CIFAR-10-C"
    files = [corrupted / f"{corruption}.npy", corrupted / "labels.npy"]
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
        raise ValueError(f"got a file of {corrupted} that cannot be read: {one_line(error)}") from error
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


def folder(path: Path, count: int | None = None) -> Images:
    """A folder with a folder of image files for each class, by torchvision's ImageFolder; RGB, of one size.

    Class numbers are those of the sorted names of the folders. The images are taken from the classes in turn, the first
    file of each, then the second of each, so that the first N images of the dataset are not all of one class.

    Raises:
        ValueError: if there are no images, they are of several sizes, or one cannot be read.
    """
    try:
        dataset = _VisibleFolder(str(path), loader=_picture)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"got a folder {path.name} without images ({one_line(error)}), expected a folder of image files for each "
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
