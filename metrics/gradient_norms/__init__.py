"""Norms of margin gradients at random points around images: the samples behind CLEVER scores."""

from metrics.gradient_norms.samples import GradientNorms
from metrics.gradient_norms.sampling import SAMPLINGS, Sampling
from metrics.gradient_norms.targets import TARGETS, Targets, checked_targets, chosen_targets

__all__ = ["SAMPLINGS", "TARGETS", "GradientNorms", "Sampling", "Targets", "checked_targets", "chosen_targets"]
