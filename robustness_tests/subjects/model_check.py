"""Checks of a model before anything is measured: does it classify these images, and can it be attacked?"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metrics.norms import DUAL, vector_norm
from metrics.passes import Passes, check_logits, check_model, checked_logits, margin
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.pixels import WrongImageError

CHECKED_IMAGES = 16
"""Images for all checks but that of the accuracy."""

MAX_ACCURACY_IMAGES = 256
"""Largest number of images for the accuracy check, which stops once the model is clearly better than guessing."""

WEIGHTS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Types of weights that a network may have. Images stay float32."""

MAX_DISTANCE = 1e6
"""Larger than the norm of any perturbation of an image in [0, 1]."""

QUESTIONS = (
    "is the normalisation inside the model, are the channels RGB, are the labels numbered as in training, are the "
    "weights loaded?"
)

WRAP = "wrap the network: Classifier(network, normalize=(mean, std))"


@dataclass(frozen=True)
class CheckedModel:
    """What is known about a model that passed the checks.

    Attributes:
        distances: for each norm, the median over images of margin / dual norm of its gradient: the distance to the
            decision boundary if the network were linear.
        multiplications: number of multiplications in one forward pass of one image.
    """

    distances: dict[str, float]
    multiplications: int


def check_network(network: nn.Module, images: Images, device: torch.device) -> CheckedModel:
    """Check that a network classifies these images, in the form that the metrics expect.

    The network must be in evaluation mode, and its weights must be finite. It must return logits for every label, not
    probabilities. The logits must be deterministic and independent of the other images in the batch. The
    gradient must reach the image, and the accuracy must be better than chance.

    Args:
        network: a network on `device`.
        images: the first images of the test split.
        device: device to run on.

    Raises:
        ValueError: for the first check that fails; the message says what to do.
    """
    _check_quantised(network)
    check_model(network)
    _check_weights(network)
    few, labels = images.images[:CHECKED_IMAGES].to(device), images.labels[:CHECKED_IMAGES].to(device)
    logits = _checked_outputs(network, few, labels, images)
    _check_gradient(network, few, labels)
    right = _check_accuracy(network, images, device, logits.shape[1])
    return CheckedModel(_linear_distances(network, images, right, device), _multiplications(network, few[:1]))


def check_deployed(network: nn.Module, images: Images, device: torch.device) -> None:
    """Check the form of a model that ships: all that `check_network` checks, but the weights and the gradient.

    Layers that are not quantised must be in evaluation mode. Quantised ones have no other.

    Raises:
        ValueError: for the first check that fails.
    """
    for name, module in network.named_modules():
        if module.training and name and not _is_quantised(module) and not list(module.children()):
            raise ValueError(f"got layer {name!r} in training mode, expected evaluation mode: call model.eval()")
    few, labels = images.images[:CHECKED_IMAGES].to(device), images.labels[:CHECKED_IMAGES].to(device)
    logits = _checked_outputs(network, few, labels, images)
    _check_accuracy(network, images, device, logits.shape[1])


def _checked_outputs(network: nn.Module, few: Tensor, labels: Tensor, images: Images) -> Tensor:
    """The logits of a few images, after a check that they are logits, deterministic, and independent of the batch."""
    logits = _called(network, few)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        _check_classes(logits.shape[1], images)
    check_logits(logits, labels)
    checked_logits(Passes(network, len(few), few.device), few, labels, torch.arange(len(few), device=few.device))
    _check_one(_called(network, few[:1]), logits)
    return logits


def _is_quantised(module: nn.Module) -> bool:
    return ".quantized." in f"{type(module).__module__}."


def check_class_names(network: nn.Module, images: Images) -> None:
    """Compare the numbers of the classes with the `class_to_idx` of a network, where both are known by name.

    ImageFolder makes this mapping, and training scripts save it; a factory may set it on its network.

    Raises:
        WrongImageError: if a class has two numbers.
    """
    for module in network.modules():
        known = getattr(module, "class_to_idx", None)
        for number, name in enumerate(images.class_names):
            if isinstance(known, Mapping) and name and known.get(name, number) != number:
                raise WrongImageError(
                    f"got class {name!r} with number {number}, and {known[name]} in class_to_idx of the model, "
                    "expected one number: write the names in the order of class_to_idx into the file classes.txt of "
                    "the folder"
                )


