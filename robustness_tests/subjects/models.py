"""Load models: networks with their weights, loaded strictly, with frozen parameters."""

import hashlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import UninitializedParameter

from robustness_tests.subjects import robustbench_zoo
from robustness_tests.subjects.catalog import DATASETS, MODELS, ModelCard, WideResNetShape, closest
from robustness_tests.subjects.checkpoints import weights_only
from robustness_tests.subjects.classifier import Classifier
from robustness_tests.subjects.fully_connected import FullyConnected
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.objects import attribute_of, code_of, one_line
from robustness_tests.subjects.onnx_file import onnx_network
from robustness_tests.subjects.optional import optional
from robustness_tests.subjects.preprocessing import checked_normalisation
from robustness_tests.subjects.sources import Source
from robustness_tests.subjects.wide_resnet import WideResNet


def load_model(source: Source, data_dir: Path, device: torch.device) -> nn.Module:
    """Load the network that a source names onto a device.

    A user's network keeps its mode: `check_network` refuses training mode, but nothing switches it to evaluation mode.

    Args:
        source: the model.
        data_dir: folder of RobustBench checkpoints; missing ones are downloaded to it.
        device: device to load the network onto.

    Raises:
        ValueError: if there is no such model, or its weights cannot be read without running code.
    """
    loaders: dict[str, Callable[[], nn.Module]] = {
        "bundled": lambda: bundled(MODELS[source.location, source.name]),
        "robustbench": lambda: robustbench_zoo.load(source.location, data_dir),
        "torchvision": lambda: torchvision_model(source.location),
        "timm": lambda: timm_model(source.location),
        "hf": lambda: hugging_face_model(source.location),
        "onnx": lambda: onnx_network(Path(source.location)),
        "object": lambda: network_of(attribute_of(source)),
        "exported": lambda: exported(Path(source.location)),
        "torchscript": lambda: torchscript(Path(source.location)),
    }
    network = loaders[source.kind]().to(device)
    for name, parameter in network.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"got a lazy layer without weights ({name!r}), expected weights: load them first")
        parameter.requires_grad_(False)
    return network


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


def bundled(card: ModelCard) -> nn.Module:
    """Load a bundled model.

    Raises:
        ValueError: if the weights file is not that of the catalog, or does not fit the architecture.
    """
    card.check_weights()
    network = build_network(card)
    try:
        network.load_state_dict(load_file(card.weights), strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"got weights in {card.weights.name} that do not fit the architecture: {' '.join(str(error).split())}"
        ) from error
    return network.eval().requires_grad_(False)


def torchvision_model(name: str) -> nn.Module:
    """Load a torchvision classifier with its default weights and the normalisation they were trained with.

    Raises:
        ValueError: if there is no such classifier, or its weights are not there and cannot be downloaded.
    """
    from torchvision import models  # noqa: PLC0415  # slow to import

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"got {name!r}, expected a classifier of torchvision{_hint(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        with weights_only():
            network = models.get_model(name, weights=weights)
    except Exception as error:  # whatever a download or a file may raise
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise ValueError(f"got no weights {file} of {name} ({one_line(error)}): put the file there") from error
    transforms = weights.transforms()
    return Classifier(network, normalize=(transforms.mean, transforms.std))


def timm_model(name: str) -> nn.Module:
    """Load a pretrained timm model with the normalisation it was trained with.

    Raises:
        ValueError: if there is no such model, or its weights are not there and cannot be downloaded.
    """
    import timm  # noqa: PLC0415  # slow to import

    if not timm.is_model(name):
        raise ValueError(f"got {name!r}, expected a model of timm{_hint(name, timm.list_models())}")
    try:
        with weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever a download or a file may raise
        raise ValueError(
            f"got no weights of {name} in the cache of the Hugging Face hub, and no download ({one_line(error)}): run "
            "once with network, or set HF_HOME to a cache that has them"
        ) from error
    card = network.pretrained_cfg
    return Classifier(network, normalize=(card["mean"], card["std"]))


