"""What a pretrained model does to an image file before it normalises: its size, and how it is interpolated."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import fromarray

from robustness_tests.subjects.image_size import INTERPOLATIONS, ImageSize
from robustness_tests.subjects.images import as_bytes
from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.optional import optional
from robustness_tests.subjects.sources import Source

BY_HAND = "state the size by hand, for example --image-size=256/224"

PILLOW = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""The interpolations by their numbers in Pillow, which Hugging Face's files use."""


def preprocessing_of(source: Source) -> ImageSize | None:
    """The size that the model of a source was made for, as its library states it; None if nothing is stated.

    Raises:
        ValueError: for steps that are none of resizing and cropping at the centre. The message says what to do.
    """
    readers: dict[str, Callable[[], ImageSize | None]] = {
        "torchvision": lambda: _of_torchvision(source.location),
        "timm": lambda: _of_timm(source.location),
        "hf": lambda: _of_hugging_face(source.location),
    }
    return readers[source.kind]() if source.kind in readers else None


def _of_torchvision(name: str) -> ImageSize | None:
    from torchvision import models  # noqa: PLC0415  # slow to import

    if name not in models.list_models(module=models):
        return None  # `torchvision_model` says so
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    crop = _sides(transforms.crop_size)
    return ImageSize(
        _sides(transforms.resize_size), crop * 2 if len(crop) == 1 else crop, transforms.interpolation.value
    )


def _sides(sides: Any) -> tuple[int, ...]:
    return (sides,) if isinstance(sides, int) else tuple(int(side) for side in sides)


def _of_timm(name: str) -> ImageSize | None:
    import timm  # noqa: PLC0415  # slow to import

    if not timm.is_model(name):
        return None  # `timm_model` says so
    card = timm.get_pretrained_cfg(name)
    if card is None:
        return None
    _, height, width = card.input_size
    if card.crop_mode not in ("center", "squash") or (card.crop_mode == "center" and height != width):
        raise ValueError(f"got crop_mode={card.crop_mode!r} for images of {height}x{width} from timm: {BY_HAND}")
    larger = [math.floor(side / card.crop_pct) for side in (height, width)]
    resize = tuple(larger) if card.crop_mode == "squash" else (larger[0],)
    return ImageSize(resize, (height, width), card.interpolation)


STEPS = 3.0
"""The largest difference to the pixels of an image processor, in steps of a byte. torch and Pillow round otherwise."""


def _of_hugging_face(location: str) -> ImageSize | None:
    """The size in the configuration, after a check that resizing and normalising is all that the processor does."""
    card = image_processor(location)
    size, (mean, std) = of_image_processor(card), normalisation_of(card)
    library = optional("transformers", "hf")
    try:
        processor = library.AutoImageProcessor.from_pretrained(location)
        farthest = max(_difference(processor, size, mean, std, shape) for shape in CHECKED_SHAPES)
    except Exception as error:  # files of the user, and a library
        raise ValueError(
            f"got an image processor of {location!r} that transformers does not load ({one_line(error)}): "
            "processor.save_pretrained(FOLDER) writes one"
        ) from error
    if not farthest <= STEPS:
        raise ValueError(
            f"got an image processor of {location!r} that does more than to resize, crop, rescale and normalise, or "
            "does it in another way: load the model in a function of your own (path/file.py:factory), and state "
            "--image-size"
        )
    return size


CHECKED_SHAPES = ((450, 500), (427, 640), (640, 427), (333, 500), (61, 40))
"""Heights and widths of the pictures on which a processor is checked: margins of crops are even and odd."""


def _difference(
    processor: Any, size: ImageSize | None, mean: list[float], std: list[float], shape: tuple[int, int]
) -> float:
    """The largest difference between our pixels of a picture of noise and those of a processor, in steps of a byte."""
    picture = fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
    centre, scale = (np.reshape(values, (-1, 1, 1)) for values in (mean, std))
    found = (as_bytes(picture, size).numpy() / 255 - centre) / scale
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs((found - expected) * scale * 255).max())


