"""Bounds of a network's logits on a ball of images: intervals, and linear functions propagated backwards.

CROWN (Zhang et al. 2018, "Efficient Neural Network Robustness Certification with General Activation Functions",
https://arxiv.org/abs/1811.00866) on the graph that `torch.export` makes of a model. The bounds are sound in floating
point: they include the rounding errors of the bounds and of the model itself (`metrics.linear_bounds.rounding`).
"""

from metrics.linear_bounds.ball import Ball
from metrics.linear_bounds.bounds import Bounds, bounds_of, least_margins
from metrics.linear_bounds.export import program_of
from metrics.linear_bounds.program import Node, Program
from metrics.linear_bounds.reader import Unsupported

__all__ = ["Ball", "Bounds", "Node", "Program", "Unsupported", "bounds_of", "least_margins", "program_of"]
