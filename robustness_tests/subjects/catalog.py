"""The bundled models and datasets. Imports no torch: naming is instant."""

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

NORMS = ("linf", "l2", "l1")
"""Norms of perturbations that a run can ask for: those of the metrics."""

WEIGHTS = Path(__file__).with_name("weights")
DATA = Path(__file__).with_name("data")

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class DatasetCard:
    """A bundled dataset, as named on the command line, in test ids and in the report.

    Attributes:
        name: the value for `--dataset`.
        test_images: size of the test split; every dataset index is below it.
        classes: number of classes.
        channels: number of colour channels.
        values: number of values in an image: channels x height x width.
        clever_radius: radius of CLEVER's ball for each norm, in units of the image range. A constant of the dataset:
            two to four times the median adversarial distance of its robust model, so that the cap does not decide the
            score. It is larger in L1, because random points of an L1 ball hardly ever come near its corners.
        images: number of images measured by default, so that a run ends within ten minutes on two cores.
        class_names: names of the classes; empty if they have only numbers.
        sha256: digest of the image file; empty if a library provides the images.
    """

    name: str
    test_images: int
    classes: int
    channels: int
    values: int
    clever_radius: Mapping[str, float]
    images: int = 100
    class_names: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def file(self) -> Path:
        """The file of the images, where it is bundled."""
        return DATA / f"{self.name}.npz"

    def check_file(self) -> None:
        """Check that the image file exists and has the digest in this catalog.

        Raises:
            ValueError: if the file is missing or has another digest.
        """
        _check_digest(self.file, self.sha256, f"dataset {self.name!r}", "reinstall the package")


@dataclass(frozen=True)
class WideResNetShape:
    """A WideResNet of this depth and width."""

    depth: int
    width: int


@dataclass(frozen=True)
class FullyConnectedShape:
    """A fully connected ReLU network with hidden layers of these sizes."""

    hidden: tuple[int, ...]


@dataclass(frozen=True)
class ModelCard:
    """A bundled model: its architecture, and the file that holds its weights.

    Attributes:
        name: the value for `--model` and `--against`.
        dataset: name of the bundled dataset that it classifies.
        architecture: type and size of the network.
        mean: mean of each channel, for the normalisation inside the network.
        std: standard deviation of each channel, for the normalisation inside the network.
        sha256: digest of the weights file.
        least_clean_accuracy: lowest accepted clean accuracy on the test split.
    """

    name: str
    dataset: str
    architecture: WideResNetShape | FullyConnectedShape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    least_clean_accuracy: float

    @property
    def weights(self) -> Path:
        """The safetensors file of the weights."""
        return WEIGHTS / f"{self.dataset}-{self.name}.safetensors"

    def check_weights(self) -> None:
        """Check that the weights file exists and has the digest in this catalog.

        Raises:
            ValueError: if the file is missing or has another digest.
        """
        to_do = "reinstall the package, or write the new digest into catalog.py if you have trained anew"
        _check_digest(self.weights, self.sha256, f"model {self.name!r}", to_do)


def _check_digest(file: Path, sha256: str, what: str, to_do: str) -> None:
    if not file.is_file():
        raise ValueError(f"got no file {file.name} of {what}: reinstall the package")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(f"got file {file.name} of {what} with digest {digest[:12]}, expected {sha256[:12]}: {to_do}")


DATASETS = {
    card.name: card
    for card in [
        # Handwritten digits, 8x8 grey (scikit-learn), every fifth image for testing.
        DatasetCard(
            name="digits",
            test_images=360,
            classes=10,
            channels=1,
            values=64,
            clever_radius={"linf": 0.25, "l2": 1.25, "l1": 6.0},
        ),
        # The first 500 test images of CIFAR-10 (Krizhevsky 2009), 32x32 RGB.
        DatasetCard(
            name="cifar10-sample",
            test_images=500,
            classes=10,
            channels=3,
            values=3072,
            clever_radius={"linf": 0.02, "l2": 0.5, "l1": 10.0},
            images=60,
            class_names=CIFAR10_CLASSES,
            sha256="7ef92405a95be053b8ccca818aab9a1a6789207a433aee218c969d8fc078caf1",
        ),
    ]
}

MODELS = {
    (card.dataset, card.name): card
    for card in [
        # WideResNet-10-1, trained on shifted digits.
        ModelCard(
            name="standard",
            dataset="digits",
            architecture=WideResNetShape(depth=10, width=1),
            mean=(0.5,),
            std=(0.25,),
            sha256="80eeaec08fdb091d8822c63983efb338989249b981263f14e4e3715ba24aace9",
            least_clean_accuracy=0.98,
        ),
        # WideResNet-10-1, trained on shifted digits with random Linf, L2, L1 and L0 corruptions.
        ModelCard(
            name="robust",
            dataset="digits",
            architecture=WideResNetShape(depth=10, width=1),
            mean=(0.5,),
            std=(0.25,),
            sha256="cff91d702ca560d9e65bbfe04921f4d2ce589dbe1af01faa9eca866acef3196b",
            least_clean_accuracy=0.98,
        ),
        # Fully connected 64-32-10, trained on digits with random Linf, L2, L1 and L0 corruptions.
        ModelCard(
            name="mlp",
            dataset="digits",
            architecture=FullyConnectedShape(hidden=(32,)),
            mean=(0.5,),
            std=(0.25,),
            sha256="9bec3d811b08ce8093d3ebed4f459b4103ba9ec7c935afb738d0662f172b18e5",
            least_clean_accuracy=0.96,
        ),
        # WideResNet-16-1, trained on flipped and shifted images.
        ModelCard(
            name="standard",
            dataset="cifar10-sample",
            architecture=WideResNetShape(depth=16, width=1),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            sha256="886d19547d78b91c11753fbb34b4a5a266461441bf86a84392267fe40e8b2ea9",
            least_clean_accuracy=0.84,
        ),
        # WideResNet-16-1, trained on such images with random Linf, L2, L1 and L0 corruptions.
        ModelCard(
            name="robust",
            dataset="cifar10-sample",
            architecture=WideResNetShape(depth=16, width=1),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            sha256="b97043da933fe0322e0cd270af61f78bf26b8640e865d458c34ca40f6dc4e970",
            least_clean_accuracy=0.82,
        ),
    ]
}
"""The bundled models, by dataset and name."""

MODEL_NAMES = tuple(dict.fromkeys(name for _, name in MODELS))


def models_of(dataset: str) -> list[str]:
    """The names of the bundled models for a dataset.

    Example:
        >>> models_of("digits")
        ['standard', 'robust', 'mlp']
    """
    return [name for of, name in MODELS if of == dataset]


def closest(got: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the known ones, and the nearest.

    Example:
        >>> closest("robst", ["standard", "robust"])
        "expected one of 'standard', 'robust'; did you mean 'robust'?"
    """
    known = list(known)
    matches = difflib.get_close_matches(got, known, n=1)
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    return f"expected one of {', '.join(map(repr, known))}{hint}"
