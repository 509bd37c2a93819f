"""The nearest image of another class as a mixed-integer program (Tjeng et al. 2019, https://arxiv.org/abs/1711.07356).

The network is a chain of affine layers and ReLUs, the norm is L-infinity, and HiGHS solves the program. An undecided
ReLU y = max(z, 0) with z in [l, u] becomes y >= z, y >= 0, y <= u a, y <= z - l (1 - a) with a binary variable a.

HiGHS treats numbers within 1e-6 as equal. It has declared feasible problems infeasible because columns were narrower
than that, or coefficients tiny. Therefore the bounds of undecided units are widened, and tiny coefficients are dropped.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from metrics.linear_bounds import Program, Unsupported
from metrics.linear_bounds.activations import Activation
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Affine

WIDENED = 0.01
TINY = 1e-12
MAX_UNITS = 2000
"""The most values in a layer. Larger networks are rejected at once, because the solver would not finish."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An affine layer before a ReLU, or the last one.

    Attributes:
        weight: shape (units, inputs), float64.
        bias: shape (units,), float64.
        node: number of the program node that holds the values of this layer.
    """

    weight: np.ndarray
    bias: np.ndarray
    node: int


def layers_of(program: Program) -> list[Layer]:
    """Return the dense layers of a program that is a chain of affine operations and ReLUs.

    Raises:
        Unsupported: for any other program, or a layer of more than 2,000 values.
    """
    layers: list[Layer] = []
    chain: list[Affine] = []
    for number, node in enumerate(program.nodes[1:], 1):
        if node.inputs != (number - 1,):
            raise Unsupported("exact distances are for networks that are a chain of layers, without shortcuts")
        if isinstance(node.operation, Affine):
            chain.append(node.operation)
        elif isinstance(node.operation, Activation) and node.operation.negative_slope == 0:
            layers.append(_dense(chain, number - 1))
            chain = []
        else:
            name = getattr(node.operation, "name", "the image")
            raise Unsupported(f"exact distances are for affine layers and ReLU, not for {name}")
    layers.append(_dense(chain, len(program.nodes) - 1))
    return layers


def _dense(chain: list[Affine], node: int) -> Layer:
    if not chain:
        raise Unsupported("exact distances are for networks with an affine layer between two ReLUs")
    units = max(math.prod(operation.shape_out) for operation in chain)
    if units > MAX_UNITS:
        raise Unsupported(f"exact distances are for layers of up to {MAX_UNITS} values, got {units}")
    shape = chain[0].shape_in
    size = math.prod(shape)
    columns, origin = torch.eye(size, dtype=torch.float64), torch.zeros(1, size, dtype=torch.float64)
    both = torch.cat([origin, columns]).view(-1, *shape)
    for operation in chain:
        both = _in_double(operation, both)
    both = both.flatten(1)
    return Layer((both[1:] - both[:1]).T.numpy(), both[0].numpy(), node)


def _in_double(operation: Affine, batch: Tensor) -> Tensor:
    result = operation.linear(batch, torch.Tensor.double)
    return result if operation.bias is None else result + operation.bias.double()


def logits_of(layers: list[Layer], image: np.ndarray) -> np.ndarray:
    """The logits of a flat image in float64."""
    values = image
    for layer in layers[:-1]:
        values = np.maximum(layer.weight @ values + layer.bias, 0)
    return layers[-1].weight @ values + layers[-1].bias


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of the solver for one target.

    Attributes:
        image: the nearest image that the solver found, flat; None if it found none.
        lower: the solver's lower bound of the distance; infinite if no image is within the cutoff.
        finished: whether the solver ended before the time limit.
        failure: the solver's message if it failed for another reason; otherwise empty.
    """

    image: np.ndarray | None
    lower: float
    finished: bool
    failure: str = ""


def nearest_of_target(
    layers: list[Layer],
    intervals: list[Interval],
    image: np.ndarray,
    label: int,
    target: int,
    *,
    least: float,
    cutoff: float,
    seconds: float,
) -> Solution:
    """Find the nearest image, in L-infinity, whose target logit is not below its label logit.

    Args:
        layers: layers of the network.
        intervals: intervals of the values of each layer but the last on the ball of radius `cutoff`, for one image.
        image: the clean image, flat, values in [0, 1].
        label: class of the image.
        target: the other class.
        least: a certified lower bound of the distance.
        cutoff: the largest distance of interest.
        seconds: the time limit.
    """
    problem = _Problem(image, least, cutoff)
    previous = problem.pixels
    for layer, interval in zip(layers[:-1], intervals, strict=True):
        ends = [end.flatten().double().numpy() for end in interval]
        previous = problem.add_layer(layer, ends[0], ends[1], previous)
    last = layers[-1]
    problem.add_margin(previous, last.weight[target] - last.weight[label], last.bias[target] - last.bias[label])
    return problem.solve(seconds)


