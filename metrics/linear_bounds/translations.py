"""Translates the operations of torch to affine operations, activations, sums and poolings.

Each function takes the reader, the name of the operation, the shape of its result and its arguments. It adds nodes and
returns the last one. It raises `Unsupported` for arguments that it cannot translate.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from metrics.linear_bounds.activations import SMOOTH, Activation, relu
from metrics.linear_bounds.operations import Convolution, Linear, Rearranged, Scale, Shape
from metrics.linear_bounds.program import Concatenation, MaxPool, Total
from metrics.linear_bounds.reader import BATCH, Reader, Symbol, Unsupported


def _pair(value: Any) -> Shape:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return tuple(int(one) for one in (values * 2 if len(values) == 1 else values))


def _linear(reader: Reader, name: str, shape: Shape, x: Symbol, weight: Tensor, bias: Any = None) -> Symbol:
    bias = None if bias is None else reader.constant(bias).expand(shape)
    operation = Linear(
        name,
        reader.shape(x),
        shape,
        bias,
        None if bias is None else bias.abs(),
        fan_in=weight.shape[1] + 1,
        fan_out=weight.shape[0],
        weight=reader.constant(weight),
    )
    return reader.add(operation, x, shape=shape)


def _matmul(reader: Reader, name: str, shape: Shape, x: Any, weight: Any) -> Symbol:
    if not isinstance(x, Symbol) or not isinstance(weight, Tensor) or weight.dim() != 2:
        raise Unsupported("a matrix product of two things that depend on the image, or with a batch of matrices")
    return _linear(reader, name, shape, x, weight.T)


def _addmm(reader: Reader, name: str, shape: Shape, bias: Any, x: Any, weight: Any) -> Symbol:
    if not isinstance(x, Symbol) or isinstance(bias, Symbol):
        raise Unsupported("a matrix product whose operands are not image and constants")
    return _linear(reader, name, shape, x, weight.T, bias)


def _convolution(
    reader: Reader,
    name: str,
    shape: Shape,
    x: Symbol,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Symbol:
    if isinstance(padding, str) or weight.dim() != 4:
        raise Unsupported(f"a convolution with padding={padding!r} in {weight.dim() - 2} dimensions")
    bias = None if bias is None else reader.constant(bias).view(-1, 1, 1).expand(shape)
    kernel = math.prod(weight.shape[2:])
    mixed = weight.flatten(1) - torch.diag(weight.flatten(1).diagonal()) if len(weight) == weight[0].numel() else weight
    in_place = kernel == 1 and _pair(stride) == (1, 1) and _pair(padding) == (0, 0)
    if in_place and groups == 1 and reader.shape(x) == shape and not mixed.any():
        # Some models normalise by a diagonal 1x1 convolution. As a `Scale`, it does not count as the first layer, so
        # the bounds of the next layer can still be exact.
        scale = reader.constant(weight.flatten(1).diagonal()).view(-1, 1, 1).expand(shape)
        return _scaled(reader, name, x, scale, bias)
    operation = Convolution(
        name,
        reader.shape(x),
        shape,
        bias,
        None if bias is None else bias.abs(),
        fan_in=weight.shape[1] * kernel + 1,
        fan_out=weight.shape[0] // groups * kernel,
        weight=reader.constant(weight),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )
    return reader.add(operation, x, shape=shape)


def _scaled(
    reader: Reader, name: str, x: Symbol, scale: Tensor, bias: Tensor | None = None, magnitude: Tensor | None = None
) -> Symbol:
    shape = reader.shape(x)
    magnitude = bias.abs() if bias is not None and magnitude is None else magnitude
    return reader.add(
        Scale(name, shape, shape, bias, magnitude, fan_in=Scale.FAN_IN, fan_out=1, scale=scale), x, shape=shape
    )


def _batch_norm(
    reader: Reader, name: str, shape: Shape, x: Symbol, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any
) -> Symbol:
    if mean is None or variance is None:
        raise Unsupported("a batch normalisation without running statistics")
    if len(rest) > 2 and rest[0]:
        raise Unsupported("a batch normalisation in training mode")
    epsilon = rest[2] if len(rest) > 2 else rest[1]
    channel = (-1, *[1] * (len(shape) - 1))
    scale = (variance.double() + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    offset = shift if bias is None else shift + bias.double()
    magnitude = shift.abs() if bias is None else shift.abs() + bias.double().abs()
    rounded = [reader.constant(each).view(channel).expand(shape) for each in (scale, offset, magnitude)]
    return _scaled(reader, name, x, *rounded)


def _add(reader: Reader, name: str, shape: Shape, x: Any, y: Any, *, alpha: float = 1) -> Symbol:
    sign = -1 if name == "sub" else 1
    if name == "rsub":
        x, y, sign = y, x, -1
    if alpha not in (1, -1):
        raise Unsupported(f"an addition with alpha={alpha}")
    sign *= int(alpha)
    if isinstance(x, Symbol) and isinstance(y, Symbol):
        if reader.shape(x) != shape or reader.shape(y) != shape:
            raise Unsupported("a sum of different shapes")
        return reader.add(Total((1, sign)), x, y, shape=shape)
    symbol, constant, of_symbol, of_constant = (x, y, 1, sign) if isinstance(x, Symbol) else (y, x, sign, 1)
    if reader.shape(symbol) != shape:
        raise Unsupported("a sum that broadcasts a value that depends on the image")
    ones = torch.full(shape, float(of_symbol), dtype=reader.like.dtype, device=reader.like.device)
    return _scaled(reader, name, symbol, ones, of_constant * reader.spread(constant, shape))


def _multiply(reader: Reader, name: str, shape: Shape, x: Any, y: Any) -> Symbol:
    if name == "div" and isinstance(y, Symbol):
        raise Unsupported("a division by something that depends on the image")
    if isinstance(x, Symbol) and isinstance(y, Symbol):
        raise Unsupported("a product of two things that depend on the image")
    symbol, constant = (x, y) if isinstance(x, Symbol) else (y, x)
    if reader.shape(symbol) != shape:
        raise Unsupported("a product that broadcasts a value that depends on the image")
    factor = reader.spread(constant, shape)
    return _scaled(reader, name, symbol, 1 / factor if name == "div" else factor)


def _negative(reader: Reader, name: str, shape: Shape, x: Symbol) -> Symbol:
    return _multiply(reader, name, shape, x, -1.0)


def _activation(activation: Activation) -> Callable[..., Symbol]:
    def read(reader: Reader, name: str, shape: Shape, x: Symbol, *rest: Any, **keywords: Any) -> Symbol:
        defaults = {"softplus": [1.0, 20.0], "elu": [1.0, 1.0, 1.0]}.get(name, [])
        if any(value != default for value, default in zip(rest, defaults, strict=False)) or len(rest) > len(defaults):
            raise Unsupported(f"{name} with parameters {rest}")
        if any(value not in ("none", None) for value in keywords.values()):
            raise Unsupported(f"{name} with {keywords}")
        return reader.add(activation, x, shape=shape)

    return read


def _leaky_relu(reader: Reader, name: str, shape: Shape, x: Symbol, slope: float = 0.01) -> Symbol:
    if not 0 <= slope <= 1:
        raise Unsupported(f"{name} with a negative slope of {slope}")
    return reader.add(relu(slope), x, shape=shape)


def _clamp(reader: Reader, name: str, shape: Shape, x: Symbol, low: Any = None, high: Any = None) -> Symbol:
    """Low + relu(x - low) - relu(x - high). With one bound only: low + relu(x - low), or x - relu(x - high)."""
    if name == "hardtanh":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if low is not None and high is not None and low > high:
        raise Unsupported(f"{name} between {low} and {high}")
    name = f"{name} as relu"
    if low is not None and high is None:
        raised = reader.add(relu(), _add(reader, name, shape, x, -low), shape=shape)
        return _add(reader, name, shape, raised, low)
    above = reader.add(relu(), _add(reader, name, shape, x, -high), shape=shape)
    if low is None:
        return reader.add(Total((1, -1)), x, above, shape=shape)
    below = reader.add(relu(), _add(reader, name, shape, x, -low), shape=shape)
    return _add(reader, name, shape, reader.add(Total((1, -1)), below, above, shape=shape), low)


def _max_pool(
    reader: Reader,
    name: str,
    shape: Shape,
    x: Symbol,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002  # the signature of torch
) -> Symbol:
    operation = MaxPool(
        _pair(kernel), _pair(stride) if stride else _pair(kernel), _pair(padding), _pair(dilation), ceil_mode, name
    )
    return reader.add(operation, x, shape=shape)


def _rearranged(
    reader: Reader,
    name: str,
    x: Symbol,
    shape: Shape,
    function: Callable[[Tensor], Tensor],
    summed: int = 0,
    of: int = 1,
) -> Symbol:
    """Add an operation of torch that acts on each image separately, after checking that on random images."""
    probe = torch.rand(3, *reader.shape(x), generator=torch.Generator().manual_seed(0)).to(reader.like)
    whole, apart = function(probe), torch.cat([function(one) for one in probe.split(1)])
    same = torch.allclose if summed else torch.equal
    if whole.shape != (3, *shape) or not same(whole, apart):
        raise Unsupported(f"{name} mixes the images of a batch")
    if (whole < 0).any():
        raise Unsupported(f"{name} with negative weights")
    operation = Rearranged(name, reader.shape(x), shape, fan_in=summed, fan_out=of if summed else 0, function=function)
    return reader.add(operation, x, shape=shape)


def _view(reader: Reader, name: str, shape: Shape, x: Symbol, *_: Any, **__: Any) -> Symbol:
    return _rearranged(reader, name, x, shape, lambda batch: batch.reshape(len(batch), *shape))


def _moved(function: Callable[..., Tensor]) -> Callable[..., Symbol]:
    def read(reader: Reader, name: str, shape: Shape, x: Symbol, *rest: Any, **keywords: Any) -> Symbol:
        return _rearranged(reader, name, x, shape, lambda batch: function(batch, *rest, **keywords))

    return read


def _slice(reader: Reader, name: str, shape: Shape, x: Symbol, dim: int = 0, *rest: Any) -> Symbol:
    if dim == 0:
        if rest and (rest[0] not in (0, None) or (len(rest) > 1 and rest[1] is not None and rest[1] < BATCH)):
            raise Unsupported("a part of a batch")
        return x
    return _rearranged(reader, name, x, shape, lambda batch: torch.ops.aten.slice.Tensor(batch, dim, *rest))


def _pad(reader: Reader, name: str, shape: Shape, x: Symbol, widths: Any, *rest: Any) -> Symbol:
    mode, value = ("constant", rest[0]) if name == "constant_pad_nd" and rest else ([*rest, "constant", None][:2])
    if rest and isinstance(rest[0], str):
        mode, value = rest[0], (rest[1] if len(rest) > 1 else None)
    if mode == "constant" and value not in (None, 0, 0.0):
        raise Unsupported(f"padding with {value}")
    # Reflected values are repeated: the transposed operation adds as many.
    return _rearranged(
        reader,
        name,
        x,
        shape,
        lambda batch: functional.pad(batch, widths, mode=mode),
        summed=0 if mode == "constant" else 1,
        of=math.prod(shape),
    )


def _mean(reader: Reader, name: str, shape: Shape, x: Symbol, dims: Any = None, *rest: Any, **_: Any) -> Symbol:
    rank = len(reader.shape(x)) + 1
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or any(dim % rank == 0 for dim in dims):
        raise Unsupported(f"a {name} over the images of a batch")
    function = torch.mean if name == "mean" else torch.sum
    keep = bool(rest[0]) if rest else False
    summed = math.prod(reader.shape(x)) // math.prod(shape)
    return _rearranged(reader, name, x, shape, lambda batch: function(batch, dims, keepdim=keep), summed)


def _average_pool(reader: Reader, name: str, shape: Shape, x: Symbol, kernel: Any, *rest: Any) -> Symbol:
    summed = math.prod(_pair(kernel))
    return _rearranged(
        reader, name, x, shape, lambda batch: torch.ops.aten.avg_pool2d(batch, kernel, *rest), summed, summed
    )


def _adaptive_average_pool(reader: Reader, name: str, shape: Shape, x: Symbol, size: Any) -> Symbol:
    summed = math.prod(reader.shape(x)[1:])
    return _rearranged(
        reader, name, x, shape, lambda batch: functional.adaptive_avg_pool2d(batch, size), summed, math.prod(shape[1:])
    )


def _cat(reader: Reader, name: str, shape: Shape, parts: Any, dim: int = 0) -> Symbol:
    dim %= len(shape) + 1
    if dim == 0 or not all(isinstance(part, Symbol) for part in parts):
        raise Unsupported("a concatenation of images, or with a constant")
    return reader.add(Concatenation(dim - 1, name), *parts, shape=shape)


def _same(reader: Reader, __: str, ___: Shape, x: Symbol, *rest: Any, **keywords: Any) -> Symbol:
    for value in (*rest, *keywords.values()):
        if isinstance(value, torch.dtype) and value != reader.like.dtype:
            raise Unsupported(f"a conversion to {value}: bounds are for one precision")
    return x


def _dropout(_: Reader, __: str, ___: Shape, x: Symbol, ____: float = 0.5, train: bool = False) -> Symbol:  # noqa: FBT001, FBT002
    if train:
        raise Unsupported("dropout in training mode")
    return x


TABLE: dict[str, Callable[..., Symbol]] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "conv2d": _convolution,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "add": _add,
    "sub": _add,
    "rsub": _add,
    "mul": _multiply,
    "div": _multiply,
    "neg": _negative,
    "relu": _activation(relu()),
    "leaky_relu": _leaky_relu,
    **{name: _activation(activation) for name, activation in SMOOTH.items()},
    "clamp": _clamp,
    "clamp_min": lambda reader, name, shape, x, low: _clamp(reader, name, shape, x, low, None),
    "clamp_max": lambda reader, name, shape, x, high: _clamp(reader, name, shape, x, None, high),
    "hardtanh": _clamp,
    "relu6": lambda reader, name, shape, x: _clamp(reader, name, shape, x, 0.0, 6.0),
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_average_pool,
    "mean": _mean,
    "sum": _mean,
    "view": _view,
    "_unsafe_view": _view,
    "reshape": _view,
    "flatten": _view,
    "squeeze": _view,
    "unsqueeze": _view,
    "permute": _moved(torch.permute),
    "transpose": _moved(torch.transpose),
    "flip": _moved(torch.flip),
    "slice": _slice,
    "select": _moved(torch.select),
    "pad": _pad,
    "constant_pad_nd": _pad,
    "cat": _cat,
    "alias": _same,
    "clone": _same,
    "contiguous": _same,
    "detach": _same,
    "dropout": _dropout,
    "_to_copy": _same,
    "to": _same,
}
"""The function that translates each operation of torch, by name. There is none for `expand`, and `mul` of two
activations is not supported."""
