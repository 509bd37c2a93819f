"""What the benchmarks measure on: real networks, and the first test images that each classifies correctly."""

import importlib.util
from pathlib import Path

import torch

from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import bundled_images, digits
from robustness_tests.subjects.models import bundled

STUDY = Path(__file__).parents[1] / "examples" / "cifar10_study" / "models.py"
CIFAR10 = ("resnet20", "cnn_a_standard", "cnn_a_adv", "wide_standard", "wide_robust")
DIGITS = ("standard", "robust")


def subject(name, count, first=0):
    """A network, and `count` images from number `first` on, with their labels, all classified correctly."""
    network, images, labels = _digits(name) if name in DIGITS else _cifar10(name)
    images, labels = images[first : first + 3 * count], labels[first : first + 3 * count]
    with torch.no_grad():
        correct = (network(images).argmax(dim=1) == labels).nonzero().flatten()[:count]
    return network, images[correct].clone(), labels[correct].clone()


def _digits(name):
    data = digits("test")
    return bundled(MODELS["digits", name]), data.images, data.labels


def _cifar10(name):
    sample = bundled_images("cifar10-sample")
    if name.startswith("wide_"):
        return bundled(MODELS["cifar10-sample", name.removeprefix("wide_")]), sample.images, sample.labels
    specification = importlib.util.spec_from_file_location("cifar10_study_models", STUDY)
    models = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(models)
    return getattr(models, name)(), sample.images, sample.labels