class _Problem:
    """The mixed-integer program.

    The columns are the distance, the pixels, then each layer's outputs and the binary variables of its undecided units.
    Outputs are scaled by their own largest value, and the last row by its largest coefficient, because the solver's
    tolerance is absolute.
    """

    def __init__(self, image: np.ndarray, least: float, cutoff: float) -> None:
        self.lower, self.upper = [least], [cutoff]
        self.integral = [0]
        self.rows: list[tuple[list[int], list[float]]] = []
        self.row_lower: list[float] = []
        self.row_upper: list[float] = []
        self.units = np.ones(len(image))
        self.pixels = [self.add_column(max(0.0, value - cutoff), min(1.0, value + cutoff)) for value in image.tolist()]
        for column, value in zip(self.pixels, image.tolist(), strict=True):
            self.add_row([column, 0], np.array([1.0, -1.0]), -np.inf, value)
            self.add_row([column, 0], np.array([1.0, 1.0]), value, np.inf)

    def add_column(self, lower: float, upper: float, *, integral: bool = False) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        self.integral.append(int(integral))
        return len(self.lower) - 1

    def add_row(self, columns: list[int], coefficients: np.ndarray, lower: float, upper: float) -> None:
        kept = [
            (column, value)
            for column, value in zip(columns, coefficients.tolist(), strict=True)
            if column >= 0 and abs(value) > TINY
        ]
        self.rows.append(([column for column, _ in kept], [value for _, value in kept]))
        self.row_lower.append(lower)
        self.row_upper.append(upper)

    def add_layer(self, layer: Layer, lower: np.ndarray, upper: np.ndarray, previous: list[int]) -> list[int]:
        """Add a layer and return the columns of its outputs after the ReLU; -1 for a unit that is always 0."""
        outputs = []
        units = np.maximum(np.maximum(-lower, upper), 1e-30)
        weights, biases = layer.weight * self.units / units[:, None], (layer.bias / units).tolist()
        self.units = units
        for weight, bias, low, high in zip(weights, biases, lower / units, upper / units, strict=True):
            if high <= 0:
                outputs.append(-1)
                continue
            output = self.add_column(0.0, float(high) + WIDENED)
            outputs.append(output)
            columns = [output, *previous]
            if low >= 0:
                self.add_row(columns, np.array([1.0, *-weight]), bias, bias)
                continue
            least, most = float(low) - WIDENED, float(high) + WIDENED
            on = self.add_column(0.0, 1.0, integral=True)
            self.add_row(columns, np.array([1.0, *-weight]), bias, np.inf)
            self.add_row([output, on], np.array([1.0, -most]), -np.inf, 0.0)
            self.add_row([*columns, on], np.array([1.0, *-weight, -least]), -np.inf, bias - least)
        return outputs

    def add_margin(self, previous: list[int], weight: np.ndarray, bias: float) -> None:
        """Require that the logit of the target is not below that of the label."""
        weight = weight * self.units
        largest = max(np.abs(weight).max(), 1e-300)
        self.add_row(previous, weight / largest, -bias / largest, np.inf)

    def solve(self, seconds: float) -> Solution:
        matrix = scipy.sparse.lil_array((len(self.rows), len(self.lower)))
        for number, (columns, values) in enumerate(self.rows):
            matrix[[number], columns] = values
        cost = np.zeros(len(self.lower))
        cost[0] = 1
        found = scipy.optimize.milp(
            cost,
            integrality=self.integral,
            bounds=scipy.optimize.Bounds(self.lower, self.upper),
            constraints=scipy.optimize.LinearConstraint(scipy.sparse.csr_array(matrix), self.row_lower, self.row_upper),
            options={"time_limit": max(seconds, 1e-3), "mip_rel_gap": 1e-6},
        )
        image = None if found.x is None else np.clip(found.x[self.pixels], 0, 1)
        if found.status == 2:  # infeasible
            return Solution(None, math.inf, finished=True)
        failure = f"the solver ended with: {found.message}" if found.status not in (0, 1) else ""
        bound = getattr(found, "mip_dual_bound", None)
        lower = self.lower[0] if bound is None or not math.isfinite(bound) else max(bound, self.lower[0])
        return Solution(image, lower, finished=found.status != 1, failure=failure)
