"""Norms, projections, and samples that are uniform in a ball."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metrics.norms import DUAL, length, project, steepest, uniform_in_ball

vectors = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(lambda v: torch.tensor([v]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(left=vectors, right=vectors)
def test_dual_norm_bounds_the_inner_product(norm, left, right):
    inner = float((left.double() * right.double()).sum().abs())
    bound = float(length(left.double(), norm) * length(right.double(), DUAL[norm]))
    assert inner <= bound * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(gradient=vectors)
def test_steepest_direction_reaches_the_dual_norm(norm, gradient):
    step = steepest(gradient, norm)
    assert float((step * gradient).sum()) == pytest.approx(float(length(gradient, DUAL[norm])), rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(point=vectors, radius=st.floats(0.01, 5))
def test_projection_is_in_the_ball_and_nearest(norm, point, radius):
    projected = project(point, norm, torch.tensor([radius]))
    assert float(length(projected, norm)) <= radius * (1 + 1e-5)
    # No point of the ball is nearer: tried with random ones.
    others = radius * uniform_in_ball(200, (3,), norm, torch.Generator().manual_seed(0))
    assert float(length(point - projected, "l2")) <= float(length(point - others, "l2").min()) * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_samples_are_uniform_in_the_ball(norm, size):
    points = uniform_in_ball(4000, (size,), norm, torch.Generator().manual_seed(1))
    # Uniform in a ball of d dimensions: the d-th power of the norm is uniform on [0, 1].
    powers = length(points.double(), norm) ** size
    assert stats.kstest(powers.numpy(), "uniform").pvalue > 1e-3
    # And no direction is preferred: every coordinate is symmetric about 0, and all alike.
    assert points.mean(dim=0).abs().max() < 5 * points.std() / math.sqrt(len(points))
    if size > 1:
        assert stats.ks_2samp(points[:, 0].numpy(), points[:, -1].numpy()).pvalue > 1e-3


def test_coordinates_of_l1_samples_have_their_exact_law():
    # In two dimensions the L1 ball is a rotated square: x + y and x - y are independent and uniform on [-1, 1].
    points = uniform_in_ball(4000, (2,), "l1", torch.Generator().manual_seed(2))
    for turned in (points.sum(dim=1), points[:, 0] - points[:, 1]):
        assert stats.kstest(turned.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="got norm='l7'"):
        uniform_in_ball(1, (2,), "l7", torch.Generator())
