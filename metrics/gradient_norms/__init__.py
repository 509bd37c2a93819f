"""Norms of margin gradients at random points around images: what CLEVER is estimated from."""

from metrics.gradient_norms.laws import LAWS, Law
from metrics.gradient_norms.samples import GradientNorms
from metrics.gradient_norms.targets import TARGETS, Targets, checked_targets, chosen_targets

__all__ = ["LAWS", "TARGETS", "GradientNorms", "Law", "Targets", "checked_targets", "chosen_targets"]
