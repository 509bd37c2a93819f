"""Datasets by their names in torchvision and at Hugging Face. An image is read when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from robustness_tests.subjects.catalog import closest
from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.images import Images, Order, as_bytes, checked_labels, mode_of, taken
from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.optional import optional
from robustness_tests.subjects.pixels import Pixels, WrongImageError

OF_TORCHVISION: Mapping[str, Mapping[str, Any]] = {
    "CIFAR10": {"train": False},
    "CIFAR100": {"train": False},
    "Country211": {"split": "test"},
    "DTD": {"split": "test"},
    "FGVCAircraft": {"split": "test"},
    "FashionMNIST": {"train": False},
    "Flowers102": {"split": "test"},
    "Food101": {"split": "test"},
    "GTSRB": {"split": "test"},
    "ImageNet": {"split": "val"},
    "Imagenette": {"split": "val"},
    "KMNIST": {"train": False},
    "MNIST": {"train": False},
    "OxfordIIITPet": {"split": "test"},
    "PCAM": {"split": "test"},
    "STL10": {"split": "test"},
    "SVHN": {"split": "test"},
    "StanfordCars": {"split": "test"},
    "USPS": {"train": False},
}
"""Classification datasets of torchvision, and what selects their test images."""


def torchvision_dataset(
    name: str, data_dir: Path, count: int | None, size: ImageSize | None, order: Order | None
) -> Images:
    """The test images of a dataset of torchvision, downloaded to `data_dir` if they are not there.

    Raises:
        ValueError: for an unknown name, or files that are missing and cannot be downloaded.
    """
    if name not in OF_TORCHVISION:
        raise ValueError(f"got 'torchvision:{name}', {closest(name, list(OF_TORCHVISION))}")
    from torchvision import datasets  # noqa: PLC0415  # slow to import

    kind, split = getattr(datasets, name), OF_TORCHVISION[name]
    try:
        try:
            found = kind(str(data_dir), **split)
        except RuntimeError:  # not there, or not the known files
            if name == "ImageNet":
                raise
            data_dir.mkdir(parents=True, exist_ok=True)
            found = kind(str(data_dir), **split, download=True)
    except Exception as error:  # whatever a download, or a reader of the files, may raise
        raise ValueError(
            f"got no files of {name} in {data_dir}, and no download ({one_line(error)}): put them there as torchvision "
            "expects them, or give --data-dir=DIR"
        ) from error
    labels = next((getattr(found, one) for one in ("targets", "labels", "_labels") if hasattr(found, one)), None)
    if labels is None:
        labels = [found[row][1] for row in range(len(found))]
    names = [str(one[0] if isinstance(one, tuple) else one) for one in getattr(found, "classes", ())]
    return _pictures(lambda row: found[row][0], labels, count, size, order, names)


def hugging_face_dataset(
    location: str, data_dir: Path, count: int | None, size: ImageSize | None, order: Order | None
) -> Images:
    """The images of a split of a dataset of Hugging Face: NAME:SPLIT, or NAME:SPLIT:IMAGES:LABELS with the columns.

    NAME is that of a dataset in the hub, or a folder of `save_to_disk` or of files that the library reads.

    Raises:
        ValueError: if the library is not installed, the dataset is not there, or its columns are not stated and not
            clear from their types.
    """
    datasets = optional("datasets", "hf")
    name, split, *stated = location.split(":")
    folder = Path(name)
    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name)[split]
        elif (folder / "state.json").is_file():
            found = datasets.load_from_disk(name)
            if found.split is not None and str(found.split) != split:
                raise ValueError(f"the folder is the split {str(found.split)!r}")  # noqa: TRY301  # told as below
        else:
            found = datasets.load_dataset(name, split=split, cache_dir=str(data_dir / "huggingface"))
    except Exception as error:  # whatever a download, or a reader of the files, may raise
        raise ValueError(
            f"got no split {split!r} of {name!r} ({one_line(error)}), expected hf:NAME:SPLIT of a dataset in the hub, "
            "or of a folder of save_to_disk()"
        ) from error
    pictures, labels = stated or _columns(found.features)
    if missing := [column for column in (pictures, labels) if column not in found.features]:
        raise ValueError(f"got column {missing[0]!r}, {closest(missing[0], list(found.features))}")
    names = getattr(found.features[labels], "names", ())
    return _pictures(lambda row: found[row][pictures], found[labels], count, size, order, names)


def _columns(features: Mapping[str, Any]) -> tuple[str, str]:
    """The only columns of images and of classes."""
    found = [[name for name, kind in features.items() if type(kind).__name__ == one] for one in ("Image", "ClassLabel")]
    if [len(names) for names in found] != [1, 1]:
        listed = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
        raise ValueError(f"got columns {listed}, expected which are meant: hf:NAME:SPLIT:IMAGES:LABELS")
    return found[0][0], found[1][0]


def _pictures(
    load: Callable[[int], Any],
    labels: Any,
    count: int | None,
    size: ImageSize | None,
    order: Order | None,
    names: Sequence[str],
) -> Images:
    numbers = np.asarray(list(labels))
    total = checked_labels(numbers, len(numbers))

    rows, indices = taken(numbers, count, order)
    mode = mode_of(lambda position: _picture(load, rows[position]), len(rows))

    def pixels(position: int) -> Tensor:
        row = rows[position]
        try:
            return as_bytes(_picture(load, row), size, mode)
        except ValueError as error:
            raise WrongImageError(f"got an image {row} that cannot be read: {one_line(error)}") from error

    some = torch.tensor([int(numbers[row]) for row in rows])
    return Images(Pixels(pixels, len(rows)), some, total, int(numbers.max()), tuple(names), indices, pictures=True)


def _picture(load: Callable[[int], Any], row: int) -> Image:
    try:
        picture = load(row)
    except Exception as error:  # libraries, and damaged files
        raise WrongImageError(f"got an image {row} that cannot be read: {one_line(error)}") from error
    if not isinstance(picture, Image):
        raise WrongImageError(f"got an image {row} that is a {type(picture).__name__}, expected a picture")
    return picture
