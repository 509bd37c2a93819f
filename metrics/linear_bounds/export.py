"""Converts a model to a program: `torch.export` reads the graph, and a table translates each of its operations.

Raises `Unsupported` for operations that are not in the table, and for those that mix the images of a batch. The caller
compares the program's logits with the model's own.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, nn

from metrics.linear_bounds.program import Program, simplified
from metrics.linear_bounds.reader import BATCH, Reader, Unsupported
from metrics.linear_bounds.translations import TABLE
from metrics.passes import Model


def program_of(model: Model, image: Tensor) -> Program:
    """Convert a model to a program.

    Args:
        model: a callable from images to logits, in evaluation mode.
        image: an example with the shape (C, H, W), dtype and device of all images.

    Raises:
        Unsupported: if the graph cannot be read, or contains an operation that there are no bounds for.
    """
    example = image.detach().clone().expand(BATCH, *image.shape).contiguous()
    # Do not call eval() on a module, which is in evaluation mode already: one from torch.export does not support it.
    network = model if isinstance(model, nn.Module) else _Called(model).eval()
    try:
        with _quiet():
            exported = torch.export.export(network, (example,), strict=False).run_decompositions({})
    except Exception as error:  # noqa: BLE001  # anything can go wrong in the code of a user's model
        reason = str(error).strip().split("\n", 1)[0]
        raise Unsupported(
            f"torch.export cannot read the graph of the model: {type(error).__name__}: {reason}"
        ) from None
    with torch.no_grad():
        return simplified(Reader(exported, image, TABLE).program())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings: for a graph that it cannot read, torch prints the whole graph, hundreds of lines."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class _Called(nn.Module):
    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)
