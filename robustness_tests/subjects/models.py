"""Models: networks with their weights, loaded strictly and checked."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from robustness_tests.subjects import fully_connected, wide_resnet
from robustness_tests.subjects.catalog import DATASETS, ModelCard, WideResNetShape
from robustness_tests.subjects.datasets import Images
from robustness_tests.subjects.fully_connected import FullyConnected
from robustness_tests.subjects.wide_resnet import WideResNet


def build_network(card: ModelCard) -> nn.Module:
    """The architecture of a bundled model, with random weights."""
    dataset, architecture = DATASETS[card.dataset], card.architecture
    if isinstance(architecture, WideResNetShape):
        return WideResNet(
            depth=architecture.depth,
            width=architecture.width,
            classes=dataset.classes,
            channels=dataset.channels,
            mean=card.mean,
            std=card.std,
        )
    (mean,), (std,) = card.mean, card.std
    return FullyConnected(dataset.values, architecture.hidden, dataset.classes, mean, std)


def load_model(card: ModelCard, images: Images, device: torch.device) -> nn.Module:
    """A bundled model in evaluation mode, its parameters frozen, on a device.

    Args:
        card: which model.
        images: the test split that its clean accuracy is checked on.
        device: where it shall run.

    Raises:
        ValueError: if the weights file is not the one of the catalog, does not fit the architecture, or classifies
            fewer of the images correctly than it has to.
    """
    card.check_weights()
    network = build_network(card)
    try:
        network.load_state_dict(load_file(card.weights), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"got weights in {card.weights.name} that do not fit the architecture: {reason}") from error
    network.eval().requires_grad_(False).to(device)
    accuracy = clean_accuracy(network, images, device)
    if accuracy < card.least_clean_accuracy:
        raise ValueError(
            f"got clean accuracy {accuracy:.2%} of model {card.name!r} on the test split, "
            f"expected {card.least_clean_accuracy:.0%} or more"
        )
    return network


def clean_accuracy(network: nn.Module, images: Images, device: torch.device, batch_size: int = 100) -> float:
    """The share of images whose largest logit is that of their class."""
    right = 0
    with torch.no_grad():
        for batch, labels in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
            right += int((network(batch.to(device)).argmax(dim=1).cpu() == labels).sum())
    return right / len(images.labels)


def model_digest(card: ModelCard) -> str:
    """A digest of the weights and of the code of the architecture: what the outputs depend on."""
    digest = hashlib.sha256(card.weights.read_bytes())
    code = wide_resnet if isinstance(card.architecture, WideResNetShape) else fully_connected
    digest.update(Path(str(code.__file__)).read_bytes())
    digest.update(repr((card.architecture, card.mean, card.std)).encode())
    return digest.hexdigest()
