"""ONNX files as networks of torch, by onnx2pytorch."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustness_tests.subjects.objects import one_line
from robustness_tests.subjects.optional import optional

DIFFERENCE = 1e-3
"""The largest difference to onnxruntime's logits, as a share of the largest logit."""


def onnx_network(path: Path) -> nn.Module:
    """Convert an ONNX file to a network of torch.

    Raises:
        ValueError: if the packages are missing, the file is no ONNX model, or a layer cannot be converted. The message
            names it.
    """
    onnx, onnxslim, converter = (optional(name, "onnx") for name in ("onnx", "onnxslim", "onnx2pytorch"))
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # what the reader of the format raises is not documented
        raise ValueError(f"got a file {path.name} that is no ONNX model ({one_line(error)})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without it, weights that several layers share are not recognised as weights.
            network: nn.Module = converter.ConvertModel(onnxslim.slim(model), experimental=True)
    except Exception as error:  # what the converter raises is not documented
        raise ValueError(
            f"got an ONNX file {path.name} with a layer that onnx2pytorch does not convert ({one_line(error)}): give "
            "the model as a module (path/file.py:factory), or export it again with the latest torch"
        ) from error
    return network.eval()


QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "MatMulInteger", "ConvInteger")


def check_not_quantised(path: Path) -> None:
    """Refuse a file with quantised layers.

    Raises:
        ValueError: if it has one; the message names it.
    """
    nodes = optional("onnx", "onnx").load(path, load_external_data=False).graph.node
    for node in nodes:
        if node.op_type in QUANTISED:
            raise ValueError(
                f"got a quantised layer {node.name!r} ({node.op_type}), through which no gradient goes, expected the "
                "network before quantisation: --model takes that one, and --deployed this one"
            )


def _check_inputs(given: Sequence[Any], images: Tensor) -> None:
    if len(given) != 1:
        names = ", ".join(one.name for one in given)
        raise ValueError(f"got an ONNX file with {len(given)} inputs ({names}), expected one: the images")
    (one,), expected = given, tuple(images.shape[1:])
    if one.type != "tensor(float)":
        raise ValueError(f"got an ONNX input of {one.type}, expected float32 images in [0, 1]: export it for these")
    fixed = [(size, side) for size, side in zip(one.shape[1:], expected, strict=False) if isinstance(size, int)]
    if len(one.shape) != 4 or any(size != side for size, side in fixed):
        raise ValueError(
            f"got an ONNX input of shape {tuple(one.shape)}, expected (N, {', '.join(map(str, expected))}), channels "
            "first: the images of this run"
        )


def check_against_onnxruntime(path: Path, network: nn.Module, images: Tensor) -> None:
    """Compare the logits of the converted network with those of onnxruntime.

    Raises:
        ValueError: if they differ by more than rounding, or onnxruntime does not take these images.
    """
    onnxruntime = optional("onnxruntime", "onnx")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = session.get_inputs()
    except Exception as error:  # what the runtime raises is not documented
        raise ValueError(f"got an ONNX file that onnxruntime does not load: {one_line(error)}") from error
    _check_inputs(given, images)
    try:
        first = session.run(None, {given[0].name: images.cpu().numpy()})[0]
    except Exception as error:  # what the runtime raises is not documented
        raise ValueError(
            f"got {type(error).__name__} from onnxruntime for images of shape {tuple(images.shape)} "
            f"({one_line(error)}), expected logits: export the model with a dynamic batch, for images of this size"
        ) from error
    expected = torch.from_numpy(first)
    with torch.no_grad():
        found = network(images.clone()).cpu()
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else torch.inf
    if not difference <= DIFFERENCE * float(expected.abs().max()):
        raise ValueError(
            f"got logits of the converted network that differ from onnxruntime's by {difference:g}, expected the same: "
            "onnx2pytorch misreads a layer of it; give the model as a module (path/file.py:factory)"
        )
