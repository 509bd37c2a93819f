"""A network as a list of operations, each on the results of earlier ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.linear_bounds.activations import Activation
from metrics.linear_bounds.operations import Affine, Scale, Shape, folded


@dataclass(frozen=True)
class Total:
    """The sum of several tensors of one shape, each times 1 or -1: a residual connection."""

    signs: tuple[int, ...]
    name: str = "add"

    def apply(self, *operands: Tensor) -> Tensor:
        """The sum."""
        return sum((sign * operand for sign, operand in zip(self.signs, operands, strict=True)), torch.zeros(()))


@dataclass(frozen=True)
class Concatenation:
    """Tensors one after the other along a dimension, which is counted without the batch."""

    dim: int
    name: str = "cat"

    def apply(self, *operands: Tensor) -> Tensor:
        """The concatenation."""
        return torch.cat(operands, dim=self.dim + 1)


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window, in two dimensions."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool
    name: str = "max_pool2d"

    def apply(self, operand: Tensor) -> Tensor:
        """The largest values."""
        return self.with_indices(operand)[0]

    def with_indices(self, operand: Tensor) -> tuple[Tensor, Tensor]:
        """The largest values, and where in their channel they are."""
        return torch.nn.functional.max_pool2d(
            operand,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=True,
        )


Operation = Affine | Activation | Total | Concatenation | MaxPool


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        operation: the operation; None for the image itself.
        inputs: numbers of the nodes whose results it takes.
        shape: shape of its result, without the batch.
    """

    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True)
class Program:
    """A network: the first node is the image, and each takes the results of earlier ones.

    Attributes:
        nodes: in the order of computation.
        output: the number of the node that computes the logits.
    """

    nodes: tuple[Node, ...]
    output: int

    def apply(self, images: Tensor) -> Tensor:
        """Compute the logits with the operations of the program, for comparison with the model's own."""
        values: list[Tensor] = [images]
        for node in self.nodes[1:]:
            operands = [values[number] for number in node.inputs]
            assert node.operation is not None
            operation = node.operation
            values.append(
                operation.function(*operands) if isinstance(operation, Activation) else operation.apply(*operands)
            )
        return values[self.output]

    def costs(self) -> list[int]:
        """Number of multiplications from the image to each node."""
        own = [_products(node) for node in self.nodes]
        before: list[frozenset[int]] = []
        for number, node in enumerate(self.nodes):
            before.append(frozenset([number]).union(*(before[one] for one in node.inputs)))
        return [sum(own[number] for number in each) for each in before]


def _products(node: Node) -> int:
    size = torch.Size(node.shape).numel()
    return size * max(1, node.operation.fan_in) if isinstance(node.operation, Affine) else size


def simplified(program: Program) -> Program:
    """The same network with scales folded into the convolutions before them, and without unused nodes."""
    nodes, output = list(program.nodes), program.output
    uses = [sum(number in node.inputs for node in nodes) for number in range(len(nodes))]
    for number, node in enumerate(nodes):
        if not isinstance(node.operation, Scale) or uses[node.inputs[0]] > 1 or node.inputs[0] == output:
            continue
        first = nodes[node.inputs[0]]
        both = folded(first.operation, node.operation) if isinstance(first.operation, Affine) else None
        if both is not None:
            nodes[number] = Node(both, first.inputs, node.shape)
    return _without_unused(Program(tuple(nodes), output))


def _without_unused(program: Program) -> Program:
    needed = {0, program.output}
    for number in range(program.output, 0, -1):
        if number in needed:
            needed.update(program.nodes[number].inputs)
    kept = sorted(needed)
    renumbered = {number: new for new, number in enumerate(kept)}
    nodes = [program.nodes[number] for number in kept]
    return Program(
        tuple(Node(node.operation, tuple(renumbered[one] for one in node.inputs), node.shape) for node in nodes),
        renumbered[program.output],
    )
