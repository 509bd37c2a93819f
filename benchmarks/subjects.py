"""What the benchmarks measure on: real networks, and the first test images that each classifies correctly."""

import importlib.util
from pathlib import Path

import torch

from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import bundled_images, digits
from robustness_tests.subjects.models import bundled

STUDY = Path(__file__).parents[1] / "examples" / "cifar10_study" / "models.py"
CIFAR10 = ("resnet20", "cnn_a_standard", "cnn_a_adv")
DIGITS = ("standard", "robust")


def subject(name, count):
    """A network, and `count` images with their labels, all classified correctly."""
    network, images, labels = _digits(name) if name in DIGITS else _cifar10(name)
    with torch.no_grad():
        correct = (network(images[: 3 * count]).argmax(dim=1) == labels[: 3 * count]).nonzero().flatten()[:count]
    return network, images[correct].clone(), labels[correct].clone()


def _digits(name):
    data = digits("test")
    return bundled(MODELS["digits", name]), data.images, data.labels


def _cifar10(name):
    specification = importlib.util.spec_from_file_location("cifar10_study_models", STUDY)
    models = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(models)
    sample = bundled_images("cifar10-sample")
    return getattr(models, name)(), sample.images, sample.labels
