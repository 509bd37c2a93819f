"""The size that image files are brought to: resized, then cropped at the centre. Does not import torch."""

import re
from dataclasses import dataclass

FORMS = "224, 256/224 or 224x224"

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
"""Those of Pillow."""


@dataclass(frozen=True)
class ImageSize:
    """How an image file becomes an image of the run.

    Attributes:
        resize: the new length of the shorter side; or the new height and width.
        crop: height and width of the part at the centre that is kept; empty for all.
        interpolation: one of `INTERPOLATIONS`, with antialiasing, as Pillow does it.
        rounded: whether the offset of the crop is rounded, as in torchvision and timm, or cut off, as in transformers.
    """

    resize: tuple[int, ...]
    crop: tuple[int, ...] = ()
    interpolation: str = "bilinear"
    rounded: bool = True

    def __str__(self) -> str:
        resized = f"shorter side {self.resize[0]}" if len(self.resize) == 1 else f"{self.resize[0]}x{self.resize[1]}"
        cropped = f", the central {self.crop[0]}x{self.crop[1]}" if self.crop else ""
        cropped += ", offset cut off" if self.crop and not self.rounded else ""
        return f"{resized} ({self.interpolation}){cropped}"


def image_size(text: str) -> ImageSize:
    """The size in the value of an option: SIDE, RESIZED/CROPPED or HEIGHTxWIDTH, in pixels.

    Raises:
        ValueError: for any other text, a side of 0, or a crop that is larger than the resized image.

    Example:
        >>> str(image_size("256/224"))
        'shorter side 256 (bilinear), the central 224x224'
        >>> image_size("32") == image_size("32/32")
        True
    """
    found = re.fullmatch(r"(\d{1,5})(?:/(\d{1,5})|x(\d{1,5}))?", text.strip(), re.ASCII)
    sides = [int(side) for side in found.groups() if side] if found else []
    if found is None or not all(sides):
        raise ValueError(f"got {text!r}, expected {FORMS}: the shorter side, resized/cropped, or height x width")
    if found[3]:
        return ImageSize((sides[0], sides[1]))
    if sides[-1] > sides[0]:
        raise ValueError(f"got {text!r}, expected a crop that is not larger than the resized image: {FORMS}")
    return ImageSize((sides[0],), (sides[-1], sides[-1]))
