"""What networks return, other than logits of two classes or more, and weights in another type than float32."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LOOKED_AT = 16
"""Images that `adapted` is given: one output in [0, 1] for each of two images might be a logit by chance."""


class Adapted(nn.Module):
    """A network with logits (N, K), K of 2 or more, from what it returns for images in the type of its weights.

    Args:
        network: the network.
        dtype: the type of its weights, which the images are converted to.
        of_two: whether it returns one logit, that of class 1; class 0 then has the logit 0.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, of_two: bool = False) -> None:
        super().__init__()
        self.network, self.dtype, self.of_two = network, dtype, of_two
        # Not eval(), which an exported program does not know.
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, C, H, W), to logits (N, K)."""
        logits = logits_of(self.network(images.to(self.dtype)))
        if not self.of_two:
            return logits
        one = logits.reshape(len(images), 1)
        return torch.cat([torch.zeros_like(one), one], dim=1)


class OneByOne(nn.Module):
    """A network that gets one image at a time: a dynamically quantised one takes its scales from the whole batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, C, H, W), to logits (N, K)."""
        return torch.cat([self.network(image) for image in images.split(1)])


def logits_of(output: Any) -> Any:
    """The logits of an output: its attribute or its item `logits`, or the output itself.

    Example:
        >>> logits_of({"logits": torch.zeros(1, 2), "loss": None}).shape
        torch.Size([1, 2])
    """
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return output.logits if isinstance(getattr(output, "logits", None), Tensor) else output


def adapted(network: nn.Module, images: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """A network that returns logits of two classes or more, and remarks on what was changed for that.

    The network is returned as it is where nothing has to be changed, and where nothing can be done: the checks of the
    model then say why.

    Args:
        network: in evaluation mode, on the device of the images.
        images: the first `LOOKED_AT` images, float32, shape (N, C, H, W).

    Raises:
        ValueError: for a tuple, or one output that looks like a probability; the message says what to do.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval().requires_grad_(False)
        >>> network[1].bias.fill_(5)
        Parameter containing:
        tensor([5.])
        >>> two, remarks = adapted(network, torch.rand(3, 1, 2, 2))
        >>> two(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 2])
        >>> remarks
        ('the model returns one logit: it is that of class 1, and class 0 has the logit 0',)
    """
    dtype, output = _called(network, images)
    logits = logits_of(output)
    if isinstance(logits, tuple | list):
        kinds = ", ".join(type(one).__name__ for one in logits)
        raise ValueError(
            f"got a model that returns a {type(logits).__name__} ({kinds}), expected logits: wrap it in a "
            "torch.nn.Module whose forward returns self.network(images)[0], or where in it the logits are"
        )
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        return network, ()
    remarks = []
    if logits.dtype != torch.float32:
        remarks.append(f"the model computes in {str(logits.dtype).removeprefix('torch.')}")
    if logits is not output:
        remarks.append(f"the logits are those in the {type(output).__name__} that the model returns")
    of_two = logits.shape in ((len(images),), (len(images), 1))
    if of_two:
        if bool(((logits >= 0) & (logits <= 1)).all()):
            raise ValueError(
                "got one output in [0, 1] for each image, which looks like a probability, expected a logit: return the "
                "input of the sigmoid"
            )
        remarks.append("the model returns one logit: it is that of class 1, and class 0 has the logit 0")
    changed = dtype != torch.float32 or of_two or logits is not output
    return (Adapted(network, dtype, of_two=of_two) if changed else network), tuple(remarks)


def _called(network: nn.Module, images: Tensor) -> tuple[torch.dtype, Any]:
    """The type of images that a network takes, float32 or that of its weights, and what it returns."""
    for dtype in dict.fromkeys((torch.float32, weights_dtype(network))):
        with contextlib.suppress(Exception), torch.no_grad():  # code of the user: `check_network` tells
            return dtype, network(images.to(dtype, copy=True))
    return torch.float32, None


def weights_dtype(network: nn.Module) -> torch.dtype:
    """The type of the weights; float32 where there are none, or several: such a network converts inside."""
    types = {one.dtype for one in network.parameters() if one.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32