def hugging_face_model(location: str) -> nn.Module:
    """Load an image classifier of transformers, from a folder of `save_pretrained` or by its name in the hub.

    Its weights are read from safetensors only, and code that comes with it is not run. The normalisation is that of its
    image processor.

    Raises:
        ValueError: if transformers is not installed, there is no such model, or it cannot be downloaded.
    """
    transformers, normalisation = optional("transformers", "hf"), checked_normalisation(location)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, report = transformers.AutoModelForImageClassification.from_pretrained(
                location, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # whatever a download or a file may raise
        raise ValueError(
            f"got {location!r}, which transformers does not load as an image classifier ({one_line(error)}): give a "
            "folder of model.save_pretrained() with safetensors, or run once with network"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"got no weights {missing[0]!r} in {location!r}, which would be random, expected an image classifier with "
            "its head"
        )
    return Classifier(network, normalize=normalisation)


def _hint(name: str, known: list[str]) -> str:
    hint = closest(name, known)
    return hint[hint.index("; did") :] if "; did" in hint else f", of which there are {len(known)}"


def network_of(found: Any) -> nn.Module:
    """Check that the object of a user is a network, and return it.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"got a model of {type(found).__name__}, expected a torch.nn.Module, or a function without arguments that "
            "returns one"
        )
    return found


def exported(path: Path) -> nn.Module:
    """Load a program written by `torch.export.save`; it stays in the mode in which it was exported.

    Raises:
        ValueError: if the file is not such a program.
    """
    # For a bad file, torch logs several lines and a traceback.
    logging.disable(logging.WARNING)
    try:
        with weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.export.load(path).module()
    except Exception as error:  # what the readers of the format raise is not documented
        raise ValueError(
            f"got a file {path.name} that torch.export.load does not read ({one_line(error)}), expected a program of "
            "torch.export.save(torch.export.export(model.eval(), ...))"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    # The flag has no effect here, because the mode is fixed in the graph; eval() cannot set it.
    for module in network.modules():
        module.training = False
    return network


def torchscript(path: Path) -> nn.Module:
    """Load a module written by `torch.jit.save`.

    Raises:
        ValueError: if the file is something else, such as weights or a pickled module, which is never unpickled.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(path, map_location="cpu")
    except Exception as error:  # what the reader of the format raises is not documented
        raise ValueError(
            f"got a file {path.name} that is no TorchScript ({one_line(error)}): for weights write a function that "
            "loads them (path/file.py:factory); a pickled module is never unpickled"
        ) from error


def clean_accuracy(network: nn.Module, images: Images, device: torch.device, batch_size: int = 100) -> float:
    """The share of images whose largest logit is that of their class."""
    right = 0
    with torch.no_grad():
        for batch, labels in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
            right += int((network(batch.to(device, copy=True)).argmax(dim=1).cpu() == labels).sum())
    return right / len(images.labels)


def check_bundled(card: ModelCard, network: nn.Module, images: Images, device: torch.device) -> None:
    """Check that a bundled model has the clean accuracy that the catalog states.

    Raises:
        ValueError: if its accuracy is lower.
    """
    accuracy = clean_accuracy(network, images, device)
    if accuracy < card.least_clean_accuracy:
        raise ValueError(
            f"got clean accuracy {accuracy:.2%} of model {card.name!r} on the test split, "
            f"expected {card.least_clean_accuracy:.0%} or more"
        )


def model_digest(source: Source, network: nn.Module, images: Images, device: torch.device) -> str:
    """A digest of everything that the outputs depend on: weights, user code, and the logits of some images.

    The logits cover what is in neither weights nor files, for example a constant in the factory.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # As bytes, because numpy has no bfloat16.
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for code in sorted(file.read_bytes() for file in code_of(source, network) if file.is_file()):
        digest.update(code)
    with torch.no_grad():
        digest.update(network(images.images[:4].to(device, copy=True)).float().cpu().numpy().tobytes())
    return digest.hexdigest()