def image_processor(location: str) -> Mapping[str, Any]:
    """The configuration of a Hugging Face image processor, from a folder or by the name of a model.

    Raises:
        ValueError: if there is none.
    """
    file = Path(location, "preprocessor_config.json")
    if not file.is_file():
        hub = optional("transformers.utils.hub", "hf")
        try:
            file = Path(hub.cached_file(location, "preprocessor_config.json"))
        except Exception as error:  # whatever a download may raise
            raise ValueError(
                f"got no preprocessor_config.json of {location!r}, expected the image processor beside the model: "
                "processor.save_pretrained(FOLDER)"
            ) from error
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"got a file {file.name} of {location!r} that is no JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"got {file.name} of {location!r} without an object, expected that of an image processor")
    return content


def of_image_processor(card: Mapping[str, Any]) -> ImageSize | None:
    """The size that a Hugging Face image processor brings images to.

    Raises:
        ValueError: for steps that are none of resizing and cropping at the centre.

    Example:
        >>> card = {"do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2}
        >>> str(of_image_processor(card))
        '224x224 (bilinear)'
    """
    if card.get("do_pad"):
        raise ValueError(f"got an image processor that pads images: {BY_HAND}")
    if not card.get("do_resize", True):
        return None
    size, number = card.get("size"), card.get("resample", 2)
    interpolation = PILLOW[number] if isinstance(number, int) and 0 <= number < len(PILLOW) else ""
    sides = {"shortest_edge": size} if isinstance(size, int) else size
    if not isinstance(sides, dict) or interpolation not in INTERPOLATIONS:
        raise ValueError(f"got size {size!r} and resample {number!r} from an image processor: {BY_HAND}")
    cropped = card.get("crop_size", sides) if card.get("do_center_crop") else None
    crop = (cropped, cropped) if isinstance(cropped, int) else _pair(cropped) if cropped else ()
    if "crop_pct" in card and "shortest_edge" in sides:
        # ConvNeXT's and ResNet's: below 384 pixels the crop is a share of the resized image, from there on nothing is
        # cropped.
        side = int(sides["shortest_edge"])
        if side >= 384:
            return ImageSize((side, side), (), interpolation, rounded=False)
        return ImageSize((int(side / card["crop_pct"]),), (side, side), interpolation, rounded=False)
    if set(sides) == {"shortest_edge"}:
        return ImageSize((int(sides["shortest_edge"]),), crop, interpolation, rounded=False)
    return ImageSize(_pair(sides), crop, interpolation, rounded=False)


def _pair(sides: Mapping[str, Any]) -> tuple[int, int]:
    if set(sides) != {"height", "width"}:
        raise ValueError(f"got size {dict(sides)!r} from an image processor: {BY_HAND}")
    return int(sides["height"]), int(sides["width"])


def checked_normalisation(location: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of an image processor, after a check against the processor itself.

    Raises:
        ValueError: if it cannot be loaded, or does something else to the values of pixels.
    """
    mean, std = normalisation_of(image_processor(location))
    picture = fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    unchanged = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    try:
        processor = optional("transformers", "hf").AutoImageProcessor.from_pretrained(location)
        expected = np.asarray(processor(picture, return_tensors="np", **unchanged)["pixel_values"][0])
    except Exception as error:  # files of the user, and a library
        raise ValueError(
            f"got an image processor of {location!r} that transformers does not load or call ({one_line(error)}): load "
            "the model in a function of your own (path/file.py:factory)"
        ) from error
    found = (as_bytes(picture, None).numpy() / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"got an image processor of {location!r} that does more than to rescale and normalise, expected no more: "
            "load the model in a function of your own (path/file.py:factory)"
        )
    return mean, std


def normalisation_of(card: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of an image processor, for images in [0, 1].

    Raises:
        ValueError: for numbers that are not one for each channel.

    Example:
        >>> normalisation_of({"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 255})
        ([0.5], [0.25])
    """
    # Images in [0, 1] are 255 times too small for a processor that rescales by another factor.
    factor = 255 * card.get("rescale_factor", 1 / 255) if card.get("do_rescale", True) else 255.0
    mean, std = (card.get(name) for name in ("image_mean", "image_std"))
    if not card.get("do_normalize", True):
        mean, std = [0.0], [1.0]
    mean, std = ([values] if isinstance(values, int | float) else values for values in (mean, std))
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        raise ValueError(f"got image_mean {mean!r} and image_std {std!r}, expected a number for each channel")
    return [one / factor for one in mean], [one / factor for one in std]
