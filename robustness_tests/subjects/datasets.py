"""Load the dataset that the command line names: images in [0, 1] and labels, by dataset index."""

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robustness_tests.subjects.archives import check_archive
from robustness_tests.subjects.catalog import DATASETS
from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.images import Images, Order, from_object, images_and_labels
from robustness_tests.subjects.named_datasets import hugging_face_dataset, torchvision_dataset
from robustness_tests.subjects.objects import attribute_of, one_line
from robustness_tests.subjects.sampling import order_of
from robustness_tests.subjects.sources import CORRUPTIONS, Source


def load_dataset(
    source: Source,
    data_dir: Path,
    count: int | None = None,
    size: ImageSize | None = None,
    order: Order | None = None,
) -> Images:
    """Load the first `count` images of the test split of a dataset, or all.

    Args:
        source: the dataset.
        data_dir: folder of named datasets; missing files are downloaded to it.
        count: number of images to load; digits are always loaded completely.
        size: what pictures are brought to; None leaves them as they are. Arrays and tensors are never resized.
        order: the order in which images are taken; as they are if None.

    Raises:
        ValueError: if the images cannot be read, or are not what `images_and_labels` expects.
    """
    loaders: dict[str, Callable[[], Images]] = {
        "bundled": lambda: bundled_images(source.name, count, order),
        "cifar10": lambda: cifar10(data_dir, count, order),
        "cifar10-c": lambda: corrupted_cifar("CIFAR-10-C", source.location, data_dir, count, order),
        "cifar100-c": lambda: corrupted_cifar("CIFAR-100-C", source.location, data_dir, count, order),
        "npz": lambda: npz(Path(source.location), count, order),
        "folder": lambda: _folder(Path(source.location), count, size, order),
        "torchvision": lambda: torchvision_dataset(source.location, data_dir, count, size, order),
        "hf": lambda: hugging_face_dataset(source.location, data_dir, count, size, order),
        "object": lambda: from_object(attribute_of(source), count, size, order),
    }
    return loaders[source.kind]()


def order_for(sample: str, seed: int) -> Order | None:
    """The order of a sample, see `subjects.sampling`; None for the order of the dataset."""
    return None if sample == "first" else lambda labels: order_of(labels, sample, seed)


def bundled_images(name: str, count: int | None = None, order: Order | None = None) -> Images:
    """The test split of a bundled dataset.

    Raises:
        ValueError: if its file is missing or was changed.

    Example:
        >>> bundled_images("cifar10-sample", 5).images.shape
        torch.Size([5, 3, 32, 32])
    """
    card = DATASETS[name]
    if not card.sha256:
        found = digits("test")
        return found if order is None else images_and_labels(found.images, found.labels, None, order)
    card.check_file()
    return replace(npz(card.file, count, order), class_names=card.class_names)


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


def cifar10(data_dir: Path, count: int | None = None, order: Order | None = None, *, train: bool = False) -> Images:
    """The 10,000 test images of CIFAR-10 (Krizhevsky 2009), from torchvision; downloaded to `data_dir` if missing.

    With `train`, the 50,000 training images instead.

    torchvision checks the digests of the authors' files before it unpickles them.

    Raises:
        ValueError: if the files are missing and cannot be downloaded; the message says where to put them.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  # slow to import

    try:
        try:
            dataset = CIFAR10(str(data_dir), train=train)
        except RuntimeError:  # not there, or not the known files
            data_dir.mkdir(parents=True, exist_ok=True)
            dataset = CIFAR10(str(data_dir), train=train, download=True)
    except (OSError, RuntimeError) as error:
        missing = data_dir / CIFAR10.base_folder / ("data_batch_1" if train else "test_batch")
        raise ValueError(
            f"got no valid CIFAR-10 file {missing}, and no download ({one_line(error)}): unpack {CIFAR10.filename} "
            "in that folder, or give --data-dir=DIR"
        ) from error
    return images_and_labels(dataset.data, np.asarray(dataset.targets), count, order)


def corrupted_cifar(
    name: str, corruption_and_severity: str, data_dir: Path, count: int | None = None, order: Order | None = None
) -> Images:
    """The 10,000 images of one corruption and severity of CIFAR-10-C or CIFAR-100-C (Hendrycks & Dietterich 2019).

    Args:
        name: "CIFAR-10-C" or "CIFAR-100-C".
        corruption_and_severity: "fog:3", for example.
        data_dir: folder that contains the folder `name`. RobustBench downloads it if it is missing.
        count: number of images to load; all of them if None.
        order: the order in which they are taken; as they are if None.

    Raises:
        ValueError: if the files are missing and cannot be downloaded; the message says where to put them.
    """
    corruption, _, severity = corruption_and_severity.partition(":")
    corrupted = data_dir / name
    files = [corrupted / f"{corruption}.npy", corrupted / "labels.npy"]
    if not all(file.is_file() for file in files):
        from robustness_tests.subjects import robustbench_zoo  # noqa: PLC0415  # slow to import

        try:
            robustbench_zoo.download_corruption(name, corruption, data_dir)
        except Exception as error:  # whatever a download may raise
            missing = next(file for file in files if not file.is_file())
            raise ValueError(
                f"got no file {missing}, and no download ({one_line(error)}): unpack {name}.tar in {data_dir}, "
                "or give --data-dir=DIR"
            ) from error
    try:
        images, labels = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"got a file of {corrupted} that cannot be read: {one_line(error)}") from error
    rows = slice((int(severity) - 1) * 10_000, int(severity) * 10_000)
    return images_and_labels(
        images[rows], labels[rows] if len(labels) == len(images) else labels[:10_000], count, order
    )


def common_corruptions(data_dir: Path, count: int, order: Order | None = None) -> Iterator[tuple[str, Images]]:
    """Yield name and images of each corruption and severity of CIFAR-10-C, as far as the files exist."""
    if (data_dir / "CIFAR-10-C" / "labels.npy").is_file():
        for corruption in CORRUPTIONS:
            if (data_dir / "CIFAR-10-C" / f"{corruption}.npy").is_file():
                for severity in range(1, 6):
                    of_severity = f"{corruption}:{severity}"
                    yield corruption, corrupted_cifar("CIFAR-10-C", of_severity, data_dir, count, order)


UNREADABLE = (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, SyntaxError)
"""What numpy and zipfile raise for a file that is damaged, encrypted or no archive."""


def npz(file: Path, count: int | None = None, order: Order | None = None) -> Images:
    """The arrays `images` and `labels` of a file that `numpy.savez` or `savez_compressed` wrote.

    Raises:
        ValueError: if the file cannot be read without unpickling, or has no such arrays.
    """
    try:
        check_archive(file)
        with np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            images, labels = ((arrays[name] if name in names else None) for name in ("images", "labels"))
    except (*UNREADABLE, zipfile.BadZipFile, tokenize.TokenError, zlib.error) as error:
        raise ValueError(
            f"got a file {file.name} that cannot be read as npz ({one_line(error)}), expected arrays 'images' and "
            "'labels' of numbers, written by numpy.savez"
        ) from error
    if images is None or labels is None:
        raise ValueError(f"got arrays {', '.join(map(repr, names))} in {file.name}, expected 'images' and 'labels'")
    return images_and_labels(images, labels, count, order)


def _folder(path: Path, count: int | None, size: ImageSize | None, order: Order | None) -> Images:
    from robustness_tests.subjects.image_folder import image_folder  # noqa: PLC0415  # torchvision is slow to import

    return image_folder(path, count, size, order)
