"""The model under test, with the images that it is tested on."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import load_dataset, order_for
from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.models import check_bundled, load_model, model_digest
from robustness_tests.subjects.outputs import LOOKED_AT, adapted
from robustness_tests.subjects.reproducible import reproducible, resolve_device
from robustness_tests.subjects.sources import Source


@dataclass(frozen=True)
class Subject:
    """A model under test, with the images that it is tested on.

    Attributes:
        name: name of the model, as in the ids of tests.
        network: in evaluation mode, parameters frozen, on `device`.
        dataset: name of the dataset.
        images: the first images of its test split, as many as the run needs, on the CPU.
        device: where the network is.
        digest: digest of weights, code and the logits of some images.
    """

    name: str
    network: nn.Module
    dataset: str
    images: Images
    device: torch.device
    digest: str

    def __repr__(self) -> str:
        return f"Subject({self.name!r} on {self.dataset!r}, {self.device})"

    def logits(self, images: Tensor) -> Tensor:
        """The logits of images, shape (N, K), on the CPU, without a graph."""
        with torch.no_grad(), reproducible():
            # A copy: a network may work in place.
            return self.network(images.to(self.device, copy=True)).cpu()

    @functools.cached_property
    def _positions(self) -> Mapping[int, int]:
        return {self.images.index(position): position for position in range(len(self.images.labels))}

    def position(self, index: int) -> int:
        """The position, among the images that are loaded, of the one with this dataset index.

        Raises:
            KeyError: if it is not loaded.
        """
        return self._positions[index]

    def right(self, count: int) -> dict[int, bool]:
        """Whether each of the first `count` images is classified correctly, by dataset index."""
        return {image: predicted == self.label(image) for image, predicted in self.predictions(count).items()}

    def predictions(self, count: int) -> dict[int, int]:
        """The predicted class of each of the first `count` images, by dataset index."""
        batches = (self.images.images[first : min(first + 100, count)] for first in range(0, count, 100))
        logits = torch.cat([self.logits(batch) for batch in batches])
        return {self.images.index(position): predicted for position, predicted in enumerate(logits.argmax(1).tolist())}

    def prediction(self, image: Tensor) -> tuple[int, float]:
        """The predicted class of one image, shape (C, H, W), and its softmax probability."""
        confidences = self.logits(image[None]).double().softmax(dim=1)
        return int(confidences.argmax()), float(confidences.max())

    def image(self, index: int) -> Tensor:
        """The image of a dataset index, shape (C, H, W)."""
        return self.images.images[self.position(index)]

    def label(self, index: int) -> int:
        """The class of a dataset index."""
        return int(self.images.labels[self.position(index)])


class Counted(nn.Module):
    """A wrapper of a network that calls `count` with the number of images of each forward pass."""

    def __init__(self, network: nn.Module, count: Callable[[int], None]) -> None:
        super().__init__()
        self.network, self.count = network, count
        # Not eval(), which an exported program does not know.
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the network."""
        self.count(len(images))
        return self.network(images)


@functools.cache
def subject(
    source: Source,
    dataset: Source,
    count: int,
    device: str,
    data_dir: Path,
    size: ImageSize | None = None,
    sampling: str = "first",
    seed: int = 0,
) -> Subject:
    """A model and the first `count` images of its dataset, loaded once in a process."""
    images, where = _images(dataset, data_dir, count, size, sampling, seed), resolve_device(device)
    with reproducible():
        network = load_model(source, data_dir, where)
    with reproducible():
        network, _ = adapted(network, images.images[:LOOKED_AT].to(where))
        if source.kind == "bundled":
            # The others were looked at before the run.
            check_bundled(MODELS[source.location, source.name], network, images, where)
        digest = model_digest(source, network, images, where)
    return Subject(source.name, network, dataset.name, images, where, digest)


@functools.cache
def _images(dataset: Source, data_dir: Path, count: int, size: ImageSize | None, sampling: str, seed: int) -> Images:
    return load_dataset(dataset, data_dir, count, size, order_for(sampling, seed))
