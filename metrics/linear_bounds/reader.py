"""Reads the graph of a model: computes what does not depend on the image, and looks everything else up in a table."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metrics.linear_bounds.operations import Shape
from metrics.linear_bounds.program import Node, Operation, Program

BATCH = 2
"""The model is exported with a batch of two images. A first dimension of another size shows that images are mixed."""


class Unsupported(Exception):  # noqa: N818  # a property of the model, not an error
    """Raised if there are no bounds for a model; the message gives the reason."""


class Symbol(int):
    """The number of a node: it stands for a value that depends on the image."""


class Reader:
    """Reads a graph node by node: computes what does not depend on the image, and translates the rest to operations."""

    def __init__(
        self, exported: torch.export.ExportedProgram, image: Tensor, table: Mapping[str, Callable[..., Symbol]]
    ) -> None:
        self.exported = exported
        self.table = table
        self.like = image
        self.nodes: list[Node] = [Node(None, (), tuple(image.shape))]
        self.values: dict[str, Any] = {}

    def program(self) -> Program:
        """The program of the whole graph."""
        signature, graph = self.exported.graph_signature, self.exported.graph
        constants = {**self.exported.state_dict, **self.exported.constants}
        targets = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in graph.nodes:
            if node.op == "placeholder":
                given = node.name in signature.user_inputs
                self.values[node.name] = Symbol(0) if given else constants[targets[node.name]].detach()
            elif node.op == "call_function" and node.users:  # a node without users is an assertion
                self.values[node.name] = self._value(node)
            elif node.op == "get_attr":
                self.values[node.name] = getattr(self.exported.graph_module, node.target)
        (output,) = signature.user_outputs
        result = self.values.get(output)
        if not isinstance(result, Symbol):
            raise Unsupported("the logits do not depend on the image")
        return Program(tuple(self.nodes), int(result))

    def _value(self, node: torch.fx.Node) -> Any:
        arguments = [self._resolved(argument) for argument in node.args]
        keywords = {name: self._resolved(argument) for name, argument in node.kwargs.items()}
        if not any(isinstance(value, Symbol) for value in _flat([arguments, list(keywords.values())])):
            return node.target(*arguments, **keywords)  # type: ignore[operator]  # the target of a call_function node
        if node.target is operator.getitem:
            # Of an operation with several results, only the first is known to the table.
            if arguments[1] != 0:
                raise Unsupported(f"result {arguments[1]} of {node.args[0]}")
            return arguments[0]
        name = str(node.target).removeprefix("aten.")
        found = self.table.get(name) or self.table.get(name.partition(".")[0])
        if found is None:
            raise Unsupported(f"there are no bounds for the operation {name}")
        shape = _shape(node)
        try:
            return found(self, name.partition(".")[0], shape, *arguments, **keywords)
        except (TypeError, ValueError, IndexError, AttributeError, AssertionError, RuntimeError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise Unsupported(f"there are no bounds for {name} with these arguments: {reason}") from error

    def _resolved(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.values[argument.name]
        if isinstance(argument, list | tuple):
            return [self._resolved(one) for one in argument]
        return argument

    def add(self, operation: Operation, *inputs: int, shape: Shape) -> Symbol:
        """Add a node and return its symbol."""
        self.nodes.append(Node(operation, tuple(int(number) for number in inputs), shape))
        return Symbol(len(self.nodes) - 1)

    def shape(self, symbol: int) -> Shape:
        """The shape of a node's result."""
        return self.nodes[symbol].shape

    def constant(self, value: Any) -> Tensor:
        """Convert a constant operand to a tensor with the dtype and device of the images."""
        return torch.as_tensor(value, device=self.like.device, dtype=self.like.dtype)

    def spread(self, value: Any, shape: Shape) -> Tensor:
        """Expand a constant operand of an elementwise operation to `shape`, without the batch dimension.

        Raises:
            Unsupported: if it differs between the images of a batch.
        """
        tensor = self.constant(value)
        if tensor.dim() > len(shape):
            if tensor.shape[0] not in (1, BATCH) or not (tensor == tensor[:1]).all():
                raise Unsupported("a constant differs between the images of a batch")
            tensor = tensor[0]
        return tensor.expand(shape)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _shape(node: torch.fx.Node) -> Shape:
    value = node.meta["val"]
    value = value[0] if isinstance(value, list | tuple) else value
    shape = tuple(int(size) for size in value.shape)
    if not shape or shape[0] != BATCH:
        raise Unsupported(f"{node.name} mixes the images of a batch")
    return shape[1:]