def _check_quantised(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if _is_quantised(module) and not isinstance(module, nn.Sequential):
            raise ValueError(
                f"got a quantised layer {name!r} ({type(module).__name__}), through which no gradient goes, expected "
                "the network before quantisation: --model takes that one, and --deployed this one"
            )


def _check_weights(network: nn.Module) -> None:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in WEIGHTS:
            raise ValueError(f"got weights {name!r} of {tensor.dtype}, expected torch.float32: model.float()")
        # A buffer may well be infinite, the mask of an attention for example.
        if tensor.isnan().any() or (isinstance(tensor, nn.Parameter) and not tensor.isfinite().all()):
            raise ValueError(f"got NaN or infinity among the weights {name!r}, expected finite numbers")


def _called(network: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return network(images.clone())
    except Exception as error:  # code of the user
        shape = tuple(images.shape)
        # Error messages of programs exported for a fixed batch size, in several versions of torch.
        says = ("guard failed", "batch", "shape[0] to be equal")
        static = any(words in str(error).lower() for words in says)
        what = "any number of images at once: export with a dynamic batch" if static else "logits of these images"
        raise ValueError(
            f"got {type(error).__name__} from the model for images of shape {shape} ({one_line(error)}), expected "
            f"{what}; is it a model of another dataset (--dataset)?"
        ) from error


def _check_one(alone: Tensor, logits: Tensor) -> None:
    if not isinstance(alone, Tensor) or alone.shape != logits[:1].shape:
        shape = tuple(alone.shape) if isinstance(alone, Tensor) else type(alone).__name__
        raise ValueError(
            f"got model output {shape} for one image alone, expected {tuple(logits[:1].shape)}: is there a squeeze() "
            "in its forward?"
        )
    if not torch.allclose(alone, logits[:1], rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise ValueError(
            "got different logits for an image alone and in a batch, expected a model whose images do not influence "
            "each other"
        )


def _check_classes(classes: int, images: Images) -> None:
    smallest, largest = int(images.labels.min()), images.largest_label
    if largest < classes:
        return
    hint = ", or number the labels from 0 on: labels - 1" if smallest == 1 and largest == classes else ""
    raise ValueError(
        f"got labels from {smallest} to {largest} and a model of {classes} classes, expected 0 to {classes - 1}{hint}"
    )


def _check_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    leaves = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        margins = margin(network(leaves.clone()), labels)
        if not margins.requires_grad:
            raise ValueError(
                "got logits without a gradient of the image, expected a differentiable model: is there a no_grad(), a "
                "detach() or numpy in its forward?"
            )
        (gradient,) = torch.autograd.grad(margins.sum(), leaves, allow_unused=True)
    if gradient is None or not gradient.any():
        raise ValueError(
            f"got a gradient of the image that is zero for all of {len(images)} images, expected a differentiable "
            "model: are its logits rounded or saturated, or is there a step in it?"
        )
    if not gradient.isfinite().all():
        raise ValueError("got NaN or infinity in the gradient of the image, expected finite numbers")


def _check_accuracy(network: nn.Module, images: Images, device: torch.device, classes: int) -> Tensor:
    """Refuse a model that is no better than guessing; return which of the images looked at it classifies correctly."""
    looked_at, predicted = 0, torch.zeros(0, dtype=torch.long)
    limit = min(len(images.labels), MAX_ACCURACY_IMAGES)
    while looked_at < limit:
        rows = slice(looked_at, min(looked_at + CHECKED_IMAGES, limit))
        predicted = torch.cat([predicted, _predicted(network, images.images[rows].to(device))])
        looked_at = rows.stop
        right = predicted == images.labels[:looked_at]
        by_chance = float(scipy.stats.binom.sf(int(right.sum()) - 1, looked_at, 1 / classes))
        if by_chance < 1e-4 and looked_at >= CHECKED_IMAGES:
            break
    _check_numbers(predicted, images)
    # With fewer than CHECKED_IMAGES images, refuse only a model that gets all of them wrong.
    unlikely = 0.01 if looked_at >= MAX_ACCURACY_IMAGES else 0.05
    if (by_chance >= unlikely and looked_at >= CHECKED_IMAGES) or (looked_at >= 5 and not right.any()):
        raise ValueError(
            f"got clean accuracy {float(right.float().mean()):.1%} on {looked_at} images, about as much as "
            f"guessing one of {classes} classes: {_what_helps(network, images, device, float(right.float().mean()))}"
        )
    return right


def _predicted(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images.clone()).argmax(dim=1).cpu()


def _check_numbers(predicted: Tensor, images: Images) -> None:
    """Refuse the names of folders in an order that is not that of the training, if another order is far better."""
    names = [name for name in images.class_names if name]
    labels = images.labels[: len(predicted)]
    as_it_is = float((predicted == labels).float().mean())
    orders = {"the sorted names": sorted(names), "the numbers in the names": sorted(names, key=_natural)}
    for what, order in orders.items():
        number_of = torch.tensor([order.index(name) if name else -1 for name in images.class_names])
        if not len(number_of):
            return
        share = float((predicted == number_of[labels]).float().mean())
        if share >= max(0.5, as_it_is + 0.3):
            raise WrongImageError(
                f"got clean accuracy {as_it_is:.0%} on {len(predicted)} images, and {share:.0%} if the classes are "
                f"numbered by {what} of the folders: write the names in this order into the file classes.txt of the "
                "folder, one in a line"
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts img2 before img10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _what_helps(network: nn.Module, images: Images, device: torch.device, as_it_is: float) -> str:
    """Return a hint about a usual mistake, if correcting it makes the model work, or what to check."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    some, labels = images.images[:64], images.labels[:64]
    if len(labels.unique()) == 1:
        # A model that always says this class would seem to be mended by anything that confuses it.
        return QUESTIONS
    attempts: dict[str, tuple[Callable[[], Tensor], Tensor]] = {
        f"with images in 0 to 255 it is %s: {WRAP} with mean 0 and std 1/255, or divide its mean and std by 255": (
            lambda: some * 255,
            labels,
        ),
        f"with images in -1 to 1 it is %s: {WRAP} with mean 0.5 and std 0.5": (lambda: some * 2 - 1, labels),
        f"with images normalised like ImageNet it is %s: {WRAP}": (lambda: (some - mean) / std, labels),
        "with labels - 1 it is %s: number the labels from 0 on": (lambda: some, labels - 1),
        "with labels + 1 it is %s: number the labels as in training": (lambda: some, labels + 1),
    }
    if some.shape[1] == 3:
        attempts["with the channels reversed it is %s: let it take RGB"] = (lambda: some.flip(1), labels)
    best, text = 0.0, ""
    for what, (change, their_labels) in attempts.items():
        with contextlib.suppress(Exception):  # three channels, where the images have one; an assertion of the model
            share = float((_predicted(network, change().to(device)) == their_labels).float().mean())
            best, text = max((best, text), (share, what % f"{share:.0%}"))
    if best >= max(0.5, as_it_is + 0.3):
        return text
    return QUESTIONS


def _linear_distances(network: nn.Module, images: Images, right: Tensor, device: torch.device) -> dict[str, float]:
    rows = right.nonzero().flatten()[:CHECKED_IMAGES]
    if not len(rows):
        raise ValueError(f"got none of {len(right)} images classified correctly, expected a model of this dataset")
    leaves, labels = images.images[rows].to(device), images.labels[rows].to(device)
    leaves.requires_grad_(True)
    with torch.enable_grad():
        margins = margin(network(leaves.clone()), labels)
        (gradient,) = torch.autograd.grad(margins.sum(), leaves)
    found = {}
    for norm, dual in DUAL.items():
        steepness = vector_norm(gradient, dual)
        steep = steepness > 0
        if not steep.any():
            raise ValueError(
                f"got a gradient that is zero for all of {len(rows)} images that are classified correctly, expected a "
                "differentiable model: are its logits saturated?"
            )
        found[norm] = max(float((margins.detach()[steep] / steepness[steep]).median()), 1e-6)
        if not found[norm] < MAX_DISTANCE:
            raise ValueError(
                f"got gradients of the image with a norm of {float(steepness.max()):g} at most, expected a "
                "differentiable model: are its logits saturated?"
            )
    return found


def _multiplications(network: nn.Module, image: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image.clone())
    return counter.get_total_flops() // 2
