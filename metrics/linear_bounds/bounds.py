"""Bounds of a program on balls of images: an interval of every layer, tightened by linear functions of the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.linear_bounds.activations import Activation
from metrics.linear_bounds.ball import Ball
from metrics.linear_bounds.first_layer import Slopes
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Affine, Rearranged, Scale, one_hot
from metrics.linear_bounds.program import MaxPool, Program
from metrics.linear_bounds.relaxations import Relaxation, RelaxedAffine, interval_of, relaxation_of
from metrics.linear_bounds.rounding import channel_maxima, gamma, weighted_norms


@dataclass(frozen=True)
class Bounds:
    """Bounds of a program on a ball around each of N images.

    Attributes:
        program: the network.
        ball: the images that the bounds hold for.
        intervals: the interval of the result of each node.
        relaxations: the relaxation of each node except the first.
        cost: multiplications spent on propagating rows of coefficients, for each image, shape (N,).
        exhausted: where `cost` would have exceeded the budget, shape (N,); there, the intervals of later layers are not
            tightened.
    """

    program: Program
    ball: Ball
    intervals: list[Interval]
    relaxations: list[Relaxation]
    cost: Tensor
    exhausted: Tensor

    def least(self, node: int, coefficients: Tensor, images: Tensor) -> Tensor:
        """Lower bounds of linear functions of a node's result, shape (n, R), in float64.

        Args:
            node: the number of the node.
            coefficients: shape (n, R, *shape).
            images: indices of the n images among the N, shape (n,).
        """
        return _least(self, {node: coefficients}, None, images)


def bounds_of(
    program: Program,
    ball: Ball,
    *,
    known: Sequence[Interval] | None = None,
    rows_at_once: int = 512,
    budget: Tensor | None = None,
    crown: bool = True,
) -> Bounds:
    """Bounds of every layer on a ball.

    The operand of every activation gets the tighter of its interval and its linear bounds, where that can make a
    difference.

    Args:
        program: the network.
        ball: the images that the bounds hold for.
        known: intervals of each node on larger balls around the same images.
        rows_at_once: how many rows of coefficients are propagated at once.
        budget: the most that `Bounds.cost` of an image may be, shape (N,); unlimited by default.
        crown: whether to propagate linear functions, or intervals only.
    """
    count = len(ball.images)
    cost = torch.zeros(count, dtype=torch.float64, device=ball.images.device)
    bounds = Bounds(program, ball, [ball.interval()], [], cost, torch.zeros_like(cost, dtype=torch.bool))
    costs, budget = program.costs(), torch.full_like(cost, torch.inf) if budget is None else budget
    exact = _exactly_bounded(program)
    tightened = _bounded_anew(program, exact) if crown else {}
    slopes = {0: Slopes.of_pixels(ball.images)} if ball.norm == "l2" else {}
    for number, node in enumerate(program.nodes[1:], 1):
        operands = [bounds.intervals[one] for one in node.inputs]
        assert node.operation is not None
        interval = interval_of(node.operation, operands)
        if number in exact and ball.norm == "l2":
            assert isinstance(node.operation, Affine)
            slopes[number] = slopes[node.inputs[0]].through(node.operation, operands[0])
            interval = interval.intersect(slopes[number].interval(ball))
        if known is not None:
            interval = interval.intersect(known[number])
        bounds.relaxations.append(relaxation_of(node.operation, operands))
        bounds.intervals.append(interval)
        if number in tightened:
            open_ones = torch.stack([_undecided(program, use, interval) for use in tightened[number]]).any(dim=0)
            _tighten(bounds, number, open_ones.flatten(1), costs[number], rows_at_once, budget)
    return bounds


def _exactly_bounded(program: Program) -> set[int]:
    """The nodes whose intervals are exact without linear bounds.

    These are affine operations on pixels that were only moved or rescaled, and operations that only move or rescale
    their results.
    """
    simple: set[int] = {0}
    exact: set[int] = set()
    for number, node in enumerate(program.nodes):
        if not isinstance(node.operation, Affine):
            continue
        elementwise = isinstance(node.operation, Scale) or not node.operation.fan_in
        if elementwise and node.inputs[0] in simple:
            simple.add(number)
        # A mean has weights that `Slopes` cannot square.
        averaging = isinstance(node.operation, Rearranged) and not elementwise
        if not averaging and node.inputs[0] in (simple | exact if elementwise else simple):
            exact.add(number)
    return exact


def _bounded_anew(program: Program, exact: set[int]) -> dict[int, list[int]]:
    """The nodes whose intervals linear bounds can tighten, each with the activations and max poolings that use it."""
    users: dict[int, list[int]] = {}
    for number, node in enumerate(program.nodes):
        if isinstance(node.operation, Activation | MaxPool) and node.inputs[0] not in exact | {0}:
            users.setdefault(node.inputs[0], []).append(number)
    return users


def _undecided(program: Program, user: int, interval: Interval) -> Tensor:
    operation = program.nodes[user].operation
    if isinstance(operation, Activation):
        return operation.undecided(interval)
    return torch.ones_like(interval.lower, dtype=torch.bool)


def _tighten(bounds: Bounds, number: int, undecided: Tensor, each: int, rows_at_once: int, budget: Tensor) -> None:
    """Tighten the interval of a node where it is undecided, for all images whose budget allows it."""
    wanted = 2.0 * undecided.sum(dim=1) * each
    affordable = ~bounds.exhausted & (bounds.cost + wanted <= budget)
    bounds.exhausted.logical_or_(~affordable)
    bounds.cost.add_(torch.where(affordable, wanted, 0))
    lower, upper = (end.flatten(1).clone() for end in bounds.intervals[number])
    for images, positions in _waves(undecided & affordable[:, None], max(1, rows_at_once // 2)):
        signs = torch.ones_like(positions, dtype=lower.dtype)
        least = _least_of_values(bounds, number, positions.repeat(1, 2), torch.cat([signs, -signs], dim=1), images)
        low, high = least.split(positions.shape[1], dim=1)
        at = (images[:, None], positions)
        lower[at] = torch.maximum(lower[at], _rounded(low, lower.dtype, down=True))
        upper[at] = torch.minimum(upper[at], _rounded(-high, upper.dtype, down=False))
    shape = bounds.intervals[number].lower.shape
    tighter = Interval(lower.view(shape), upper.view(shape))
    bounds.intervals[number] = tighter.intersect(tighter)


def _rounded(values: Tensor, dtype: torch.dtype, *, down: bool) -> Tensor:
    """Convert to a coarser type, rounding outwards."""
    limit = torch.full((), -torch.inf if down else torch.inf, dtype=dtype, device=values.device)
    return torch.nextafter(values.to(dtype), limit)


def _waves(chosen: Tensor, rows_at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images (n,) and positions (n, R) that together cover all `chosen` positions, shape (N, size).

    Images with fewer positions than others drop out earlier. A row that is too short repeats its last position.
    """
    lists = chosen.nonzero()[:, 1].split(chosen.sum(dim=1).tolist())
    begun = [0] * len(lists)
    while True:
        left = [image for image, one in enumerate(lists) if begun[image] < len(one)]
        if not left:
            return
        left = left[:rows_at_once]
        width = min(max(1, rows_at_once // len(left)), max(len(lists[image]) - begun[image] for image in left))
        parts = []
        for image in left:
            part = lists[image][begun[image] : begun[image] + width]
            begun[image] += width
            parts.append(torch.cat([part, part[-1:].expand(width - len(part))]))
        yield torch.tensor(left, device=chosen.device), torch.stack(parts)


def _least_of_values(bounds: Bounds, number: int, positions: Tensor, signs: Tensor, images: Tensor) -> Tensor:
    """Lower bounds of some values of a node, each times its sign. Positions and signs have the shape (n, R)."""
    node, relaxation = bounds.program.nodes[number], bounds.relaxations[number - 1]
    if isinstance(relaxation, RelaxedAffine):
        coefficients, constant = relaxation.rows(positions, signs, images)
        return _least(bounds, {node.inputs[0]: coefficients}, constant, images)
    picked = one_hot(positions.flatten(), signs.flatten(), node.shape).unflatten(0, positions.shape)
    return _least(bounds, {number: picked}, None, images)


def _least(bounds: Bounds, coefficients: dict[int, Tensor], constant: Tensor | None, images: Tensor) -> Tensor:
    """Propagate coefficients of some nodes back to the image, and bound the result on the ball from below."""
    total = 0 if constant is None else constant
    for number in range(max(coefficients), 0, -1):
        if number not in coefficients:
            continue
        operands, added = bounds.relaxations[number - 1].backward(coefficients.pop(number), images)
        total = total if added is None else total + added
        for one, operand in zip(bounds.program.nodes[number].inputs, operands, strict=True):
            if one not in coefficients:
                coefficients[one] = operand
                continue
            coefficients[one] = coefficients[one] + operand
            magnitudes = channel_maxima(bounds.intervals[one].rows(images).magnitude())
            total = total - gamma(1, operand.dtype) * weighted_norms(coefficients[one], magnitudes)
    return bounds.ball.rows(images).least(coefficients[0]) + total


def least_margins(bounds: Bounds, labels: Tensor, *, linear: bool = True) -> Tensor:
    """Lower bounds of logit[label] - logit[target] on the ball for all other classes, shape (N, K - 1), in float64.

    Args:
        bounds: bounds of the network.
        labels: shape (N,).
        linear: whether to propagate linear functions and take the better bound, or use the logits' intervals only.
    """
    output = bounds.program.output
    lower, upper = bounds.intervals[output]
    (classes,) = bounds.program.nodes[output].shape
    images = torch.arange(len(labels), device=labels.device)
    eye = torch.eye(classes, dtype=bounds.ball.images.dtype, device=labels.device)
    targets = torch.stack([torch.cat([eye[:label], eye[label + 1 :]]) for label in labels.tolist()])
    others = targets.argmax(dim=2)
    by_interval = lower.gather(1, labels[:, None]).double() - upper.gather(1, others).double()
    if not linear:
        return by_interval
    return torch.maximum(bounds.least(output, eye[labels][:, None] - targets, images), by_interval)
